"""The aggregate posterior q(z) = 1/N sum_j q(z|x_j), by all pairs of a sample and an image.

Shapes: N images in parts of B; K samples an image, M = K N, where sample m belongs to image m mod N; D latents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.core import Site, is_diagonal_gaussian
from vae_lightning.metrics.estimators.joint import Joint

PAIRS = 2**18  # of a sample and a Gaussian posterior in one dimension at a time: few enough for the caches
PAIR_VALUES = 2**18  # of pairs in all dimensions at a time, where the posterior is another
TOLD_VALUES = 2**22  # of images and latents in the pairs for which a story is told at a time
NEGLIGIBLE = 80.0  # nats below a sum's largest term: smaller terms would be float32's denormal numbers, which are slow

Aggregate = tuple[Tensor, Tensor, Tensor | None]
"""log q(z_m|x_m), log q(z_m) and, if all posteriors are diagonal Gaussians, sum_d log q_d(z_md), each (M,) float64."""


def log_prior(site: Site) -> Tensor:
    """log p(z) of a site, (K, B) float64 on the CPU, summed over its factors where it has them."""
    factors = _factors(site.p)
    log_p = site.p.log_prob(site.z).unsqueeze(-1) if factors is None else factors.log_prob(site.z)
    return log_p.cpu().double().sum(-1)


def log_aggregate(drawn: Sequence[Mapping[str, Site]]) -> Aggregate:
    """Of a single latent, whose posteriors are the same whatever was sampled.

    Args:
        drawn: of each part of the images its site, with K samples an image.
    """
    sites = [site for part in drawn for site in part.values()]
    return _log_aggregate([site.q for site in sites], torch.cat([site.z for site in sites], 1).flatten(0, 1))


def log_aggregate_of_several(joints: Sequence[Joint], drawn: Sequence[Mapping[str, Site]]) -> Aggregate:
    """Of several latents, by the story told about each image with each sample in it: see `decompose_rate`.

    Args:
        joints: of each part of the images.
        drawn: of each part the sites, with K samples an image.
    """
    z = torch.cat([_flat(joint, sites, "z") for joint, sites in zip(joints, drawn, strict=True)], 1).flatten(0, 1)
    columns = []
    for joint in joints:
        images = len(joint.image)
        at_once = max(1, TOLD_VALUES // (images * (joint.image[0].numel() + joint.size)))
        pairs = [joint.log_q(some[:, None].expand(-1, images, -1)) for some in z.split(at_once)]
        columns.append(torch.cat(pairs).cpu().double())
    log_pairs = torch.cat(columns, 1)  # (M, N)
    own = torch.arange(len(z)) % log_pairs.shape[1]
    log_own, log_q = log_pairs.gather(1, own[:, None])[:, 0], log_pairs.logsumexp(1) - math.log(log_pairs.shape[1])
    if not all(is_diagonal_gaussian(site.q) for sites in drawn for site in sites.values()):
        return log_own, log_q, None
    loc, scale = (
        torch.cat([_flat(joint, sites, what) for joint, sites in zip(joints, drawn, strict=True)], 1).flatten(0, 1)
        for what in ("mean", "stddev")
    )
    mixture = [Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)]
    log_sums = torch.cat([sums.cpu().double() for _, sums in _gaussian_pairs(mixture, z)])
    return log_own, log_q, (log_sums - math.log(len(z))).sum(1)


def _flat(joint: Joint, sites: Mapping[str, Site], what: str) -> Tensor:
    """The samples, or the posteriors' means or standard deviations, of all sites side by side, (K, B, D)."""
    values = {n: site.z if what == "z" else getattr(site.q, what).expand_as(site.z) for n, site in sites.items()}
    return joint.join(values)


def _log_aggregate(posteriors: Sequence[Distribution], z: Tensor) -> Aggregate:
    """Of samples (M, *event)."""
    gaussian = all(type(_factors(q)) is Normal for q in posteriors)
    log_n, parts, start = math.log(sum(q.batch_shape[0] for q in posteriors)), [], 0
    for pairs, log_sums in (_gaussian_pairs if gaussian else _any_pairs)(posteriors, z):
        log_pairs = pairs.cpu().double()
        own = torch.arange(start, start := start + len(log_pairs)) % log_pairs.shape[1]
        log_own = log_pairs.gather(1, own[:, None])[:, 0]
        log_q, log_product = log_pairs.logsumexp(1) - log_n, (log_sums.cpu().double() - log_n).sum(1)
        parts.append(torch.stack([log_own, log_q, log_product], 1))
    log_own, log_q, log_product = torch.cat(parts).unbind(1)
    return log_own, log_q, log_product if gaussian else None


def _gaussian_pairs(posteriors: Sequence[Distribution], z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """log q(z_m|x_n), (b, N), and log sum_n q_d(z_md|x_n), (b, d), for b samples at a time, one dimension at a time."""
    mu, scale = (torch.cat([getattr(q, name) for q in posteriors]).T.contiguous() for name in ("mean", "stddev"))
    factor, constant = 1 / (scale * math.sqrt(2)), -scale.log() - math.log(2 * math.pi) / 2
    for some in z.split(max(1, PAIRS // mu.shape[1])):
        log_pairs, log_sums = mu.new_zeros(len(some), mu.shape[1]), torch.empty_like(some)
        for d in range(len(mu)):
            deviation = torch.sub(some[:, d, None], mu[d]).mul_(factor[d])
            log_q = torch.addcmul(constant[d], deviation, deviation, value=-1)
            log_pairs += log_q
            top = log_q.amax(1, keepdim=True)
            log_sums[:, d] = log_q.sub_(top).clamp_min_(-NEGLIGIBLE).exp_().sum(1).log_() + top.squeeze(1)
        yield log_pairs, log_sums


def _any_pairs(posteriors: Sequence[Distribution], z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """log q(z_m|x_n), (b, N), for b samples at a time, by the posteriors' own log_prob, and nothing, (b, 0)."""
    for some in z.split(max(1, PAIR_VALUES // (max(q.batch_shape[0] for q in posteriors) * z[0].numel()))):
        each = [q.log_prob(some.unsqueeze(1).expand(-1, *q.batch_shape, *q.event_shape)) for q in posteriors]
        yield torch.cat(each, 1), z.new_empty(len(some), 0)


def _factors(p: Distribution) -> Distribution | None:
    """The independent factors of a density of vectors, batch_shape (*S, d), where it has them."""
    return p.base_dist if isinstance(p, Independent) and p.reinterpreted_batch_ndims == 1 else None
