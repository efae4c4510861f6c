"""Why a bound is loose (Cremer et al. 2018), and log p(x) by plain Monte Carlo from the prior, which shows why nobody
estimates it so. Shapes: B images, K samples an image; latents (K, B, d)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from vae_lightning.core import Batch, LatentModel, image_of, rows, seeded, traced
from vae_lightning.metrics.estimators.refinement import Bounds, Gaussians, refined
from vae_lightning.metrics.estimators.tiles import tile_size

OF_THE_BOUND = 100
"""Samples that the encoder's ELBO is by in a gap, where log p(x) is by others."""


class InferenceGap(NamedTuple):
    """Nats, (B,): log p(x) = elbo + amortisation + approximation, the last two being differences of the others."""

    elbo: Tensor  # of the encoder's q(z|x), of several latents each given those before it
    best_elbo: (
        Tensor  # of the best diagonal Gaussian over all latents for this image, or the encoder's if that is higher
    )
    amortisation: Tensor  # what the encoder loses to that, at least 0
    approximation: Tensor  # what the family loses, the least KL(q || p(z|x)); below 0 only by noise


@torch.no_grad()
def inference_gap(
    model: LatentModel,
    given: Batch,
    log_prob: Tensor,
    num_samples: int = 1000,
    steps: int = 300,
    lr: float = 0.02,
    step_samples: int = 8,
    seed: int = 0,
) -> InferenceGap:
    """The two parts of log p(x) - ELBO of each image, by the best Gaussian that `refined` finds. Both bounds are means
    over the same noise, and the encoder's is the best where the search found no better, as it may be where several
    latents hang together under it, which under the Gaussian they cannot.

    Args:
        model: in evaluation mode, of latents whose posteriors are diagonal Gaussians.
        given: a batch with "image" (B, C, H, W), integers.
        log_prob: log p(x) of these images, (B,), such as annealed_log_prob's.
        num_samples: K of both bounds.
        steps: of the search.
        lr: its first learning rate: a mean can move by steps lr / 2.
        step_samples: samples an image in each step.
        seed: of the samples; torch's own generator is left as it is.

    Raises:
        ValueError: a count below 1, log_prob of another shape, inference mode, or another posterior.
    """
    image = image_of(given)
    if num_samples < 1:
        raise ValueError(f"num_samples: expected at least 1, got {num_samples}.")
    if log_prob.shape != image.shape[:1]:
        raise ValueError(f"log_prob: expected one value an image, {len(image)}, got shape {tuple(log_prob.shape)}.")
    best = refined(model, given, steps, lr, step_samples, seed)
    at_once, found = max(1, tile_size(model, given) // 4), []
    with seeded(seed + 1, image.device):
        for i in range(0, len(image), at_once):
            images = slice(i, i + at_once)
            bounds, sums, own = Bounds(model, rows(given, images)), [], (best.mean[images], best.scale[images])
            count = max(1, at_once // len(bounds.q[0]))
            for done in range(0, num_samples, count):
                noise = torch.randn(min(count, num_samples - done), *bounds.q[0].shape).to(bounds.q[0])
                weights = bounds.encoders_log_weight(noise), bounds.log_weight(own, noise)
                sums.append(torch.stack([weight.sum(0) for weight in weights]))
            found.append(torch.stack(sums).sum(0) / num_samples)
    elbo, at_end = torch.cat(found, 1)
    best_elbo = torch.fmax(elbo, at_end)  # also where the search diverged
    return InferenceGap(elbo, best_elbo, best_elbo - elbo, log_prob - best_elbo)


@torch.no_grad()
def bound_beside(near: Gaussians, model: LatentModel, given: Batch, num_samples: int) -> Tensor:
    """The encoder's ELBO of each image, nats, (B,), without bias and with little noise where other Gaussians are near
    to p(z|x): log p(x, z) - log q(z|x) then goes up and down with z as log near(z) - log q(z|x) does, whose mean over
    the encoder's samples is known, -KL(q || near). What the samples say of that is taken off (a control variate).

    Args:
        near: such as `refined` finds.
        model: in evaluation mode.
        given: a batch with "image" (B, C, H, W), integers.
        num_samples: of the encoder's posterior, an image.
    """
    tile, found = tile_size(model, given), []
    for i in range(0, len(image_of(given)), at_once := max(1, tile // num_samples)):
        images = slice(i, i + at_once)
        part, others = rows(given, images), near.posteriors(images)
        story, total = model.about(part), torch.zeros((), dtype=torch.float64, device=near.mean.device)
        for done in range(0, num_samples, tile):
            trace = traced(story, image_of(part), min(tile, num_samples - done))
            weight = trace.log_weight().double()
            for name, site in trace.sites.items():
                other = others[name]
                said = other.log_prob(site.z) - site.q.log_prob(site.z)
                weight = weight - (said + kl_divergence(site.q, other)).double()
            total = total + weight.sum(0)
        found.append(total / num_samples)
    return torch.cat(found)


@torch.no_grad()
def prior_log_prob(model: LatentModel, given: Batch, num_samples: int, tile: int | None = None) -> Tensor:
    """log (1/K sum_k p(x|z_k)), z_k ~ p(z), nats, (B,): meets log p(x) as K grows, but lies far below it (Jensen) at
    any feasible K, since of K latents hardly one is an image's. Without
    labels the same K serve all images: their errors go together.

    Args:
        model: in evaluation mode.
        given: a batch with "image" (B, C, H, W), integers.
        num_samples: K, any, also more than fits into memory at once.
        tile: how many image-samples are weighed at a time; null lets `tile_size` decide.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples: expected at least 1, got {num_samples}.")
    image = image_of(given)
    tile = tile or tile_size(model, given)
    at_once = max(1, tile // min(len(image), math.isqrt(tile)))
    total = image.new_full((len(image),), -torch.inf, dtype=torch.float64)
    for done in range(0, num_samples, at_once):
        count = min(at_once, num_samples - done)
        size = max(1, tile // count)
        parts = (rows(given, slice(i, i + size)) for i in range(0, len(image), size))
        if model.is_conditional:  # each image's labels have a prior of their own
            found = [model.sample(part, count).log_prob(image_of(part)).double().logsumexp(0) for part in parts]
        else:
            px = model.sample({}, count)
            found = [px.log_prob(image_of(part)[:, None]).double().logsumexp(1) for part in parts]
        total = torch.logaddexp(total, torch.cat(found))
    return total - math.log(num_samples)
