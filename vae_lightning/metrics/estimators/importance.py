"""log p(x) by importance sampling from the posterior."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning.core import Batch, LatentModel, image_of, rows, traced
from vae_lightning.metrics.estimators.pareto import keep_largest, pareto_shape, tail_length
from vae_lightning.metrics.estimators.refinement import Gaussians
from vae_lightning.metrics.estimators.tiles import tile_size


class Importance(NamedTuple):
    """What importance sampling found for each of several K, (len(ks), B).

    log_prob: log (1/K sum_k w_k), nats. effective: the effective sample size (sum w)^2 / sum w^2, between 1 and K.
    bound: 1/K sum_k log w_k, nats: what the same samples say of the ELBO of the density they were drawn from, never
    above log_prob (Jensen), so that their difference is the gap without the samples' common noise.
    largest: the largest log weights of the largest K, in no order, (M + 1, B).
    """

    log_prob: Tensor
    effective: Tensor
    bound: Tensor
    largest: Tensor

    def variance(self, ks: Sequence[int]) -> Tensor:
        """Variance of log_prob over the samples' noise by the delta method, 1/effective - 1/K, (len(ks), B); half of
        it is how far log_prob lies below log p(x) on average. Both far too small where the weights have no variance,
        as `pareto_k` tells."""
        k = torch.tensor(ks, dtype=self.effective.dtype, device=self.effective.device)
        return (1 / self.effective - 1 / k[:, None]).clamp_min(0)

    def pareto_k(self) -> Tensor:
        """Shape of the weights' tail at the largest K, (B,): see `pareto_shape`."""
        return pareto_shape(self.largest)


def log_prob(
    model: LatentModel, given: Batch, num_samples: int, tile: int | None = None, proposal: Gaussians | None = None
) -> Tensor:
    """log (1/K sum_k p(x, z_k) / q(z_k|x)) for each image, nats, shape (B,): a lower bound of log p(x) in expectation
    that meets it as K grows (Burda et al. 2016, theorem 1).

    Args:
        model: in evaluation mode.
        given: a batch with "image" (B, C, H, W), integers.
        num_samples: K, any, also more than fits into memory at once.
        tile: how many image-samples are decoded at a time; null lets `tile_size` decide.
        proposal: Gaussians to draw from in the posterior's place, such as `refined(...).widened()`.
    """
    return importance(model, given, [num_samples], tile, proposal).log_prob[0]


def log_prob_curve(model: LatentModel, given: Batch, ks: Sequence[int], tile: int | None = None) -> Tensor:
    """`log_prob` for several rising K at once, shape (len(ks), B)."""
    return importance(model, given, ks, tile).log_prob


@torch.no_grad()
def importance(
    model: LatentModel, given: Batch, ks: Sequence[int], tile: int | None = None, proposal: Gaussians | None = None
) -> Importance:
    """Importance sampling from the posterior for several K, by one pass over max(ks) samples: each K's estimate is made
    of the first K of them.

    Memory hardly grows with K: samples are drawn in tiles, and what is kept of an image is two running log-sum-exps and
    the 3 sqrt K largest weights. The encoder runs once an image, for as many images at a time as a tile holds.

    Args:
        model: in evaluation mode.
        given: a batch with "image" (B, C, H, W), integers.
        ks: rising numbers of samples.
        tile: how many image-samples are decoded at a time; null lets `tile_size` decide.
        proposal: Gaussians to draw from in the posterior's place, such as `refined(...).widened()`.

    Raises:
        ValueError: no K, one below 1, or ks that do not rise.
    """
    if not ks or ks[0] < 1 or any(a >= b for a, b in itertools.pairwise(ks)):
        raise ValueError(f"num_samples: expected at least 1, and rising where there are several, got {list(ks)}.")
    tile = tile or tile_size(model, given)
    images_at_once = max(1, tile // ks[-1])
    found: list[Importance] = []
    for i in range(0, len(image_of(given)), images_at_once):
        images = slice(i, i + images_at_once)
        part = rows(given, images)
        story = model.about(part)
        instead = proposal.posteriors(images) if proposal else None
        total = image_of(part).new_full(
            (len(image_of(part)),), -torch.inf, dtype=torch.float64
        )  # nats by ten thousands
        squares, logs, largest, curve, done = total, torch.zeros_like(total), None, [], 0
        for k in ks:
            while done < k:
                count = min(tile, k - done)
                log_weight = traced(story, image_of(part), count, instead).log_weight()  # (count, images)
                total = torch.logaddexp(total, log_weight.double().logsumexp(0))
                squares = torch.logaddexp(squares, (2 * log_weight.double()).logsumexp(0))
                logs = logs + log_weight.double().sum(0)
                largest = keep_largest(largest, log_weight, tail_length(ks[-1]) + 1)
                done += count
            curve.append((total - math.log(k), (2 * total - squares).exp(), logs / k))
        assert largest is not None
        log_prob, effective, bound = (torch.stack(values) for values in zip(*curve, strict=True))
        found.append(Importance(log_prob, effective, bound, largest))
    return Importance(*(torch.cat(values, 1) for values in zip(*found, strict=True)))
