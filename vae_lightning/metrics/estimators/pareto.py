"""How heavy the tail of importance weights is: whether the error that they state of themselves means anything."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOO_HEAVY = 0.7
"""Shape above which an estimate from feasibly many samples is not to be trusted (Vehtari et al. 2024); the weights have
no variance from 0.5 on, no mean from 1 on."""
FEWEST = 5
"""Largest weights below which no shape is told: some 25 samples."""
PRIOR_WEIGHTS, PRIOR_SHAPE = 10, 0.5
"""What steadies the shape of a short tail: so many weights that say so."""


def tail_length(num_samples: int) -> int:
    """M, how many of the largest of so many weights are taken for their tail (Vehtari et al. 2024)."""
    return math.ceil(min(0.2 * num_samples, 3 * num_samples**0.5))


def keep_largest(kept: Tensor | None, log_weight: Tensor, count: int) -> Tensor:
    """The `count` largest of what was kept and of (K, B) new ones, or all while they are fewer, (<= count, B)."""
    both = log_weight if kept is None else torch.cat([kept, log_weight])
    return both if len(both) <= count else both.topk(count, 0, sorted=False).values


def pareto_shape(largest: Tensor) -> Tensor:
    """k of the generalised Pareto distribution that the weights above the smallest of these follow, (B,) float64: the
    number of finite moments is 1 / k. By the estimator of Zhang & Stephens (2009), a mean over a likelihood's profile,
    shrunk a little towards 1/2 as Vehtari et al. (2024) do. nan of fewer than 5 weights above the smallest.

    Weights that are equal up to the rounding of their logarithms have no tail: 0.

    Args:
        largest: the M + 1 largest of an image's log weights, in any order, (M + 1, B).
    """
    m = len(largest) - 1
    if m < FEWEST:
        return largest.new_full(largest.shape[1:], torch.nan, dtype=torch.float64)
    log_weight = largest.sort(0).values
    x = (log_weight - log_weight[-1]).double().exp()
    x = x[1:] - x[0]  # (M, B), rising: what each exceeds the threshold by
    flat = x[-1] < 16 * torch.finfo(largest.dtype).eps * log_weight[-1].double().abs().clamp_min(1)
    top = torch.where(flat, 1, x[-1])
    quartile = x[int(m / 4 + 0.5) - 1].clamp_min(1e-10 * top)
    points = 30 + int(m**0.5)
    at = 1 - torch.sqrt(points / (torch.arange(points, dtype=torch.float64, device=x.device) + 0.5))
    theta = 1 / top + at[:, None] / (3 * quartile)  # (points, B): -k / scale, all below 1 / top
    shape = torch.stack([torch.log1p(-t * x).mean(0) for t in theta])  # a point at a time: memory as of the weights
    profile = m * (torch.log(-theta / shape) - shape - 1)
    best = (theta * profile.nan_to_num(-torch.inf).softmax(0)).sum(0)
    k = torch.log1p(-best * x).mean(0)
    k = (m * k + PRIOR_WEIGHTS * PRIOR_SHAPE) / (m + PRIOR_WEIGHTS)
    return torch.where(flat, 0, k)
