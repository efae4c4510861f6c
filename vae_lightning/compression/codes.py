"""The code of discrete latents: their indices, under the prior; a quantiser's posterior, a point, costs and brings no
bits."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent

from vae_lightning.compression.codecs import Codec, Grid, Table
from vae_lightning.compression.densities import latent_codec, latent_points, popped, require_finite
from vae_lightning.compression.stack import Integers, Stack
from vae_lightning.distributions import AutoregressiveCategorical, CodePoint, Codes, OfCodes, RelaxedCodes


@latent_points.register
def _(density: OfCodes, grid: Grid, symbols: Integers) -> Tensor:
    indices = torch.from_numpy(symbols).long().to(density.book.device)
    return density.latent_of(indices.view(*density.batch_shape, density.positions))


@latent_points.register
def _(density: Categorical, grid: Grid, symbols: Integers) -> Tensor:
    return torch.from_numpy(symbols).long().to(density.logits.device).view(density.batch_shape)


@latent_points.register
def _(density: Independent, grid: Grid, symbols: Integers) -> Tensor:
    """Those of what it is made of, in the same order: the shapes are one another's."""
    return latent_points(density.base_dist, grid, symbols)


@popped.register
def _(density: OfCodes) -> int:
    return math.prod(density.batch_shape) * density.positions


@popped.register
def _(density: CodePoint) -> int:
    return 0


class Known(Codec):
    """Symbols that both sides know: no bits.

    Args:
        symbols: (n,) int32.
        levels: 0..levels-1 of which they are.
    """

    def __init__(self, symbols: Integers, levels: int) -> None:
        self.symbols, self.levels = symbols, levels

    def push(self, stack: Stack, symbols: Integers) -> None:
        if not np.array_equal(symbols, self.symbols):
            raise ValueError("the words do not decode: the codes of an image are others than those it was made of.")

    def pop(self, stack: Stack) -> Integers:
        return self.symbols


class OneByOne(Codec):
    """The n codes of every image one after the other, each under those before it: with the same arithmetic in `push`
    as in `pop`, position by position and with a cache, since one pass over all sums in another order."""

    def __init__(self, density: AutoregressiveCategorical, levels: int) -> None:
        self.density, self.levels = density, levels
        self.count = density.event_shape[0]

    def _table(self, logits: Tensor) -> Table:
        return Table(require_finite(self.density, logits).double().softmax(-1).cpu())

    def push(self, stack: Stack, symbols: Integers) -> None:
        codes = symbols.reshape(-1, self.count)
        step, before, tables = self.density.begin(self.density.batch_shape), None, []
        for column in codes.T:
            logits = step(before)
            tables.append(self._table(logits))
            before = torch.from_numpy(column.astype(np.int64)).to(logits.device)
        for column, table in zip(codes.T[::-1], reversed(tables), strict=True):  # so that the pop meets the first first
            table.push(stack, np.ascontiguousarray(column))

    def pop(self, stack: Stack) -> Integers:
        step, before, found = self.density.begin(self.density.batch_shape), None, []
        for _ in range(self.count):
            logits = step(before)
            found.append(self._table(logits).pop(stack))
            before = torch.from_numpy(found[-1].astype(np.int64)).to(logits.device)
        symbols: Integers = np.stack(found, -1).astype(np.int32).ravel()
        return symbols


@latent_codec.register
def _(density: CodePoint, grid: Grid) -> Codec:
    return Known(density.indices.flatten().cpu().numpy().astype(np.int32), density.num_codes)


@latent_codec.register
def _(density: RelaxedCodes, grid: Grid) -> Codec:
    return _table(density, density.logits)


@latent_codec.register
def _(density: Categorical, grid: Grid) -> Codec:
    return _table(density, density.logits)


@latent_codec.register
def _(density: Codes, grid: Grid) -> Codec:
    of_indices: Distribution = density.of_indices
    if isinstance(of_indices, AutoregressiveCategorical):
        return OneByOne(of_indices, density.num_codes)
    if isinstance(of_indices, Independent) and isinstance(of_indices.base_dist, Categorical):
        return _table(density, of_indices.base_dist.logits)
    raise ValueError(
        f"expected independent or autoregressive codes, got {type(of_indices).__name__}: register a codec for Codes."
    )


def _table(density: Distribution, logits: Tensor) -> Table:
    return Table(require_finite(density, logits).double().softmax(-1).flatten(0, -2).cpu())
