"""The code of latents that follow one another: each under the mixture that those before it give."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vae_lightning.compression.codecs import Codec, Grid, Search
from vae_lightning.compression.densities import latent_codec, latent_points, normal_tails, require_finite
from vae_lightning.compression.stack import Integers, Stack
from vae_lightning.distributions import AutoregressiveMixture


class LatentByLatent(Codec):
    """The d latents of every image one after the other, by d evaluations of the density's parameters in `push` as in
    `pop`, each of which sees zeros from its own latent on."""

    def __init__(self, density: AutoregressiveMixture, grid: Grid) -> None:
        self.density, self.grid, self.levels = density, grid, grid.levels
        self.count = density.event_shape[0]
        for parameter in density.parameters(density.zero, None):
            require_finite(density, parameter)

    def _codec(self, i: int, z: Tensor) -> Search:
        logits, mean, scale = (require_finite(self.density, t).flatten(0, -2) for t in self.density.parameters(z, i))
        in_cells = (t.view(mean.shape) for t in self.grid.in_cells(mean, scale))
        return Search(self.levels, mixture_tails, logits.double().softmax(-1).cpu(), *in_cells)

    def _start(self) -> Tensor:
        return torch.zeros_like(self.density.zero, memory_format=torch.contiguous_format)

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


def mixture_tails(edges: Tensor, weights: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """P(x < edge) and P(x >= edge) of mixtures of normals, edges (E, n), the others (n, K): (E, n) each."""
    below, above = normal_tails(edges[..., None], mean, scale)
    return (weights * below).sum(-1), (weights * above).sum(-1)


@latent_codec.register
def _(density: AutoregressiveMixture, grid: Grid) -> Codec:
    return LatentByLatent(density, grid)


@latent_points.register
def _(density: AutoregressiveMixture, grid: Grid, symbols: Integers) -> Tensor:
    return grid.points(symbols, density.zero)
