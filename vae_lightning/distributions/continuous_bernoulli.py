"""The continuous Bernoulli, normalised at any logit."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

SMALL = 0.05
"""Half logits below which the closed forms, differences of large numbers there, give way to their series."""


class ContinuousBernoulli(Distribution):
    """p(y) = C(l) exp(l y) on [0, 1] with the logit l (Loaiza-Ganem & Cunningham 2019).

    torch's own clamps its probability to a float's resolution before it takes the normaliser, so that beyond |l| of
    about 16 its density no longer integrates to one, and decoders go far beyond.

    Args:
        logits: l, any shape and size.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = False

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> ContinuousBernoulli:
        return ContinuousBernoulli(self.logits.expand(batch_shape), False)

    def log_prob(self, value: Tensor) -> Tensor:
        """l (y - 1/2) - log(sinh(h) / h) with h = l / 2: the exponential, centred so that the constant is even in l."""
        return self.logits * (value - 0.5) - self._log_sinhc()

    def _halves(self) -> tuple[Tensor, Tensor, Tensor]:
        """|h|, whether it is small, and |h| with 1 in the place of small ones, so that no gradient there is nan."""
        half = self.logits.abs() / 2
        small = half < SMALL
        return half, small, torch.where(small, torch.ones_like(half), half)

    def _log_sinhc(self) -> Tensor:
        half, small, h = self._halves()
        series = half**2 / 6 - half**4 / 180
        return torch.where(small, series, h + torch.log(-torch.expm1(-2 * h)) - torch.log(2 * h))

    @property
    def mean(self) -> Tensor:
        """1/2 + (coth(h) - 1/h) / 2."""
        half, small, h = self._halves()
        langevin = torch.where(small, half / 3 - half**3 / 45, 1 / torch.tanh(h) - 1 / h)
        return 0.5 + 0.5 * self.logits.sign() * langevin

    @property
    def variance(self) -> Tensor:
        """(1/h^2 - 1/sinh(h)^2) / 4."""
        half, small, h = self._halves()
        inverse_sinh = 2 * torch.exp(-h) / -torch.expm1(-2 * h)
        return 0.25 * torch.where(small, 1 / 3 - half**2 / 15 + 2 * half**4 / 189, 1 / h**2 - inverse_sinh**2)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """By inversion of the cdf, for |l|, and mirrored where l is negative."""
        with torch.no_grad():
            logits = self.logits.expand(self._extended_shape(Size(sample_shape)))
            u, size = torch.rand_like(logits), logits.abs()
            flat = size < 1e-3
            safe = torch.where(flat, torch.ones_like(size), size)
            y = torch.where(flat, u, 1 + torch.log(u + (1 - u) * torch.exp(-safe)) / safe)
            return torch.where(logits < 0, 1 - y, y).clamp(0, 1)
