"""A mean over images with its standard error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class Estimate(NamedTuple):
    """float64 scalars; the standard error is nan for a single image."""

    mean: Tensor
    standard_error: Tensor
    images: Tensor


class MeanWithError(Metric):
    """Mean of a per-image quantity and the standard error of that mean over images."""

    full_state_update = False
    total: Tensor
    total_square: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "total_square", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, value: Tensor) -> None:
        """value: (B,), one number an image."""
        value = value.detach().to(torch.float64)
        self.total += value.sum()
        self.total_square += value.square().sum()
        self.count += value.numel()

    def compute(self) -> Estimate:
        """Over all images of all processes."""
        mean = self.total / self.count
        variance = (self.total_square - self.count * mean.square()) / (self.count - 1)
        return Estimate(mean, (variance.clamp_min(0) / self.count).sqrt(), self.count)
