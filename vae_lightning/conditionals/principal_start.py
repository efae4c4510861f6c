"""Probabilistic PCA of images (Tipping & Bishop 1999), of whole images and of blocks, as the start of a model."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_lightning.core import Spec, seeded

MOST_VALUES = 2**25
"""Of the images that the components are found in: 128 MiB."""
HELD_OUT = 4
"""One image in so many tells the variances along the components of the others, and what these leave: of the images that
gave them, the one is far too large, and the other far too small."""
IMAGES = 10
"""Images for each component of whole images, at least: of fewer, components tell these images better than any others,
and a net that trains on them learns scales that are too narrow. Blocks are many in every image."""
MOST_WHOLE, WHOLE, ALL = 256, 0.25, 0.75
"""Components of whole images, at most, and as a share of the latents; and all of them, of an image's values at most."""
BLOCK = 8
"""Side of the blocks whose components tell what those of whole images leave."""
SHARE = 1e-4
"""Of a channel's variance, that keeps the regression on the channels before it well posed."""


class PrincipalStart(nn.Module):
    """A linear model x = mean + sum_k z_k deviation_k w_k + noise of images in [0, 1], with z ~ N(0, I) and directions
    w_k of length 1: first of whole images, then of blocks of what these leave, all of which lie apart.

    The noise is independent from place to place; of channels given those before it has the standard deviations `scale`
    and the regression `link`.

    Args:
        spec: of the images.
        size: d, how many latents; those beyond the components have a deviation of 0.
    """

    mean: Tensor
    """(C, H, W)."""
    whole: Tensor
    """(w, D), directions of whole images; zeros for those that are not used."""
    blocks: Tensor
    """(Q, Q), a column each, of the Q = C 8 8 values of a block, the same at every place."""
    index: Tensor
    """(d,), which of the w + places Q directions is a latent's."""
    deviation: Tensor
    """(d,)."""
    scale: Tensor
    """(C, H, W)."""
    link: Tensor
    """(C - 1, C): how much of the noise of channel j channel c > j shares."""

    def __init__(self, spec: Spec, size: int) -> None:
        super().__init__()
        self.levels, self.shape = spec.levels, tuple(spec.image_shape)
        channels, height, width = self.shape
        self.rows, self.columns = -(-height // BLOCK), -(-width // BLOCK)
        values, block = math.prod(self.shape), channels * BLOCK**2
        most = min(MOST_WHOLE, int(WHOLE * size), values // 2)
        self.register_buffer("mean", torch.zeros(self.shape))
        self.register_buffer("whole", torch.zeros(most, values))
        self.register_buffer("blocks", torch.eye(block))
        self.register_buffer("index", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("deviation", torch.zeros(size))
        self.register_buffer("scale", torch.ones(self.shape))
        self.register_buffer("link", torch.zeros(channels - 1, channels))

    def code(self, x: Tensor) -> Tensor:
        """Centred images (*S, C, H, W) along the directions, (*S, d)."""
        flat = x.flatten(-3)
        of_whole = flat @ self.whole.T
        left = (flat - of_whole @ self.whole).unflatten(-1, self.shape)
        return torch.cat([of_whole, (self._cut(left) @ self.blocks).flatten(-2)], -1)[..., self.index]

    def image(self, z: Tensor) -> Tensor:
        """Latents (*S, d) -> centred images (*S, C, H, W), without noise."""
        size = len(self.whole) + self.rows * self.columns * len(self.blocks)
        told = z.new_zeros(*z.shape[:-1], size).index_add(-1, self.index, z * self.deviation)
        of_whole, of_blocks = told.split([len(self.whole), size - len(self.whole)], -1)
        blocks = of_blocks.unflatten(-1, (-1, len(self.blocks))) @ self.blocks.T
        return (of_whole @ self.whole).unflatten(-1, self.shape) + self._joined(blocks)

    def precision(self, weight: Tensor) -> Tensor:
        """What the noise's inverse variances (*S, C, H, W), of channels given those before, add to the inverse variance
        of each latent's posterior, which is 1 without any, (*S, d)."""
        whole = self.unshared(self.whole.unflatten(1, self.shape)).flatten(1).square()
        blocks = self.unshared(self.blocks.T.unflatten(1, (-1, BLOCK, BLOCK))).flatten(1).square()
        added = [weight.flatten(-3) @ whole.T, (self._cut(weight) @ blocks.T).flatten(-2)]
        return self.deviation.square() * torch.cat(added, -1)[..., self.index]

    def unshared(self, x: Tensor) -> Tensor:
        """Channels (n, C, h, w) less what those before them share."""
        square = torch.eye(x.shape[1]).to(x)
        square[:-1] -= self.link
        return torch.einsum("jc,njhw->nchw", square, x)

    def gain(self) -> Tensor:
        """By which a code becomes the posterior's mean, (d,)."""
        precision = self.precision(self.scale**-2)
        return precision / (self.deviation * (1 + precision)).clamp_min(1e-12)

    @torch.no_grad()
    def fit(self, image: Tensor) -> None:
        """Finds it all from images (N, C, H, W), integers. Components of whole images are used where held-out images
        are told better with them. The same images give the same numbers."""
        most = max(2, MOST_VALUES // image[0].numel())
        x = image[:: math.ceil(len(image) / most)].float().to(self.mean.device) / (self.levels - 1)  # of all classes
        self.mean.copy_(x.mean(0))
        x = x - self.mean
        held_out = torch.arange(len(x), device=x.device) % HELD_OUT == HELD_OUT - 1
        some, told = (x[~held_out], x[held_out]) if held_out.sum() > 1 else (x, x)
        count = min(len(self.whole), len(x) // IMAGES)
        with seeded(0, x.device):
            found = {each: self._fit(some, told, each) for each in sorted({count, 0})}
            best = min(found, key=found.__getitem__)
            self._fit(some, told, best)
            if len(told) < len(x):
                self._find(x, best)

    def _find(self, x: Tensor, count: int) -> None:
        """The directions of centred images, `count` of them of whole images."""
        flat = x.flatten(1)
        self.whole.zero_()
        if count:
            self.whole[:count] = torch.svd_lowrank(flat, q=min(count + 10, *flat.shape), niter=4)[2][:, :count].T
        left = (flat - (flat @ self.whole.T) @ self.whole).unflatten(1, self.shape)
        cut = self._cut(left).flatten(0, 1)
        self.blocks.copy_(torch.linalg.eigh((cut.T @ cut / len(cut)).double())[1].flip(1))

    def _fit(self, some: Tensor, told: Tensor, count: int) -> float:
        """All but the mean: directions of some images, all else of others. Returns -ELBO of the others under Gaussian
        noise, nats but for a constant."""
        self._find(some, count)
        values, size = math.prod(self.shape), len(self.index)
        number = len(self.whole) + self.rows * self.columns * len(self.blocks)
        self.index = torch.arange(number, device=told.device)
        self.deviation = torch.ones(number, device=told.device)
        rounding = 1 / 12 / (self.levels - 1) ** 2
        variance = self.code(told).square().mean(0)
        most = min(size, int(ALL * values))
        kept = variance.topk(min(most, number)).indices.sort().values
        noise = ((told.square().sum() / len(told) - variance[kept].sum()) / max(1, values - len(kept))).clamp_min(
            rounding
        )
        kept = kept[variance[kept] > noise]
        self.index = F.pad(kept, (0, size - len(kept)))
        of_kept = variance[kept]
        self.deviation = F.pad((of_kept - noise).sqrt(), (0, size - len(kept)))
        shrunk = F.pad(1 - noise / of_kept, (0, size - len(kept)))
        drawn = shrunk * self.code(told) + (noise * shrunk).sqrt() * torch.randn(len(told), size, device=told.device)
        used = self.deviation > 0
        residual = told - self.image(torch.where(used, drawn / self.deviation.clamp_min(1e-12), 0))
        self._fit_noise(residual, rounding)
        mu, precision = self.gain() * self.code(told), 1 + self.precision(self.scale**-2)
        rate = 0.5 * (mu.square().mean(0) + 1 / precision - 1 + precision.log()).sum()
        return (rate + self.scale.log().sum()).item()

    def _fit_noise(self, residual: Tensor, rounding: float) -> None:
        covariance = torch.einsum("njhw,nchw->jc", residual, residual) / residual[:, 0].numel()
        self.link.zero_()
        for c in range(1, len(covariance)):
            before = covariance[:c, :c] + SHARE * torch.diag(covariance.diagonal()[:c].clamp_min(rounding))
            self.link[:c, c] = torch.linalg.solve(before, covariance[:c, c])
        self.scale.copy_(self.unshared(residual).square().mean(0).clamp_min(rounding).sqrt())

    def _cut(self, x: Tensor) -> Tensor:
        """Images (*S, C, H, W) -> blocks (*S, places, C 8 8), zeros beyond the edges."""
        _, height, width = self.shape
        padded = F.pad(x, (0, self.columns * BLOCK - width, 0, self.rows * BLOCK - height))
        cut = padded.unflatten(-1, (self.columns, BLOCK)).unflatten(-3, (self.rows, BLOCK))  # (*S, C, rows, 8, cols, 8)
        return cut.movedim((-4, -2), (-5, -4)).flatten(-3).flatten(-3, -2)

    def _joined(self, blocks: Tensor) -> Tensor:
        """Blocks (*S, places, C 8 8) -> images (*S, C, H, W)."""
        channels, height, width = self.shape
        cut = blocks.unflatten(-1, (channels, BLOCK, BLOCK)).unflatten(-4, (self.rows, self.columns))
        return cut.movedim((-5, -4), (-4, -2)).flatten(-2).flatten(-3, -2)[..., :height, :width]
