"""A density of one number after the other: probabilities of the number's bins, given those before it, and a density
inside each bin."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

Step = Callable[[Tensor | None], Tensor]
"""The bin (*S,) of the number before, None for the first number -> logits (*S, bins) of the next."""


class Bins:
    """A number's line cut into bins: uniform inside each, and beyond the first and the last edge exponential, so that
    with probabilities of the bins it is a density over all reals.

    Args:
        edges: (k, bins - 1), rising, of each of k numbers.
        tails: (k, 2): means of what lies beyond the first and beyond the last edge, above 0.
    """

    def __init__(self, edges: Tensor, tails: Tensor) -> None:
        self.edges, self.tails = edges, tails
        self.widths = edges.diff(dim=1)

    def of(self, y: Tensor) -> Tensor:
        """The bins (*S, k) int64 that numbers (*S, k) lie in."""
        lead = y.shape[:-1]
        flat = y.reshape(-1, y.shape[-1]).T.contiguous()
        return torch.searchsorted(self.edges, flat, right=True).T.reshape(*lead, -1)

    def log_density(self, y: Tensor, bins: Tensor) -> Tensor:
        """Of numbers in the bins that they lie in, nats, (*S, k)."""
        last = self.edges.shape[1]
        number = torch.arange(y.shape[-1], device=y.device)
        inside = -self.widths[number, (bins - 1).clamp(0, last - 2)].log()
        left = -(self.edges[:, 0] - y) / self.tails[:, 0] - self.tails[:, 0].log()
        right = -(y - self.edges[:, -1]) / self.tails[:, 1] - self.tails[:, 1].log()
        return torch.where(bins == 0, left, torch.where(bins == last, right, inside))

    def draw(self, bins: Tensor) -> Tensor:
        """Numbers (*S, k) from inside bins (*S, k)."""
        last = self.edges.shape[1]
        number = torch.arange(bins.shape[-1], device=bins.device)
        share = torch.rand(bins.shape, dtype=self.edges.dtype, device=bins.device).clamp_min(1e-12)
        low = (bins - 1).clamp(0, last - 2)
        inside = self.edges[number, low] + share * self.widths[number, low]
        left = self.edges[:, 0] + self.tails[:, 0] * share.log()
        right = self.edges[:, -1] - self.tails[:, 1] * share.log()
        return torch.where(bins == 0, left, torch.where(bins == last, right, inside))


class Autoregressive(Distribution):
    """p(y) = prod_i P(bin of y_i | bins of y_1 .. y_{i-1}) p(y_i | its bin), event_shape (k,), a Gaussian rest
    ~ N(0, I) beside it, and x of the two by a fixed invertible map; batch_shape S. `log_prob` is exact.

    Args:
        teach: bins (*S, k) -> logits (*S, k, bins) of each, given those before it.
        begin: leading shape (*S,) -> a step that is called k times.
        bins: of the k numbers.
        batch_shape: S, that of the conditions.
        standardisation: with `inner_shape`, `event_shape`, `log_det` and `inverse`: nets/standardise.py.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False

    def __init__(
        self,
        teach: Callable[[Tensor], Tensor],
        begin: Callable[[torch.Size], Step],
        bins: Bins,
        batch_shape: Sequence[int],
        standardisation: Any,
    ) -> None:
        self.teach, self.begin, self.bins, self.standardisation = teach, begin, bins, standardisation
        super().__init__(torch.Size(batch_shape), torch.Size(standardisation.event_shape), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x), exact, nats, (*S, *event) -> S."""
        y, rest = self.standardisation(value)
        bins = self.bins.of(y)
        of_bins = self.teach(bins).log_softmax(-1).gather(-1, bins[..., None]).squeeze(-1)
        of_rest = -0.5 * (rest.square() + math.log(2 * math.pi)).sum(-1)
        log_prob: Tensor = (of_bins + self.bins.log_density(y, bins)).sum(-1) + of_rest + self.standardisation.log_det
        return log_prob

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        lead = torch.Size(sample_shape) + self.batch_shape
        step, last, found = self.begin(lead), None, []
        for _ in range(self.standardisation.inner_shape[0]):
            last = Categorical(logits=step(last), validate_args=False).sample()
            found.append(last)
        y = self.bins.draw(torch.stack(found, -1))
        rest = torch.randn(*lead, self.standardisation.rest_size, dtype=y.dtype, device=y.device)
        value: Tensor = self.standardisation.inverse(y, rest)
        return value
