"""The categorical distribution over ordered grey levels: torch's own, with the mean that ordered levels have."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, constraints
from torch.types import _size


class CategoricalLevels(Distribution):
    """A free probability for every level 0..levels-1.

    torch's Categorical has no mean, its events being names; levels are numbers, and pictures need their mean.

    Args:
        logits: (*batch, levels), unnormalised log-probabilities.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self._categorical = Categorical(logits=logits, validate_args=validate_args)
        super().__init__(self._categorical.batch_shape, validate_args=validate_args)

    @property
    def logits(self) -> Tensor:
        return self._categorical.logits

    @property
    def levels(self) -> int:
        return self.logits.shape[-1]

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> CategoricalLevels:
        return CategoricalLevels(self.logits.expand(Size(batch_shape) + (self.levels,)), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x = value) in nats, elementwise; `value` holds integers in a float tensor."""
        return self._categorical.log_prob(value)

    def _moment(self, power: int) -> Tensor:
        values = torch.arange(self.levels, dtype=self.logits.dtype, device=self.logits.device) ** power
        return self._categorical.probs @ values

    @property
    def mean(self) -> Tensor:
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        return self._moment(2) - self.mean**2

    def sample(self, sample_shape: _size = ()) -> Tensor:
        return self._categorical.sample(Size(sample_shape)).to(self.logits.dtype)
