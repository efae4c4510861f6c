"""What a model has to beat: pixels that know nothing of each other, and principal components."""

from __future__ import annotations

import torch
from torch import Tensor


def independent_pixels_nll(train: Tensor, test: Tensor, levels: int) -> Tensor:
    """-log p(x) of each test image, nats, (N,), under a model whose values are independent of each other: the frequency
    of each level at each place in the training images, add-one smoothed over the levels.

    Args:
        train: (M, C, H, W) integers 0..levels-1.
        test: (N, C, H, W) integers 0..levels-1.
        levels: how many.
    """
    nll = torch.zeros(len(test), dtype=torch.float64)
    for seen, asked in zip(train.flatten(1).unbind(1), test.flatten(1).unbind(1), strict=True):
        counts = torch.bincount(seen, minlength=levels).double() + 1
        nll -= (counts / counts.sum()).log()[asked.long()]
    return nll


def pca_squared_error(train: Tensor, test: Tensor, levels: int, dimensions: int) -> Tensor:
    """Squared error of each test image, scaled to [0, 1] and summed over its values, (N,), after projection on the
    first `dimensions` principal components of the training images (the optimal linear autoencoder).

    Args:
        train: (M, C, H, W) integers 0..levels-1.
        test: (N, C, H, W) integers 0..levels-1.
        levels: how many.
        dimensions: number of components.
    """
    x = train.flatten(1).double() / (levels - 1)
    mean = x.mean(0)
    _, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    components = vectors[:, -dimensions:]
    residual = test.flatten(1).double() / (levels - 1) - mean
    residual = residual - residual @ components @ components.T
    return residual.square().sum(1)
