"""What a denoising autoencoder has to undo. Each takes and returns images scaled to [0, 1], of any shape."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


def _require_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a probability between 0 and 1, got {value}.")


class Corruption(nn.Module, ABC):
    """Noise on images scaled to [0, 1], (..., C, H, W)."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Images, of the same shape."""


class Masking(Corruption):
    """Sets each pixel, in all its channels, to zero with probability `p` (Vincent et al. 2010, masking noise)."""

    def __init__(self, p: float = 0.25) -> None:
        super().__init__()
        _require_probability("Masking.p", p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x[..., :1, :, :]) >= self.p)


class GaussianNoise(Corruption):
    """Adds N(0, scale^2) to each value, without clipping."""

    def __init__(self, scale: float = 0.3) -> None:
        super().__init__()
        if scale < 0:
            raise ValueError(f"GaussianNoise.scale: expected a standard deviation >= 0, got {scale}.")
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * torch.randn_like(x)


class SaltAndPepper(Corruption):
    """Sets each pixel, in all its channels, with probability `p` to black or white, by a fair coin."""

    def __init__(self, p: float = 0.25) -> None:
        super().__init__()
        _require_probability("SaltAndPepper.p", p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        u = torch.rand_like(x[..., :1, :, :])
        salted = torch.where(u < self.p / 2, torch.zeros_like(x), x)
        return torch.where(u > 1 - self.p / 2, torch.ones_like(x), salted)
