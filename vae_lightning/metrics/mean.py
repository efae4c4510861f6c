"""A mean over images with its standard error, and what belongs to each image, over all processes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed
from torch import Tensor
from torchmetrics import Metric


class Estimate(NamedTuple):
    """float64 scalars; the standard error is nan for a single image."""

    mean: Tensor
    standard_error: Tensor
    images: Tensor


def mean_error(values: Tensor) -> tuple[float, float]:
    """Mean over images (N,), those that are nan left out, and its standard error, nan for a single image."""
    metric = MeanWithError()
    metric.update(values[~values.isnan()].cpu())
    mean, standard_error, _ = metric.compute()
    return mean.item(), standard_error.item()


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


def from_all_processes(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name -> (N,) of this process's images to those of all images in their order, in every process: of R processes the
    r-th has the images r, r + R, r + 2 R, ... Shares need not be equal, and nothing is padded."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    parts: list[dict[str, Tensor]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, {name: value.cpu() for name, value in values.items()})
    return {name: in_turns([part[name] for part in parts if name in part]) for name in values}


def in_turns(parts: list[Tensor]) -> Tensor:
    """The first of each part, then the second of each, ..., (sum of their lengths,)."""
    turn = torch.cat([torch.arange(len(part)) for part in parts])
    return torch.cat(parts)[turn.argsort(stable=True)]
