"""A density that invertible maps make of Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import _standard_normal


class Flow(Distribution):
    """z = loc + scale f(eps) with eps ~ N(0, I), batch_shape S and event_shape (d,) (Rezende & Mohamed 2015).

    The last sample of its own has its density for nothing, as a function of loc, scale and f alone; that of any other
    value takes the inverse of f. There is no mean in closed form, but a `centre`.

    Args:
        transform: f, noise (*S, d) to (*S, d), with `call_and_ladj` and `inv` as zuko's transforms have them; made for
            contexts of the batch_shape, and broadcast over any leading dimensions.
        loc: (*S, d).
        scale: (*S, d), above 0.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (as torch declares it)
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, transform: Any, loc: Tensor, scale: Tensor) -> None:
        self.transform, self.loc, self.scale = transform, loc, scale
        self._own: tuple[Tensor, Tensor] | None = None  # the last sample and its log-density
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> Flow:
        shape = (*batch_shape, *self.event_shape)
        return Flow(self.transform, self.loc.expand(shape), self.scale.expand(shape))

    @property
    def centre(self) -> Tensor:
        """Where the middle of the noise goes, loc + scale f(0), (*S, d): a point without noise, in general not the
        mean."""
        with torch.autocast(self.loc.device.type, enabled=False):
            return self.loc + self.scale * self.transform(torch.zeros_like(self.loc))

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = _standard_normal(shape, self.loc.dtype, self.loc.device)
        with torch.autocast(self.loc.device.type, enabled=False):
            flown, stretched = self.transform.call_and_ladj(noise)
            z = self.loc + self.scale * flown
            self._own = z, self._log_prob(noise, stretched)
        return z

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._own is not None and value is self._own[0]:
            log_prob = self._own[1]
            if log_prob.requires_grad or not torch.is_grad_enabled():  # else it was drawn by `sample`
                return log_prob
        with torch.autocast(self.loc.device.type, enabled=False):
            noise = self.transform.inv((value - self.loc) / self.scale)
            return self._log_prob(noise, self.transform.call_and_ladj(noise)[1])

    def _log_prob(self, noise: Tensor, stretched: Tensor) -> Tensor:
        """Of noise (*S, d) that f stretches by the log of a factor, (*S,)."""
        normal = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(-1)
        return normal - stretched - self.scale.log().sum(-1)
