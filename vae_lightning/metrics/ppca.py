"""What a nonlinear model has to beat: probabilistic PCA, the linear-Gaussian latent model at its optimum."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

ROUNDING = 1 / 12
"""Variance of rounding to a level, levels squared: a density with less noise only counts the rounding."""


def ppca_log_prob(train: Iterable[Tensor], test: Iterable[Tensor], levels: int, dimensions: int) -> Tensor:
    """log p(x) of each test image, nats, (N,), float64, under x = W z + mu + noise, z ~ N(0, I), noise ~ N(0, s^2 I),
    at the maximum likelihood of the training images (Tipping & Bishop 1999, eq. 3-8): mu their mean, s^2 the mean of
    the covariance's D - d smallest eigenvalues, W W^T + s^2 I the d largest with s^2 for the rest. Where s^2 would be
    less than 1/12, the variance of rounding, it is 1/12, and W the optimum at that.

    A density over the integer image, as a Gaussian likelihood's: that of the image scaled to [0, 1] is higher by
    D log(levels - 1). Not to be compared with a probability of grey levels, which it exceeds at little noise.

    Args:
        train: chunks of images (N, C, H, W), integers 0..levels-1.
        test: chunks of images.
        levels: how many, more than 2.
        dimensions: d, the number of latents, less than D = C H W.

    Raises:
        ValueError: binary images, no training images, or a d out of range.
    """
    if levels == 2:
        raise ValueError(
            "ppca_log_prob expects grey images, got binary ones, of which a Gaussian is no likelihood: use "
            "independent_pixels_nll."
        )
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for chunk in train:
        x = chunk.flatten(1).double()
        count, total, products = count + len(x), total + x.sum(0), products + x.T @ x
    if not count:
        raise ValueError("train: expected chunks of images, got none: give an iterable that has not been used up.")
    if not 0 <= dimensions < len(total):
        raise ValueError(
            f"dimensions: expected 0 to {len(total) - 1} for images of {len(total)} values, got {dimensions}."
        )
    mean = total / count
    values, vectors = torch.linalg.eigh(products / count - mean.outer(mean))  # rising
    rest = len(total) - dimensions
    noise = values[:rest].mean().clamp_min(ROUNDING)
    kept, components = values[rest:].clamp_min(noise), vectors[:, rest:]
    constant = len(total) * math.log(2 * math.pi) + kept.log().sum() + rest * noise.log()
    found = []
    for chunk in test:
        residual = chunk.flatten(1).double() - mean
        along = residual @ components
        outside = residual.square().sum(1) - along.square().sum(1)
        found.append(-0.5 * (constant + (along.square() / kept).sum(1) + outside / noise))
    return torch.cat(found)
