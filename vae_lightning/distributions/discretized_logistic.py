"""The logistic density integrated over the bins of the integer levels."""

from __future__ import annotations

import itertools
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

MOST_SUMMED = 256
"""Levels whose probabilities are summed one by one."""
NEAR = 64
"""Of more levels than that, the edges on each side of the centre whose probabilities are."""
UNUSED = 1e-3
"""Width of a level that training images never hold, in levels: it costs some 7 nats more than its neighbours."""
WINDOW, EXPECTED = 17, 20.0
"""Of how many levels around it, itself among them, and how often on average these are to occur, before a level that
does not is taken for one that is not in use: by chance it would be so once in e^20."""


def even_edges(levels: int) -> Tensor:
    """1/2, 3/2, ...: the edges between levels that are all as wide, (levels - 1,)."""
    return torch.arange(levels - 1) + 0.5


def used_edges(image: Tensor, levels: int) -> Tensor:
    """Edges between levels, (levels - 1,), so that those in use share the range among them: each reaches half-way to
    the next in use, and what lies between two of them and never occurs in the images, though its neighbours do, has
    next to no width. Images that use every level get `even_edges`.

    Args:
        image: integers 0..levels-1, any shape.
        levels: how many.
    """
    parts = image.flatten().split(2**24)
    counts = torch.stack([torch.bincount(part.long(), minlength=levels) for part in parts]).sum(0).float().cpu()
    around = (
        F.avg_pool1d(counts[None], WINDOW, 1, WINDOW // 2, count_include_pad=False)[0] if levels > WINDOW else counts
    )
    unused = (counts == 0) & (around >= EXPECTED)
    used = (~unused).nonzero().flatten().tolist()
    edges = even_edges(levels)
    for low, high in itertools.pairwise(used):
        between = high - low - 1
        if between:  # high - low edges around the middle, UNUSED apart
            edges[low:high] = (low + high) / 2 + UNUSED * (torch.arange(high - low) - between / 2)
    return edges


class DiscretizedLogistic(Distribution):
    """P(x = i) = F(i + 1/2) - F(i - 1/2) with F the logistic cdf, the first and the last bin open to infinity.

    So the masses sum to one exactly, whatever the parameters (Salimans et al. 2017, eq. 2, in units of one level).

    Args:
        loc: centre, in levels (0..levels-1), any shape.
        scale: the logistic's scale, in levels, > 0, the shape of `loc`.
        levels: how many integers the support holds.
        edges: between the levels, rising, in levels, (levels - 1,); None for `even_edges`.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        levels: int,
        validate_args: bool | None = None,
        edges: Tensor | None = None,
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels, self.edges = levels, edges
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> DiscretizedLogistic:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return DiscretizedLogistic(loc, scale, self.levels, False, self.edges)

    def upper(self, value: Tensor) -> Tensor:
        """The edge above a level -1..levels-1; beyond the first and the last, which are open, any number."""
        if self.edges is None:
            return value + 0.5
        around = torch.cat([self.edges[:1] - 1, self.edges, self.edges[-1:] + 1])
        return around.to(value.dtype)[value.long() + 1]

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x = value) in nats, elementwise.

        With a and b the bin's edges, s(b) - s(a) = s(b) s(-a) (1 - e^(a-b)) for the sigmoid s: three terms that are
        each exact in floating point at any distance from the centre, and of which an open edge drops its own.
        """
        if self._validate_args:
            self._validate_sample(value)
        upper, lower = self.upper(value), self.upper(value - 1)
        below_upper = F.logsigmoid((upper - self.loc) / self.scale)
        above_lower = F.logsigmoid(-(lower - self.loc) / self.scale)
        width = torch.log(-torch.expm1((lower - upper) / self.scale))
        bottom, top = value <= 0, value >= self.levels - 1
        zero = torch.zeros_like(below_upper)
        return (
            torch.where(top, zero, below_upper)
            + torch.where(bottom, zero, above_lower)
            + torch.where(top | bottom, zero, width)
        )

    def cdf(self, value: Tensor) -> Tensor:
        """P(x <= value)."""
        inside = torch.sigmoid((self.upper(value.floor().clamp(-1, self.levels - 1)) - self.loc) / self.scale)
        inside = torch.where(value < 0, torch.zeros_like(inside), inside)
        return torch.where(value >= self.levels - 1, torch.ones_like(inside), inside)

    @property
    def mean(self) -> Tensor:
        """E[x] = sum over i < levels - 1 of P(x > i), exact; of more than 256 levels the integral of the same, which is
        less than half of a level from it. Of uneven edges those near the centre are summed also then: a tenth of a
        level from it at most where edges are those of `used_edges`, which take the even ones' place on average."""
        if self.levels > MOST_SUMMED:
            if self.edges is None:
                return self._integral(0, self.levels - 1)
            first = (self.loc.round().long() - NEAR).clamp(0, self.levels - 1 - 2 * NEAR)
            last, edges = first + 2 * NEAR, self.edges.to(self.loc)
            total = self._integral(0, first) + self._integral(last, self.levels - 1)
            for i in range(2 * NEAR):
                total = total + torch.sigmoid((self.loc - edges[first + i]) / self.scale)
            return total
        total = torch.zeros_like(self.loc)
        for edge in self._edges():
            total = total + torch.sigmoid((self.loc - edge) / self.scale)
        return total

    @property
    def variance(self) -> Tensor:
        """E[x^2] - E[x]^2, with E[x^2] = sum over i of (2i + 1) P(x > i); not of more than 256 levels."""
        if self.levels > MOST_SUMMED:
            raise NotImplementedError(f"the variance of {self.levels} levels")
        second = torch.zeros_like(self.loc)
        for i, edge in enumerate(self._edges()):
            second = second + (2 * i + 1) * torch.sigmoid((self.loc - edge) / self.scale)
        return second - self.mean**2

    def _integral(self, low: Tensor | int, high: Tensor | int) -> Tensor:
        """Of P(x > i) from one place in the range to another, by even edges."""
        at_low, at_high = (F.softplus((self.loc - end) / self.scale) for end in (low, high))
        return self.scale * (at_low - at_high)

    def _edges(self) -> list[float]:
        edges: list[float] = (even_edges(self.levels) if self.edges is None else self.edges).tolist()
        return edges

    def sample(self, sample_shape: _size = ()) -> Tensor:
        with torch.no_grad():
            u = torch.rand(self._extended_shape(Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
            u = u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps)
            drawn = self.loc + self.scale * torch.logit(u)
            if self.edges is None:
                return drawn.round().clamp(0, self.levels - 1)
            return torch.searchsorted(self.edges.to(drawn.dtype), drawn.contiguous()).to(drawn.dtype)
