"""The code of Gaussians whose values hang together: one value after another, each under those before it.

Legend of shapes: B images, d numbers in a latent.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from vae_lightning.compression.codecs import Codec, Grid, Search
from vae_lightning.compression.densities import latent_codec, normal_tails, require_finite
from vae_lightning.compression.stack import Integers, Stack

NARROW = 0.3
"""Cells: of a latent that is narrower, where it lies in its cell says nothing of its noise, and is taken for less."""


class GaussianChain(Codec):
    """N(loc, L L^T) as the chain of p(z_i | z_<i) = N(loc_i + sum_j<i L_ij e_j, L_ii^2), e_j the noise that z_j is made
    of, with all z at the middles of their cells. In float64 on the CPU, step by step in `push` as in `pop`.

    Args:
        loc: in cells, (B, d) float64.
        scale_tril: L in cells, (B, d, d) float64, of a positive diagonal.
        levels: cells.
    """

    def __init__(self, loc: Tensor, scale_tril: Tensor, levels: int) -> None:
        self.loc, self.scale_tril, self.levels = loc, scale_tril, levels

    def _next(self, noise: list[Tensor]) -> tuple[Search, Tensor]:
        """Of the latent behind as many as `noise` (B,) is known of: its codec and its mean."""
        i = len(noise)
        mean = self.loc[:, i]
        for j, known in enumerate(noise):
            mean = mean + self.scale_tril[:, i, j] * known
        return Search(self.levels, normal_tails, mean, self.scale_tril[:, i, i]), mean

    def _noise(self, i: int, mean: Tensor, column: Integers) -> Tensor:
        narrow = self.scale_tril[:, i, i].clamp_min(NARROW)
        return (torch.from_numpy(column).double() + 0.5 - mean) / narrow

    def push(self, stack: Stack, symbols: Integers) -> None:
        columns, noise, codecs = symbols.reshape(self.loc.shape).T, list[Tensor](), list[Search]()
        for i, column in enumerate(columns):
            codec, mean = self._next(noise)
            codecs.append(codec)
            noise.append(self._noise(i, mean, column))
        for column, codec in zip(columns[::-1], reversed(codecs), strict=True):  # so that the pop meets the first first
            codec.push(stack, np.ascontiguousarray(column))

    def pop(self, stack: Stack) -> Integers:
        noise, found = list[Tensor](), list[Integers]()
        for i in range(self.loc.shape[1]):
            codec, mean = self._next(noise)
            found.append(codec.pop(stack))
            noise.append(self._noise(i, mean, found[-1]))
        symbols: Integers = np.stack(found, -1).astype(np.int32).ravel()
        return symbols


@latent_codec.register
def _(density: MultivariateNormal, grid: Grid) -> Codec:
    return _chain(density, density.scale_tril.cpu().double(), grid)


@latent_codec.register
def _(density: LowRankMultivariateNormal, grid: Grid) -> Codec:
    factor = require_finite(density, density.cov_factor).cpu().double()
    covariance = factor @ factor.mT + require_finite(density, density.cov_diag).cpu().double().diag_embed()
    scale_tril, failed = torch.linalg.cholesky_ex(covariance)
    if bool(failed.any()):
        raise ValueError(
            "expected a covariance that is positive definite, got a low-rank factor of up to "
            f"{factor.abs().max():.0e} beside variances of {density.cov_diag.min():.0e}: the model has diverged or its "
            "file is damaged; take another checkpoint."
        )
    return _chain(density, scale_tril, grid)


def _chain(density: MultivariateNormal | LowRankMultivariateNormal, scale_tril: Tensor, grid: Grid) -> Codec:
    loc, tril = require_finite(density, density.loc), require_finite(density, scale_tril)
    (in_cells, tril_in_cells), size = grid.in_cells(loc, tril), loc.shape[-1]
    return GaussianChain(in_cells.view(-1, size), tril_in_cells.view(-1, size, size), grid.levels)
