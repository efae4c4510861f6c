"""Data brought to unit variance and back, fitted once to training data: what a noise schedule takes for granted.

Legend of shapes: S any leading shape; a value (*event) becomes a value (*inner) that a density is made of, and a rest
(r,) of unit variance, which is left to a Gaussian. The map is invertible, so that densities carry over.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vae_lightning.nets.base import Shape

SMALLEST = 1e-4
"""The smallest standard deviation that is brought to one, in shares of the largest."""


class Standardisation(nn.Module, ABC):
    """An invertible affine map that is fitted to data, and the identity until then.

    Args:
        event_shape: of a value.
        inner_shape: of what it becomes.
    """

    log_det: Tensor
    """(): log of the factor by which the map stretches volumes."""

    def __init__(self, event_shape: Shape, inner_shape: Shape) -> None:
        super().__init__()
        self.event_shape, self.inner_shape = tuple(event_shape), tuple(inner_shape)
        self.register_buffer("log_det", torch.zeros(()))

    @abstractmethod
    def fit(self, data: Tensor) -> None:
        """To training data (N, *event)."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(*S, *event) -> (*S, *inner) and the rest (*S, r)."""

    @abstractmethod
    def inverse(self, y: Tensor, rest: Tensor) -> Tensor:
        """(*S, *inner) and the rest (*S, r) -> (*S, *event)."""

    @property
    def rest_size(self) -> int:
        """r."""
        return math.prod(self.event_shape) - math.prod(self.inner_shape)


StandardisationFactory = Callable[[Shape], Standardisation]


class PrincipalComponents(Standardisation):
    """For vectors: coordinates along the data's principal components, the largest first, each of unit variance. The
    small numbers of unit-norm embeddings would drown in the noise of a schedule made for unit variance.

    Args:
        event_shape: (E,).
        components: how many of the first make the inner value; the rest is left to a Gaussian. Null for all.
    """

    mean: Tensor
    axes: Tensor
    scale: Tensor

    def __init__(self, event_shape: Shape, components: int | None = None) -> None:
        size = math.prod(event_shape)
        if components is not None and not 1 <= components <= size:
            raise ValueError(
                f"PrincipalComponents.components: expected 1 to {size}, the numbers of a value, got {components}."
            )
        super().__init__(event_shape, (size if components is None else components,))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("axes", torch.eye(size))  # columns, orthonormal
        self.register_buffer("scale", torch.ones(size))

    @torch.no_grad()
    def fit(self, data: Tensor) -> None:
        flat = data.flatten(1).double()
        require_enough(type(self).__name__, len(flat))
        mean = flat.mean(0)
        variance, axes = torch.linalg.eigh((flat - mean).T @ (flat - mean) / (len(flat) - 1))  # the smallest first
        scale = variance.flip(0).clamp_min(0).sqrt()
        scale = scale.clamp_min(SMALLEST * scale[0].clamp_min(SMALLEST))
        self.mean.copy_(mean)
        self.axes.copy_(axes.flip(1))
        self.scale.copy_(scale)
        self.log_det.copy_(-scale.log().sum())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        lead = x.shape[: x.dim() - len(self.event_shape)]
        y = (x.reshape(*lead, -1) - self.mean) @ self.axes / self.scale
        kept = self.inner_shape[0]
        return y[..., :kept], y[..., kept:]

    def inverse(self, y: Tensor, rest: Tensor) -> Tensor:
        x = (torch.cat((y, rest), -1) * self.scale) @ self.axes.T + self.mean
        return x.reshape(*x.shape[:-1], *self.event_shape)


class PerChannel(Standardisation):
    """For maps: each channel with a mean and a standard deviation of its own, so that every place stays where it is.

    Args:
        event_shape: of a value: a map (C, h, w), or flat.
        channels: C of a value that comes flat, as a VAE's latents do; null for the first of an `event_shape`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, event_shape: Shape, channels: int | None = None) -> None:
        channels = event_shape[0] if channels is None else channels
        if channels < 1 or math.prod(event_shape) % channels:
            raise ValueError(
                f"PerChannel.channels: expected a divisor of the {math.prod(event_shape)} numbers of a value, got "
                f"{channels}."
            )
        super().__init__(event_shape, event_shape)
        self.register_buffer("mean", torch.zeros(channels, 1))
        self.register_buffer("scale", torch.ones(channels, 1))

    @torch.no_grad()
    def fit(self, data: Tensor) -> None:
        require_enough(type(self).__name__, len(data))
        by_channel = data.double().reshape(len(data), len(self.mean), -1)
        self.mean.copy_(by_channel.mean((0, 2))[:, None])
        scale = by_channel.transpose(0, 1).flatten(1).std(1)
        self.scale.copy_(scale.clamp_min(SMALLEST * scale.max().clamp_min(SMALLEST))[:, None])
        self.log_det.copy_(-by_channel.shape[2] * self.scale.log().sum())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        lead = x.shape[: x.dim() - len(self.event_shape)]
        y = (x.reshape(*lead, len(self.mean), -1) - self.mean) / self.scale
        return y.reshape(x.shape), x.new_zeros(*lead, 0)

    def inverse(self, y: Tensor, rest: Tensor) -> Tensor:
        lead = y.shape[: y.dim() - len(self.event_shape)]
        return (y.reshape(*lead, len(self.mean), -1) * self.scale + self.mean).reshape(y.shape)


def require_enough(name: str, count: int) -> None:
    """Raises ValueError for fewer than two values."""
    if count < 2:
        raise ValueError(f"{name}: expected two values or more to be fitted to, got {count}.")
