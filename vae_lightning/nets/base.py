"""What every net is: a map of tensors that knows the shapes at its two ends."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
Layer = TypeVar("Layer", bound=nn.Module)
LOG_SCALE_BOUND = 7.0


def at_least_float32(x: Tensor) -> Tensor:
    """What a density is made of: under bf16-mixed or 16-mixed precision the nets' outputs are carried back to float32,
    since a sum over an image in eight bits of mantissa is off by whole nats."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def bounded_log_scale(raw: Tensor, bound: float = LOG_SCALE_BOUND) -> Tensor:
    """Log standard deviations smoothly kept within +-bound, 7 by default (about 0.001 to 1000), so that no batch makes
    them infinite."""
    return bound * torch.tanh(raw / bound)


def over_leading(function: Callable[[Tensor], Tensor], x: Tensor, event_dim: int) -> Tensor:
    """What a function of (N, *event) makes of (*S, *event), for any leading shape S: (*S, *out)."""
    lead = x.shape[: x.dim() - event_dim]
    if len(lead) == 1:
        return function(x)
    out = function(x.reshape(math.prod(lead), *x.shape[len(lead) :]))
    return out.reshape(*lead, *out.shape[1:])


def zeroed(layer: Layer) -> Layer:
    """The layer, saying 0 until it is trained."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def raw_log_scale(scale: Tensor) -> Tensor:
    """The raw value of which `bounded_log_scale` makes the logarithm of a standard deviation, or of the nearest one
    between about 0.0015 and 650, where it still learns."""
    return LOG_SCALE_BOUND * torch.atanh((scale.log() / LOG_SCALE_BOUND).clamp(-0.93, 0.93))


class Net(nn.Module, ABC):
    """Tensor -> Tensor, (*S, *in_shape) -> (*S, *out_shape), for any leading shape S.

    A subclass builds its layers for one leading dimension and is called through `body`.

    Args:
        in_shape: the shape that comes in, without leading dimensions: (features,) or (C, H, W).
        image_shape: the image's (C, H, W), for nets that have to grow to its size.
    """

    out_shape: Shape

    def __init__(self, in_shape: Shape, image_shape: Shape) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.image_shape = tuple(image_shape)

    @abstractmethod
    def body(self, x: Tensor) -> Tensor:
        """(N, *in_shape) -> (N, *out_shape)."""

    def forward(self, x: Tensor) -> Tensor:
        lead = x.shape[: x.dim() - len(self.in_shape)]
        if x.shape[len(lead) :] != self.in_shape:
            raise ValueError(
                f"{type(self).__name__} was built for inputs of shape {self.in_shape}, got {tuple(x.shape)}: "
                "give images of the size that the model was trained on, or build the model for this size."
            )
        return over_leading(self.body, x, len(self.in_shape))


NetFactory = Callable[[Shape, Shape], Net]
"""(in_shape, image_shape) -> Net: how a configuration file names a net whose shapes it does not know yet."""
