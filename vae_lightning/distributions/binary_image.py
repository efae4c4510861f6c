"""Independent Bernoulli variables, taken together as one event."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

HALVINGS = 5
"""Some 2^5 factors between 1/2 and 1 share a logarithm: far from where float32 would underflow."""


class BinaryImage(Distribution):
    """P(x) = prod_d sigmoid(l_d)^x_d sigmoid(-l_d)^(1 - x_d).

    The same as Independent(Bernoulli(logits=l), event_dim), whose log_prob takes an exponential and a logarithm a pixel
    and a dozen passes over the images: more time than a small decoder. Without gradients, where many samples are
    weighed, this one takes an exponential and five passes; with them, torch's fused kernel.

    Args:
        logits: l, (*batch, *event).
        event_dim: how many trailing dimensions are the event.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, logits: Tensor, event_dim: int = 3) -> None:
        self.logits = logits
        split = logits.dim() - event_dim
        super().__init__(logits.shape[:split], logits.shape[split:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.boolean, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> BinaryImage:
        return BinaryImage(self.logits.expand(Size(batch_shape) + self.event_shape), len(self.event_shape))

    def sample(self, sample_shape: _size = ()) -> Tensor:
        with torch.no_grad():
            return torch.bernoulli(self.mean.expand(self._extended_shape(Size(sample_shape))))

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x = value) in nats, the shape of the batch; `value` holds 0 and 1, and has no gradient."""
        first, value = len(self.event_shape), value.to(self.logits.dtype)
        logits, value = self.logits.flatten(-first), value.flatten(-first)
        if torch.is_grad_enabled() and logits.requires_grad:
            logits, value = torch.broadcast_tensors(logits, value)
            return -F.binary_cross_entropy_with_logits(logits, value, reduction="none").sum(-1)
        return _log_prob(logits, value)

    def log_prob_of_each(self, value: Tensor) -> Tensor:
        """log P(x_d = value_d) of every pixel, nats, (*batch, *event)."""
        logits, value = torch.broadcast_tensors(self.logits, value.to(self.logits.dtype))
        return -F.binary_cross_entropy_with_logits(logits, value, reduction="none")


def _log_prob(logits: Tensor, value: Tensor) -> Tensor:
    """With m = l where x is 1 and -l where it is 0: sum_d log sigmoid(m) = sum_d min(m, 0) + log prod_d sigmoid(|m|), a
    logarithm for each group of factors between 1/2 and 1."""
    sign = (2 * value).sub_(1)  # in place wherever it can be: a small model waits for memory, not for arithmetic
    margin = sign.mul_(logits) if sign.shape == logits.shape else sign * logits
    below = margin.clamp_max(0).sum(-1)
    factors = margin.abs_().sigmoid_()
    for _ in range(HALVINGS):
        half = factors.shape[-1] // 2
        if not half:
            break
        if factors.shape[-1] % 2:
            factors[..., :1].mul_(factors[..., -1:])
        factors = factors[..., :half].mul_(factors[..., half : 2 * half])
    return below + factors.log().sum(-1)
