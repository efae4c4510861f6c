"""What a model has to beat: pixels that know nothing of each other, and principal components.

Images come in chunks, (N, C, H, W) integers 0..levels-1, so that a set may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def independent_pixels_nll(train: Iterable[Tensor], test: Iterable[Tensor], levels: int) -> Tensor:
    """-log p(x) of each test image, nats, (N,), under a model whose values are independent of each other: the frequency
    of each level at each place in the training images, add-one smoothed over the levels.

    Args:
        train: chunks of images.
        test: chunks of images.
        levels: how many.
    """
    counts: Tensor | None = None
    for chunk in train:
        place = torch.arange(chunk[0].numel()) * levels
        seen = torch.bincount((chunk.flatten(1).long() + place).flatten(), minlength=len(place) * levels)
        counts = seen if counts is None else counts + seen
    assert counts is not None
    smoothed = counts.view(-1, levels).double() + 1
    log_p = (smoothed / smoothed.sum(1, keepdim=True)).log()
    places = torch.arange(len(log_p))
    return torch.cat([-log_p[places, chunk.flatten(1).long()].sum(1) for chunk in test])


def pca_squared_error(train: Iterable[Tensor], test: Iterable[Tensor], levels: int, dimensions: int) -> Tensor:
    """Squared error of each test image, scaled to [0, 1] and summed over its values, (N,), after projection on the
    first `dimensions` principal components of the training images (the optimal linear autoencoder).

    Args:
        train: chunks of images.
        test: chunks of images.
        levels: how many.
        dimensions: number of components.
    """
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for chunk in train:
        x = chunk.flatten(1).double() / (levels - 1)
        count, total, products = count + len(x), total + x.sum(0), products + x.T @ x
    mean = total / count
    _, vectors = torch.linalg.eigh(products / count - mean.outer(mean))
    components = vectors[:, -dimensions:]
    errors = []
    for chunk in test:
        residual = chunk.flatten(1).double() / (levels - 1) - mean
        errors.append((residual - residual @ components @ components.T).square().sum(1))
    return torch.cat(errors)
