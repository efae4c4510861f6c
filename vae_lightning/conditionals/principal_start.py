"""Probabilistic PCA of images (Tipping & Bishop 1999), of whole images and of blocks, as the start of a model."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_lightning.core import Shape, seeded

MOST_VALUES = 2**26
"""Of the images that the components are found in: 256 MiB."""
HELD_OUT = 4
"""One image in so many tells the variances along the components of the others, and what these leave: of the images that
gave them, the one is far too large, and the other far too small. Both are then taken for all images' components."""
IMAGES = 10
"""Images for each component of whole images, at least: of fewer, components tell these images better than any others,
and a net that trains on them learns scales that are too narrow. Blocks are many in every image."""
WHOLE, ALL = 0.25, 0.75
"""Components of whole images, as a share of the latents at most; and all of them, of an image's values at most."""
BLOCK = 8
"""Side of the blocks whose components tell what those of whole images leave: every image shows many blocks."""
SHARE = 1e-4
"""Of a channel's variance, that keeps the regression on the channels before it well posed."""


class Start(NamedTuple):
    """A linear model x = m + W z + noise of images in [0, 1].

    Args:
        mean: m, (C, H, W).
        weight: W, (d, D).
        scale: standard deviation of the noise of each value, of channels given those before, (C, H, W).
        link: how much of the noise of channel j channel c > j shares, (C - 1, C).
    """

    mean: Tensor
    weight: Tensor
    scale: Tensor
    link: Tensor

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Of q(z|x): A^T, (D, d), by which x - m is brought to the mean, and the scales, (d,), of independent Gaussians
        that are nearest to it."""
        precise = self._linked(self._linked(self.weight) / self.scale.square(), back=True).flatten(1)  # W P
        inverse = torch.eye(len(self.weight)).to(precise) + precise @ self.weight.T
        return torch.linalg.solve(inverse, precise).T, inverse.diagonal().rsqrt()

    def precision(self) -> Tensor:
        """(d, D): what each value adds to the inverse of each latent's posterior variance, which is 1 without any."""
        return (self._linked(self.weight) / self.scale).flatten(1).square()

    def nll(self, x: Tensor) -> Tensor:
        """-log density of centred images (n, D), nats, their mean: what an exact posterior would make of the ELBO."""
        scaled = (self._linked(x) / self.scale).flatten(1)
        weight = (self._linked(self.weight) / self.scale).flatten(1)
        inverse = torch.eye(len(weight)).to(x) + weight @ weight.T
        root = torch.linalg.cholesky(inverse)
        explained = torch.linalg.solve_triangular(root, weight @ scaled.T, upper=False).square().sum()
        quadratic = (scaled.square().sum() - explained) / len(x)
        log_det = 2 * (root.diagonal().log().sum() + self.scale.log().sum())
        return 0.5 * (quadratic + log_det + x.shape[1] * math.log(2 * math.pi))

    def _linked(self, x: Tensor, back: bool = False) -> Tensor:
        """Channels less what those before them share, of (n, D); or the transpose of that, (n, C, H, W)."""
        x = x.unflatten(1, self.mean.shape) if x.dim() == 2 else x
        square = torch.eye(len(self.mean)).to(x)
        square[:-1] -= self.link
        return torch.einsum("jc,njhw->nchw", square.T if back else square, x)


def principal_start(image: Tensor, levels: int, size: int) -> Start:
    """Probabilistic PCA of images (N, C, H, W), integers: of whole images, and of blocks of what these leave, `size` in
    all, or fewer where images are few or small; or of blocks alone, where held-out images are told better so. Channels
    share noise. The same images give the same numbers."""
    x = image[: max(2, MOST_VALUES // image[0].numel())].float() / (levels - 1)
    shape, mean = x.shape[1:], x.mean(0)
    x = (x - mean).flatten(1)
    held_out, values = torch.arange(len(x), device=x.device) % HELD_OUT == HELD_OUT - 1, x.shape[1]
    some, told = (x[~held_out], x[held_out]) if held_out.sum() > 1 else (x, x)
    most_whole, most = min(int(WHOLE * size), len(x) // IMAGES, values // 2), min(size, int(ALL * values))
    rounding = 1 / 12 / (levels - 1) ** 2

    def start(told_by: Components, found: Components) -> Start:
        return _start(told_by, found, told, mean, size, rounding)

    with seeded(0, x.device):
        told_by = [_components(some, shape, count, most) for count in sorted({most_whole, 0})]
        best = min(told_by, key=lambda components: start(components, components).nll(told).item())
        found = _components(x, shape, best.whole.shape[1], most) if len(told) < len(x) else best
        return start(best, found)


def _start(told_by: Components, found: Components, told: Tensor, mean: Tensor, size: int, rounding: float) -> Start:
    """The linear model of the components `found`, (D, k) in all, with the variances that images (n, D), which had no
    part in finding the components `told_by`, have along these."""
    values, (whole, blocks) = told.shape[1], told_by
    weight, recovered = told.new_zeros(size, values), torch.zeros_like(told)
    if k := whole.shape[1] + blocks.shape[1]:
        code = torch.cat([told @ whole, (told - (told @ whole) @ whole.T) @ blocks], 1)
        variance = code.square().mean(0).clamp_min(rounding / HELD_OUT)
        noise = ((told.square().sum() / len(told) - variance.sum()) / (values - k)).clamp_min(rounding)
        gain = (1 - noise / variance).clamp_min(0)
        weight[:k] = (torch.cat(found, 1) * (gain * variance).sqrt()).T
        code = gain * code + (noise * gain).sqrt() * torch.randn_like(code)
        recovered = code @ torch.cat([whole, blocks], 1).T
    residual = (told - recovered).unflatten(1, mean.shape)
    covariance = torch.einsum("njhw,nchw->jc", residual, residual) / residual[:, 0].numel()
    link = told.new_zeros(len(mean) - 1, len(mean))
    for c in range(1, len(mean)):
        before = covariance[:c, :c] + SHARE * torch.diag(covariance.diagonal()[:c].clamp_min(rounding))
        link[:c, c] = torch.linalg.solve(before, covariance[:c, c])
    unshared = Start(mean, weight, mean, link)._linked(residual)
    return Start(mean, weight, unshared.square().mean(0).clamp_min(rounding).sqrt(), link)


class Components(NamedTuple):
    """Directions of centred images, of length 1: of whole images, (D, k), and of blocks of what these leave, (D, l)."""

    whole: Tensor
    blocks: Tensor


def _components(x: Tensor, shape: Shape, count: int, most: int) -> Components:
    """Of centred images (N, D): `count` of whole images, `most` in all."""
    whole = _of_whole(x, count)
    return Components(whole, _of_blocks(x - (x @ whole) @ whole.T, shape, most - count))


def _of_whole(x: Tensor, count: int) -> Tensor:
    """The directions (D, count) of the largest variances of centred images (N, D)."""
    if count < 1:
        return x.new_zeros(x.shape[1], 0)
    return torch.svd_lowrank(x, q=min(count + 10, *x.shape), niter=4)[2][:, :count]


def _of_blocks(x: Tensor, shape: Shape, count: int) -> Tensor:
    """The same of the components of blocks, each at its place."""
    channels, height, width = shape
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    count = min(count, rows * columns * channels * BLOCK**2)
    if count < 1:
        return x.new_zeros(x.shape[1], 0)
    padded = F.pad(x.unflatten(1, shape), (0, columns * BLOCK - width, 0, rows * BLOCK - height))
    cut = padded.unflatten(3, (columns, BLOCK)).unflatten(2, (rows, BLOCK))  # (N, C, rows, 8, columns, 8)
    cut = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (N, places, C 8 8)
    flat = cut.flatten(0, 1)
    directions = torch.linalg.eigh((flat.T @ flat / len(flat)).double())[1].to(x)
    variance = (cut @ directions).square().mean(0)  # (places, C 8 8)
    best = variance.flatten().topk(count).indices
    place, component = best // variance.shape[1], best % variance.shape[1]
    placed = x.new_zeros(count, rows, columns, channels, BLOCK, BLOCK)
    placed.flatten(1, 2)[torch.arange(count), place] = directions.T[component].unflatten(1, (channels, BLOCK, BLOCK))
    whole = placed.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)[..., :height, :width]
    return whole.reshape(count, -1).T
