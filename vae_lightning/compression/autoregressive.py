"""The code of latents that follow one another: each under the mixture that those before it give."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from vae_lightning.compression.codecs import Codec, Grid, Search
from vae_lightning.compression.densities import latent_codec, latent_points, mixed, normal_tails, require_finite
from vae_lightning.compression.stack import Integers, Stack
from vae_lightning.distributions import AutoregressiveMixture


class LatentByLatent(Codec):
    """The d latents of every image one after the other, by d evaluations of the density's parameters in `push` as in
    `pop`, each of which sees zeros from its own latent on."""

    def __init__(self, density: AutoregressiveMixture, grid: Grid) -> None:
        self.density, self.grid, self.levels = density, grid, grid.levels
        self.count = density.event_shape[0]

    def _codec(self, i: int, z: Tensor) -> Search:
        parameters = self.density.parameters(z)
        logits, mean, scale = (require_finite(self.density, parameter[..., i, :]) for parameter in parameters)
        component = Search(self.levels, normal_tails, *self.grid.in_cells(mean, scale))
        return mixed(component, logits.double().softmax(-1).cpu())

    def _start(self) -> Tensor:
        return self.density.zero.contiguous().clone()

    def push(self, stack: Stack, symbols: Integers) -> None:
        points, z, codecs = self.grid.points(symbols, self.density.zero), self._start(), list[Search]()
        for i in range(self.count):
            codecs.append(self._codec(i, z))
            z[..., i] = points[..., i]
        columns = symbols.reshape(-1, self.count).T
        for column, codec in zip(columns[::-1], reversed(codecs), strict=True):  # so that the pop meets the first first
            codec.push(stack, np.ascontiguousarray(column))

    def pop(self, stack: Stack) -> Integers:
        z, found = self._start(), list[Integers]()
        for i in range(self.count):
            found.append(self._codec(i, z).pop(stack))
            z[..., i] = self.grid.points(found[-1], z[..., i])
        symbols: Integers = np.stack(found, -1).astype(np.int32).ravel()
        return symbols


@latent_codec.register
def _(density: AutoregressiveMixture, grid: Grid) -> Codec:
    return LatentByLatent(density, grid)


@latent_points.register
def _(density: AutoregressiveMixture, grid: Grid, symbols: Integers) -> Tensor:
    return grid.points(symbols, density.zero)
