"""Numbers one after the other, each a mixture of Gaussians under those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal, constraints
from torch.types import _size


class Mixtures(NamedTuple):
    """Logits of the weights, means and standard deviations of mixtures of K Gaussians, (*S, K) each."""

    logits: Tensor
    mean: Tensor
    scale: Tensor

    def distribution(self) -> MixtureSameFamily:
        weights = Categorical(logits=self.logits, validate_args=False)
        return MixtureSameFamily(weights, Normal(self.mean, self.scale, validate_args=False), validate_args=False)


class AutoregressiveMixture(Distribution):
    """p(z) = prod_i sum_k w_ik N(z_i; m_ik, s_ik^2), with w_i, m_i and s_i functions of z_1 .. z_{i-1}, batch_shape S
    and event_shape (d,); the density is exact. It takes one evaluation of the parameters, and a sample takes d.

    Args:
        parameters: (z (*S, d), None) -> the mixtures of all numbers, (*S, d, K); (z, i) -> that of the i-th alone, from
            0 on, (*S, K), whatever z holds from i on.
        zero: zeros of the value's shape, type and device, (*S, d).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, parameters: Callable[[Tensor, int | None], Mixtures], zero: Tensor) -> None:
        self.parameters, self.zero = parameters, zero
        super().__init__(zero.shape[:-1], zero.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> AutoregressiveMixture:
        return AutoregressiveMixture(self.parameters, self.zero.expand(*batch_shape, *self.event_shape))

    @property
    def centre(self) -> Tensor:
        """Each number's conditional mean given the centres before it, (*S, d): a point without noise, in general not
        the mean."""
        return self._in_turn(self._zeros(), lambda mixtures: mixtures.distribution().mean)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z), nats, (*S, d) -> S."""
        value = value.expand(*torch.broadcast_shapes(value.shape[:-1], self.batch_shape), *self.event_shape)
        return self.parameters(value, None).distribution().log_prob(value).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        return self._in_turn(self._zeros(sample_shape), lambda mixtures: mixtures.distribution().sample())

    def _zeros(self, sample_shape: _size = ()) -> Tensor:
        return self.zero.new_zeros(Size(sample_shape) + self.zero.shape)

    def _in_turn(self, z: Tensor, choose: Callable[[Mixtures], Tensor]) -> Tensor:
        with torch.no_grad():
            for i in range(self.event_shape[0]):
                z[..., i] = choose(self.parameters(z, i))
        return z
