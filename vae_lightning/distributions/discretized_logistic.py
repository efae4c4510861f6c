"""The logistic density integrated over the bins of the integer levels."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

MOST_SUMMED = 256
"""Levels whose probabilities are summed one by one."""


class DiscretizedLogistic(Distribution):
    """P(x = i) = F(i + 1/2) - F(i - 1/2) with F the logistic cdf, the first and the last bin open to infinity.

    So the masses sum to one exactly, whatever the parameters (Salimans et al. 2017, eq. 2, in units of one level).

    Args:
        loc: centre, in levels (0..levels-1), any shape.
        scale: the logistic's scale, in levels, > 0, the shape of `loc`.
        levels: how many integers the support holds.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }

    def __init__(self, loc: Tensor, scale: Tensor, levels: int, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> DiscretizedLogistic:
        return DiscretizedLogistic(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.levels, False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x = value) in nats, elementwise.

        With a and b the bin's edges, s(b) - s(a) = s(b) s(-a) (1 - e^(a-b)) for the sigmoid s: three terms that are
        each exact in floating point at any distance from the centre, and of which an open edge drops its own.
        """
        if self._validate_args:
            self._validate_sample(value)
        below_upper = F.logsigmoid((value + 0.5 - self.loc) / self.scale)
        above_lower = F.logsigmoid(-(value - 0.5 - self.loc) / self.scale)
        width = torch.log(-torch.expm1(-1 / self.scale))
        bottom, top = value <= 0, value >= self.levels - 1
        zero = torch.zeros_like(below_upper)
        return (
            torch.where(top, zero, below_upper)
            + torch.where(bottom, zero, above_lower)
            + torch.where(top | bottom, zero, width)
        )

    def cdf(self, value: Tensor) -> Tensor:
        """P(x <= value)."""
        inside = torch.sigmoid((value.floor() + 0.5 - self.loc) / self.scale)
        inside = torch.where(value < 0, torch.zeros_like(inside), inside)
        return torch.where(value >= self.levels - 1, torch.ones_like(inside), inside)

    @property
    def mean(self) -> Tensor:
        """E[x] = sum over i < levels - 1 of P(x > i), exact; of more than 256 levels the integral of the same, which is
        less than half of a level from it."""
        if self.levels > MOST_SUMMED:
            ends = (F.softplus((self.loc - end) / self.scale) for end in (0, self.levels - 1))
            return self.scale * (next(ends) - next(ends))
        total = torch.zeros_like(self.loc)
        for i in range(self.levels - 1):
            total = total + torch.sigmoid((self.loc - i - 0.5) / self.scale)
        return total

    @property
    def variance(self) -> Tensor:
        """E[x^2] - E[x]^2, with E[x^2] = sum over i of (2i + 1) P(x > i); not of more than 256 levels."""
        if self.levels > MOST_SUMMED:
            raise NotImplementedError(f"the variance of {self.levels} levels")
        second = torch.zeros_like(self.loc)
        for i in range(self.levels - 1):
            second = second + (2 * i + 1) * torch.sigmoid((self.loc - i - 0.5) / self.scale)
        return second - self.mean**2

    def sample(self, sample_shape: _size = ()) -> Tensor:
        with torch.no_grad():
            u = torch.rand(self._extended_shape(Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
            u = u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps)
            return (self.loc + self.scale * torch.logit(u)).round().clamp(0, self.levels - 1)
