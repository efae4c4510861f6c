"""What the latents know of the images: the parts of the rate, the units in use, and whether the decoder listens.

Legend of shapes: N images, which come in chunks (B, C, H, W) of integers; K samples an image, M = K N; d latents.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.core import Batch, Given, LatentModel, rows, without_image
from vae_lightning.metrics.mean import mean_error

MeanError = tuple[float, float]  # mean over images and its standard error, nats per image
IMAGE_VALUES = 2**17  # of the images encoded and decoded at a time
PAIRS = 2**18  # of a sample and a Gaussian posterior in one dimension at a time: few enough for the caches
PAIR_VALUES = 2**18  # of pairs in all dimensions at a time, where the posterior is another
NEGLIGIBLE = 80.0  # nats below a sum's largest term: smaller terms would be float32's denormal numbers, which are slow
CARRIED = 0.01  # nats of rate below which a latent carries nothing
IGNORED = 0.1  # nats an image below which the decoder takes latents of another image as well


class Rate(NamedTuple):
    """E KL(q(z|x) || p(z)) and its parts: rate = mutual_information + prior_hole, and prior_hole = total_correlation +
    dimension_wise_kl, to rounding. The errors take the aggregate posterior as given."""

    rate: MeanError
    mutual_information: MeanError
    prior_hole: MeanError
    total_correlation: MeanError | None = None
    dimension_wise_kl: MeanError | None = None


def decompose_rate_by_class(model: LatentModel, batches: Iterable[Batch], max_images: int = 10_000) -> Rate:
    """`decompose_rate` of a prior p(z|y), within each class and then averaged over the images: the mutual information
    of image and latent is that given the class, at most the log of the class's images, and the hole the one between
    each class's aggregate posterior and its own prior. Batches hold "label" (B,)."""
    held = list(_batches(model, batches, max_images))
    labels = torch.cat([batch["label"] for batch in held])
    weights, parts = list[float](), list[Rate]()
    for label in labels.unique():
        of_class = [rows(batch, batch["label"] == label) for batch in held]
        parts.append(decompose_rate(model, [batch for batch in of_class if len(batch["image"])]))
        weights.append((labels == label).double().mean().item())

    def mean(found: tuple[MeanError | None, ...]) -> MeanError | None:
        known = [(w, *value) for w, value in zip(weights, found, strict=True) if value is not None]
        if len(known) < len(found):
            return None
        error = math.sqrt(sum((w * e) ** 2 for w, _, e in known if math.isfinite(e)))  # nan for a class of one image
        return sum(w * m for w, m, _ in known), error

    return Rate(*(mean(found) for found in zip(*parts, strict=True)))  # type: ignore[arg-type]


@torch.no_grad()
def decompose_rate(
    model: LatentModel, batches: Iterable[Batch], samples_per_image: int = 1, max_images: int = 10_000
) -> Rate:
    """The rate by samples z ~ q(z|x), and its parts by the aggregate posterior q(z) = 1/N sum_j q(z|x_j), nats:

    - mutual information I(x; z) = E[log q(z|x) - log q(z)], at most log N (Hoffman & Johnson 2016),
    - prior hole KL(q(z) || p(z)) = E[log q(z) - log p(z)], and of it, where the posterior is a diagonal Gaussian and
      the prior factorises (else None; Chen et al. 2018, eq. 2),
    - total correlation E[log q(z) - sum_d log q_d(z_d)],
    - dimension-wise KL sum_d E[log q_d(z_d) - log p_d(z_d)].

    All pairs of a sample and an image enter, own ones too: with more images the information grows (near log N it tells
    of N alone) and the hole shrinks. Raises ValueError without images or samples, for a posterior that is a point mass
    and for several latent sites.

    Args:
        model: in evaluation mode.
        batches: of images, with what else is given of them.
        samples_per_image: K.
        max_images: N at most, the first of them.
    """
    if min(samples_per_image, max_images) < 1:
        raise ValueError(f"expected 1 or more samples_per_image and max_images, got {samples_per_image}, {max_images}.")
    posteriors, samples, log_priors = list[Distribution](), list[Tensor](), list[Tensor]()
    factors: Distribution | None = None
    for batch in _batches(model, batches, max_images):
        trace = model.trace(batch)
        if not trace.has_rate or len(trace.sites) != 1:
            raise ValueError(
                "decompose_rate: expected one latent site whose posterior has a density, got "
                f"{[type(site.q).__name__ for site in trace.sites.values()]}: choose the encoder GaussianPosterior."
            )
        (site,) = trace.sites.values()
        z, factors = site.q.sample((samples_per_image,)), _factors(site.p)
        posteriors.append(site.q)
        samples.append(z)
        log_prior = site.p.log_prob(z).unsqueeze(-1) if factors is None else factors.log_prob(z)
        log_priors.append(log_prior.cpu().double().sum(-1))  # (K, B)
    _require(len(posteriors), 1)
    log_p = torch.cat(log_priors, 1).flatten()
    log_own, log_q, log_product = _log_aggregate(posteriors, torch.cat(samples, 1).flatten(0, 1))
    differences = [log_own - log_p, log_own - log_q, log_q - log_p]
    if log_product is not None and factors is not None:
        differences += [log_q - log_product, log_product - log_p]
    return Rate(*(mean_error(difference.view(samples_per_image, -1).mean(0)) for difference in differences))


def active_units(means: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latents move with the image, bool (d,): the posterior's mean, (N, d), has a variance over all images above
    the threshold (Burda et al. 2016, section 5.2)."""
    return means.var(0, correction=0) > threshold


@torch.no_grad()
def shuffled_distortion(model: LatentModel, batches: Iterable[Batch]) -> tuple[MeanError, MeanError]:
    """-log p(x|z), nats per image, with z ~ q(z|x) of the image itself, and with the z of the image before it (for the
    first, of the last): the same where the decoder does not use z. Mix images whose neighbours are alike. The second
    error knows that each image stands in two terms, in one as the image and in the next by its latents. The model is in
    evaluation mode; the images come in chunks, and fewer than two in all raise ValueError."""
    matched, shuffled, first, last = list[Tensor](), list[Tensor](), dict[str, Tensor](), dict[str, Tensor]()
    for batch in _batches(model, batches):
        trace = model.trace(batch)
        matched.append(-trace.log_likelihood())
        if not last:
            first, batch = rows(batch, slice(0, 1)), rows(batch, slice(1, None))
        before = {s.name: torch.cat([last.get(s.name, s.z[:0]), s.z[:-1]]) for s in trace.sites.values()}
        if len(batch["image"]):
            shuffled.append(-model(Given(before), without_image(batch)).log_prob(batch["image"]))
        last = {site.name: site.z[-1:] for site in trace.sites.values()}
    _require(sum(map(len, matched)), 2)
    shuffled.append(-model(Given(last), without_image(first)).log_prob(first["image"]))
    terms = torch.cat(shuffled).double()
    mean, error = mean_error(terms)
    shared = ((terms - mean) * (terms.roll(1) - mean)).mean().clamp_min(0).item()  # covariance of a term and the next
    return mean_error(torch.cat(matched)), (mean, math.sqrt(error**2 + 2 * shared / len(terms)))


def diagnose(rate_per_latent: Tensor, active: Tensor, matched: float, shuffled: float) -> str:
    """Whether the posterior has collapsed to the prior, and the setting to change, in a sentence.

    Args:
        rate_per_latent: mean over images of KL(q(z_d|x) || p(z_d)), nats, (d,).
        active: `active_units`, (d,).
        matched, shuffled: the means of `shuffled_distortion`, nats.
    """
    carry = active & (rate_per_latent > CARRIED)
    used, size, cost = int(carry.sum()), len(carry), shuffled - matched
    nats = f"{rate_per_latent[carry].sum():.1f} of {rate_per_latent.sum():.1f} nats"
    effect = "as well as its own" if cost < IGNORED else f"{cost:.1f} nats worse than its own"
    found = f"{used} of {size} latents carry information ({nats}), and those of another image decode it {effect}"
    more = "lower the KL's weight or warm it up longer (--model.objective.beta), set --model.objective.free_bits 0.1"
    if cost < IGNORED:
        return f"Full collapse: {found}; {more}, or take a weaker decoder."
    if used == size:
        return f"No collapse: {found}."
    fewer = f"or do with a smaller --model.latent_model.latent_size ({used})" if 0 < used <= size / 2 else ""
    return f"Partial collapse: {found}; to use more, {more}, {fewer or 'or take a weaker decoder'}."


def _log_aggregate(posteriors: Sequence[Distribution], z: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """log q(z_m|x_m), log q(z_m) and, if all posteriors are diagonal Gaussians, sum_d log q_d(z_md), each (M,) float64,
    of samples (M, *event), where m belongs to image m mod N."""
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


def _batches(model: LatentModel, batches: Iterable[Batch], at_most: int = sys.maxsize) -> Iterator[Batch]:
    """The first images, where and as the model takes them, a few at a time."""
    like = next(itertools.chain(model.parameters(), model.buffers()), torch.empty(0))
    for batch in batches:
        image = batch["image"]
        step = max(1, IMAGE_VALUES // max(1, image[:1].numel()))
        for start in range(0, min(len(image), at_most), step):
            part = rows(batch, slice(start, min(start + step, at_most)))
            yield {**{name: value.to(like.device) for name, value in part.items()}, "image": part["image"].to(like)}
        if (at_most := at_most - len(image)) <= 0:
            return


def _require(count: int, needed: int) -> None:
    if count < needed:
        raise ValueError(f"images: expected at least {needed}, got {count}: pass chunks of a larger split.")


def _factors(p: Distribution) -> Distribution | None:
    """The independent factors of a density of vectors, batch_shape (*S, d), where it has them."""
    return p.base_dist if isinstance(p, Independent) and p.reinterpreted_batch_ndims == 1 else None
