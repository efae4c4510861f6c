"""What the latents know of the images: the parts of the rate, the units in use, and whether the decoder listens.

Legend of shapes: N images, which come in chunks (B, C, H, W) of integers; K samples an image, M = K N; d latents.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.core import Batch, Given, LatentModel, Site
from vae_lightning.metrics.mean import MeanWithError

MeanError = tuple[float, float]
"""Mean over images and its standard error."""

IMAGE_VALUES = 2**17
"""Image values encoded and decoded at a time."""
PAIRS = 2**18
"""Pairs of a sample and a posterior at a time, in one dimension: few enough for the caches."""
PAIR_VALUES = 2**22
"""Values of pairs at a time, all dimensions together, where the posterior is no diagonal Gaussian."""
NEGLIGIBLE = 80
"""Nats below the largest term at which a term is left out of a sum: slow denormal numbers otherwise."""
CARRIED = 0.01
"""Nats of rate below which a latent is its prior."""
IGNORED = 0.1
"""Nats an image below which the decoder does not mind latents of another image."""


class Rate(NamedTuple):
    """E KL(q(z|x) || p(z)) and its parts, nats per image, each the mean over images with its standard error.

    rate = mutual_information + prior_hole and prior_hole = total_correlation + dimension_wise_kl, to rounding. The
    errors take the aggregate posterior as given. A mutual information near log N, its bound, tells of N alone.
    """

    rate: MeanError
    mutual_information: MeanError
    prior_hole: MeanError
    total_correlation: MeanError | None
    dimension_wise_kl: MeanError | None


@torch.no_grad()
def decompose_rate(
    model: LatentModel, images: Iterable[Tensor], samples_per_image: int = 1, max_images: int = 10_000
) -> Rate:
    """The rate by samples z ~ q(z|x), and its parts by the aggregate posterior q(z) = 1/N sum_j q(z|x_j) of N images:

    - mutual information I(x; z) = E[log q(z|x) - log q(z)] (Hoffman & Johnson 2016),
    - prior hole KL(q(z) || p(z)) = E[log q(z) - log p(z)], and of it, where the posterior is a diagonal Gaussian and
      the prior factorises (else None; Chen et al. 2018, eq. 2),
    - total correlation E[log q(z) - sum_d log q_d(z_d)],
    - dimension-wise KL sum_d E[log q_d(z_d) - log p_d(z_d)].

    All pairs of a sample and an image enter, its own too, a few at a time: these are the parts for these N images, of
    which more would have a larger mutual information and a smaller hole.

    Args:
        model: in evaluation mode, with one latent site.
        images: chunks of images.
        samples_per_image: K.
        max_images: N at most, the first of them.

    Raises:
        ValueError: no image or no sample, a posterior that is a point mass, or several latent sites.
    """
    if samples_per_image < 1:
        raise ValueError(f"samples_per_image: expected at least 1, got {samples_per_image}.")
    posteriors, samples, log_priors = list[Distribution](), list[Tensor](), list[Tensor]()
    for batch in _batches(model, images, max_images):
        site = _only_site(model, batch)
        z = site.q.sample((samples_per_image,))  # (K, B, *event)
        prior = site.p.base_dist if _has_factors(site.p) else site.p
        posteriors.append(site.q)
        samples.append(z)
        log_priors.append(prior.log_prob(z).cpu().double())  # (K, B, d) of factors, else (K, B)
    _require_images(len(posteriors), 1)
    log_prior = torch.cat(log_priors, 1).flatten(0, 1)  # (M, d) or (M,)
    log_p = log_prior.sum(1) if log_prior.dim() == 2 else log_prior
    log_own, log_q, log_factors = _log_aggregate(posteriors, torch.cat(samples, 1).flatten(0, 1))

    def over_images(value: Tensor) -> MeanError:
        return _mean_error(value.view(samples_per_image, -1).mean(0))

    log_product = log_factors.sum(1) if log_factors is not None and log_prior.dim() == 2 else None
    return Rate(
        rate=over_images(log_own - log_p),
        mutual_information=over_images(log_own - log_q),
        prior_hole=over_images(log_q - log_p),
        total_correlation=None if log_product is None else over_images(log_q - log_product),
        dimension_wise_kl=None if log_product is None else over_images(log_product - log_p),
    )


def active_units(means: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latents move with the image: the variance over images of the posterior's mean is above the threshold, bool
    (d,) (Burda et al. 2016, section 5.2).

    Args:
        means: posterior means of all images, (N, d).
        threshold: a variance.
    """
    return means.var(0, correction=0) > threshold


@torch.no_grad()
def shuffled_distortion(model: LatentModel, images: Iterable[Tensor]) -> tuple[MeanError, MeanError]:
    """-log p(x|z), nats per image, with z ~ q(z|x) of the image itself, and with that of the image before it (for the
    first, of the last): equal where the decoder does not use z. Images in an order, such as by class, have neighbours
    alike: mix them first.

    Args:
        model: in evaluation mode.
        images: chunks of images, two or more in all.

    Raises:
        ValueError: fewer than two images.
    """
    matched, shuffled, first, before = [], [], None, dict[str, Tensor]()
    for batch in _batches(model, images):
        batch = model.encoded(batch)
        trace = model.trace(batch)
        matched.append(-trace.log_likelihood(batch["image"]))
        z = {site.name: site.z for site in trace.sites}
        if first is None:
            first = batch["image"][:1]
            before = {name: value[:0] for name, value in z.items()}
        given = {name: torch.cat([before[name], value])[: -1] for name, value in z.items()}
        ...
