"""Numbers one after the other, each a mixture of Gaussians under those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal, constraints
from torch.types import _size

Parameters = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""z (*S, d) -> logits of the weights, means and standard deviations, (*S, d, K) each, those of z_i by z_1 .. z_{i-1}
alone."""


class AutoregressiveMixture(Distribution):
    """p(z) = prod_i sum_k w_ik N(z_i; m_ik, s_ik^2), with w_i, m_i and s_i functions of z_1 .. z_{i-1}, batch_shape S
    and event_shape (d,); the density is exact. It takes one evaluation of the parameters, and a sample takes d.

    Args:
        parameters: the mixtures, by the values before them.
        zero: zeros of the value's shape, type and device, (*S, d).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, parameters: Parameters, zero: Tensor) -> None:
        self.parameters, self.zero = parameters, zero
        super().__init__(zero.shape[:-1], zero.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> AutoregressiveMixture:
        return AutoregressiveMixture(self.parameters, self.zero.expand(*batch_shape, *self.event_shape))

    def conditional(self, i: int, z: Tensor) -> MixtureSameFamily:
        """p(z_i | z_1 .. z_{i-1}), i from 0 on, of z (*S, d), whatever it holds from i on: batch_shape S."""
        return _mixture(*(parameter[..., i, :] for parameter in self.parameters(z)))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z), nats, (*S, d) -> S."""
        value = value.expand(*torch.broadcast_shapes(value.shape[:-1], self.batch_shape), *self.event_shape)
        return _mixture(*self.parameters(value)).log_prob(value).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        z = self.zero.new_zeros(Size(sample_shape) + self.zero.shape)
        for i in range(self.event_shape[0]):
            z[..., i] = self.conditional(i, z).sample()
        return z


def _mixture(logits: Tensor, mean: Tensor, scale: Tensor) -> MixtureSameFamily:
    weights, normals = Categorical(logits=logits, validate_args=False), Normal(mean, scale, validate_args=False)
    return MixtureSameFamily(weights, normals, validate_args=False)
