"""Gaussians whose values hang together, torch's own, kept in float32 where the nets around them run in half precision;
and their KL to independent ones, which torch lacks.

Shapes: S any leading shape; d numbers of an event.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    register_kl,
)


class _InFloat32(Distribution):
    """Draws and densities outside of autocast, in front of a distribution with a `loc`."""

    loc: Tensor

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        with torch.autocast(self.loc.device.type, enabled=False):
            drawn: Tensor = super().rsample(torch.Size(sample_shape))
        return drawn

    def log_prob(self, value: Tensor) -> Tensor:
        with torch.autocast(self.loc.device.type, enabled=False):
            found: Tensor = super().log_prob(value)
        return found


class FullCovarianceNormal(_InFloat32, MultivariateNormal):
    """N(loc, L L^T): torch's, by loc (*S, d) and scale_tril (*S, d, d)."""


class LowRankNormal(_InFloat32, LowRankMultivariateNormal):
    """N(loc, W W^T + diag v): torch's, by loc (*S, d), cov_factor W (*S, d, r) and cov_diag v (*S, d)."""

    def __init__(self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor, validate_args: bool | None = None) -> None:
        with torch.autocast(loc.device.type, enabled=False):
            super().__init__(loc, cov_factor, cov_diag, validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: LowRankMultivariateNormal | None = None) -> LowRankNormal:
        new = self._get_checked_instance(LowRankNormal, _instance)
        expanded: LowRankNormal = super().expand(torch.Size(batch_shape), new)
        return expanded


@register_kl(MultivariateNormal, Independent)  # type: ignore[untyped-decorator]
@register_kl(LowRankMultivariateNormal, Independent)  # type: ignore[untyped-decorator]
def _kl_to_independent(q: MultivariateNormal | LowRankMultivariateNormal, p: Independent) -> Tensor:
    """KL(q || p) for p = N(m, diag s^2), shape S: -H(q) - E_q log p, in which q's mean and variances alone enter:
    E_q log p = sum log N(mean; m, s^2) - variance / (2 s^2)."""
    if not isinstance(p.base_dist, Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    normal = p.base_dist
    expected = normal.log_prob(q.mean) - q.variance / (2 * normal.variance)
    entropy: Tensor = q.entropy()
    return -entropy - expected.sum(-1)
