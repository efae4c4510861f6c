"""How integers are pushed to and popped from a stack under arrays of parameters.

Legend of shapes: n values, each with its own parameters; E edges between levels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import constriction
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_lightning.compression.stack import Integers, Stack

_models = constriction.stream.model
RADIX = 4
"""Into how many parts one decision splits an interval of levels. A decision between four costs the coder less than one
between two, and halves their number."""
SMALLEST_MASS = 1e-290
"""So that where floating point finds no mass in any part, all are equally likely; any other mass is far above it."""
TILE = 2**12
"""Values whose decisions are made at a time: what they take stays in the processor's cache."""


class Codec(ABC):
    """n integers 0..levels-1 under a density: a push costs their -log2 P in bits, and a pop is its exact inverse.

    A codec computes the same numbers from the same parameters bit for bit, in `push` as in `pop`: elementwise, over
    arrays of the same shape.
    """

    levels: int

    @abstractmethod
    def push(self, stack: Stack, symbols: Integers) -> None:
        """Pushes symbols (n,) int32."""

    @abstractmethod
    def pop(self, stack: Stack) -> Integers:
        """Pops symbols (n,) int32."""


class Table(Codec):
    """A probability for every level of every value: for few levels, and for densities that are such a table already.
    (Two levels this way take constriction half the time of its Bernoulli model.)

    Args:
        probabilities: (n, levels), each row summing to one.
    """

    def __init__(self, probabilities: Tensor) -> None:
        self.levels = probabilities.shape[-1]
        self.probabilities = _array(probabilities)
        self.model = _models.Categorical(perfect=False)

    def push(self, stack: Stack, symbols: Integers) -> None:
        stack.push(symbols, self.model, self.probabilities)

    def pop(self, stack: Stack) -> Integers:
        return stack.pop(self.model, self.probabilities)


Tails = Callable[..., tuple[Tensor, Tensor]]
"""(edges (E, n), *parameters (n, ...)) -> P(x < edge) and P(x >= edge), (E, n) each, in float64. Both, since only the
smaller one is exact in floating point. Edges beyond the range are -inf and inf, where they must be 0 and 1."""


class Search(Codec):
    """Ordered levels, each value found from the top down: in which of RADIX parts of the range, in which of the RADIX
    parts of that part, and so on. The density says its tails at a few edges, and no table of all levels is made.

    The coder keeps every probability away from zero, so that each level can be coded, however far in a tail.

    Args:
        levels: how many levels.
        tails: the two tail probabilities.
        parameters: of `tails`, the first dimension of each being the n values.
    """

    def __init__(self, levels: int, tails: Tails, *parameters: Tensor) -> None:
        self.levels, self.tails, self.parameters = levels, tails, parameters
        # The width of the parts, decision after decision, and their number: in the first no more than the range holds,
        # so that where that is a power of two, no part is empty, and no pop from random bits can end beyond it.
        self.decisions = [(RADIX**i, RADIX) for i in reversed(range(_digits(levels)))]
        self.decisions[0] = (self.decisions[0][0], -(-levels // self.decisions[0][0]))
        self.model = _models.Categorical(perfect=False)

    def push(self, stack: Stack, symbols: Integers) -> None:
        for tile in self._tiles():
            rows, parameters = symbols[tile], self._load(tile)
            made = []
            for width, count in self.decisions:
                start = rows - rows % (width * RADIX)
                made.append((rows // width % RADIX, self._parts(start, width, count, parameters)))
            for decision, parts in reversed(made):  # so that the pop meets the first decision first
                stack.push(decision, self.model, parts)

    def pop(self, stack: Stack) -> Integers:
        symbols = np.zeros(len(self.parameters[0]), dtype=np.int32)
        for tile in reversed(self._tiles()):
            rows, parameters = symbols[tile], self._load(tile)
            for width, count in self.decisions:
                rows += np.int32(width) * stack.pop(self.model, self._parts(rows, width, count, parameters))
        if len(symbols) and symbols.max() >= self.levels:  # a part beyond the range, which nobody pushes
            raise ValueError("the words do not decode: a level beyond the range came out.")
        return symbols

    def _tiles(self) -> list[slice]:
        return [slice(i, i + TILE) for i in range(0, len(self.parameters[0]), TILE)]

    def _load(self, tile: slice) -> list[Tensor]:
        return [parameter[tile].double() for parameter in self.parameters]

    def _parts(self, start: Integers, width: int, count: int, parameters: list[Tensor]) -> NDArray:
        """The masses of `count` parts of `width` levels each from `start` (n,) on, up to a factor: (n, count)."""
        edges = torch.from_numpy(start).double() + width * torch.arange(count + 1, dtype=torch.float64)[:, None]
        edges.masked_fill_(edges <= 0, -torch.inf).masked_fill_(edges >= self.levels, torch.inf)
        below, above = self.tails(edges, *parameters)
        # Left of the median the difference of what is below, right of it of what is above: neither cancels.
        mass = torch.where(below[:-1] < 0.5, below[1:] - below[:-1], above[:-1] - above[1:])
        return np.ascontiguousarray(mass.clamp_min_(SMALLEST_MASS).numpy().T)


@dataclass(frozen=True)
class Grid:
    """Where latents may lie: the middles of the cells of width 2^-exponent between -reach and reach (a power of 2), the
    same for prior and posterior. The outermost cells are open. A codec of latents codes the numbers of cells,
    0..levels-1."""

    exponent: int
    reach: int

    @property
    def levels(self) -> int:
        return 2 * self.reach * 2**self.exponent

    def points(self, symbols: Integers, like: Tensor) -> Tensor:
        """Numbers of cells to their middles, exact in float32, of the shape, type and device of `like`."""
        numbers = torch.from_numpy(symbols).to(like.device, like.dtype).view(like.shape)
        return (numbers - (self.levels / 2 - 0.5)) * 2.0**-self.exponent

    def in_cells(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """A location and a scale in units of cells and from the first edge on, as `Search` counts: (n,) float64."""
        loc, scale = loc.flatten().cpu().double(), scale.flatten().cpu().double()
        return loc * 2.0**self.exponent + self.levels / 2, scale * 2.0**self.exponent


def _digits(levels: int) -> int:
    """How many decisions among RADIX tell that many levels apart."""
    return max(1, math.ceil(math.log(levels, RADIX) - 1e-9))


def _array(parameter: Tensor) -> NDArray:
    return parameter.cpu().contiguous().numpy()
