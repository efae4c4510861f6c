"""The point mass."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints, register_kl
from torch.types import _size


class Delta(Distribution):
    """All mass at one point: the deterministic posterior of an autoencoder. Its density is
    infinite, so its KL to a prior is too: an autoencoder has no ELBO.

    Args:
        value: the point, (*batch, *event).
        event_dim: how many trailing dimensions of `value` are the event.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(self, value: Tensor, event_dim: int = 1) -> None:
        self.value = value
        split = value.dim() - event_dim
        super().__init__(value.shape[:split], value.shape[split:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.value

    @property
    def variance(self) -> Tensor:
        return self.value.new_zeros(self.value.shape)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> Delta:
        return Delta(self.value.expand(Size(batch_shape) + self.event_shape), len(self.event_shape))

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        return self.value.expand(self._extended_shape(Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """+inf at the point, -inf elsewhere, shape (*batch): a point mass has no density."""
        hit = (value == self.value).flatten(value.dim() - len(self.event_shape)).all(-1)
        return torch.where(hit, torch.inf, -torch.inf).to(self.value.dtype)


@register_kl(Delta, Distribution)  # type: ignore[untyped-decorator]
def _kl_delta(q: Delta, p: Distribution) -> Tensor:
    """+inf: no density covers a point."""
    return q.value.new_full(q.batch_shape, torch.inf)
