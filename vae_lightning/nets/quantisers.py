"""Codebooks: indices to vectors and back; and quantisers, which take any vector to that of a code.

Legend of shapes: n positions, each with one of K codes of `depth` numbers; S any leading shape.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_lightning.nets.base import at_least_float32


class Codebook(nn.Module, ABC):
    """K vectors by their indices 0..K-1. Its numbers stay float32 when the model is made half precision.

    Args:
        size: K.
        depth: numbers of a vector.
    """

    _here: Tensor

    def __init__(self, size: int, depth: int) -> None:
        super().__init__()
        self.size, self.depth = size, depth
        self.register_buffer("_here", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._here.device

    @abstractmethod
    def vectors(self, indices: Tensor) -> Tensor:
        """(*S, n) int64 -> (*S, n, depth) float32."""

    @abstractmethod
    def indices(self, vectors: Tensor) -> Tensor:
        """(*S, n, depth) -> (*S, n) int64: the inverse of `vectors`, and of other vectors the nearest code."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        return super()._apply(lambda value: at_least_float32(fn(value)), recurse)


class Quantised(NamedTuple):
    """Vectors of codes (*S, n, depth), which pass gradients on to what was quantised; and their indices (*S, n)."""

    vectors: Tensor
    indices: Tensor


class Quantiser(Codebook):
    """Takes vectors to those of codes, in float32 under any precision."""

    commits = False
    """Whether its vectors have to be drawn to their codes by the objective, see `VQ`: where the codes follow the
    vectors and not the loss."""

    def forward(self, x: Tensor) -> Quantised:
        """(*S, n, depth) -> the nearest codes."""
        with torch.autocast(x.device.type, enabled=False):
            return self.quantise(at_least_float32(x))

    @abstractmethod
    def quantise(self, x: Tensor) -> Quantised:
        """The same of float32 or float64, outside of autocast."""

    def fit(self, x: Tensor) -> None:
        """Begins the codes at training vectors (N, depth). Does nothing by default."""
        return


QuantiserFactory = Callable[[], Quantiser]
"""How a configuration file names a quantiser."""


class FiniteScalarQuantiser(Quantiser):
    """Each of d numbers is bounded to (-1, 1) and rounded to one of L_i levels; a code is one combination, so that
    K = prod L_i, and there is no codebook to learn (Mentzer et al. 2023, section 3.1). Gradients pass straight through
    the rounding.

    The bound is that of the paper's appendix A.1: round((L - 1) / 2 tanh(y)), moved by half a level where L is even,
    and divided by floor(L / 2).

    Args:
        levels: L_i, 2 or more of each number. [8, 6, 5] has 240 codes, [8, 5, 5, 5] has 1000, [7, 5, 5, 5, 5] 4375
            (table 1).
    """

    base: Tensor
    strides: Tensor

    def __init__(self, levels: list[int] = [8, 5, 5, 5]) -> None:  # noqa: B006 (never changed)
        if not levels or min(levels) < 2:
            raise ValueError(f"FiniteScalarQuantiser.levels: expected 2 or more of each number, got {levels}.")
        super().__init__(math.prod(levels), len(levels))
        base = torch.tensor(levels)
        self.register_buffer("base", base, persistent=False)
        self.register_buffer("strides", base.cumprod(0) // base, persistent=False)

    def quantise(self, x: Tensor) -> Quantised:
        half, offset = (self.base - 1) / 2 * (1 + 1e-3), 0.5 * (self.base % 2 == 0)
        bounded = (x + (offset / half).atanh()).tanh() * half - offset
        steps = bounded + (bounded.round() - bounded).detach()
        vectors = steps / (self.base // 2)
        return Quantised(vectors, self.indices(vectors.detach()))

    def vectors(self, indices: Tensor) -> Tensor:
        digits = indices[..., None] // self.strides % self.base
        return (digits - self.base // 2).float() / (self.base // 2)

    def indices(self, vectors: Tensor) -> Tensor:
        half = self.base // 2
        digits = (vectors * half).round().long() + half
        return (digits.clamp_min(0).minimum(self.base - 1) * self.strides).sum(-1)


class OneHotCodes(Codebook):
    """K one-hot vectors of K numbers: the codes of a categorical latent.

    Args:
        size: K.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, size)

    def vectors(self, indices: Tensor) -> Tensor:
        return F.one_hot(indices, self.size).float()

    def indices(self, vectors: Tensor) -> Tensor:
        return vectors.argmax(-1)
