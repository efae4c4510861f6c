"""A density on [0, 1] carried to the grey levels 0..levels-1."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size


class Rescaled(Distribution):
    """x = factor * y with y ~ base, and log p(x) = log p(y) - log factor for each element.

    torch's TransformedDistribution is the same density without a mean and a variance, which pictures need.

    Args:
        base: a univariate distribution with a mean and a variance.
        factor: > 0; for an image density, levels - 1.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, base: Distribution, factor: float) -> None:
        self.base, self.factor = base, factor
        self.has_rsample = base.has_rsample
        super().__init__(base.batch_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.interval(0, self.factor)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> Rescaled:
        return Rescaled(self.base.expand(batch_shape), self.factor)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(value / self.factor) - math.log(self.factor)

    @property
    def mean(self) -> Tensor:
        return self.factor * self.base.mean

    @property
    def variance(self) -> Tensor:
        return self.factor**2 * self.base.variance

    def sample(self, sample_shape: _size = ()) -> Tensor:
        return self.factor * self.base.sample(Size(sample_shape))

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        return self.factor * self.base.rsample(Size(sample_shape))
