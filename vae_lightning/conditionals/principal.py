"""Encoder and likelihood that begin as probabilistic PCA of the training images, the best linear VAE (Tipping & Bishop
1999; Lucas et al. 2019), and whose nets learn what is to be changed about it.

A net that begins at random spends its first thousands of steps on finding the subspace that one decomposition gives;
with few images or little time it never gets there. The components stay as they are found, in buffers, since steps of
one size for all weights would blur the small ones; what the nets add to them begins at zero.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.conditionals.discrete import SMALLEST_SCALE, logistic_of_levels
from vae_lightning.conditionals.likelihood import Likelihood
from vae_lightning.conditionals.posterior import latent_head
from vae_lightning.core import Conditional, Shape, Spec, seeded
from vae_lightning.distributions import LinkedChannels, even_edges, used_edges
from vae_lightning.nets import MLP, NetFactory, at_least_float32, bounded_log_scale
from vae_lightning.nets.base import LOG_SCALE_BOUND

MOST_VALUES = 2**26
"""Of the images that the components are found in: 256 MiB."""
HELD_OUT = 4
"""One image in so many tells the variances along the components of the others, and what these leave: of the images that
gave them, the one is far too large, and the other far too small. Both are then taken for all images' components."""
IMAGES = 10
"""Images for each component of whole images, at least: of fewer, components tell these images so well that training on
them makes the scales too narrow for any others. Blocks are many in every image."""
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
        """Of q(z|x): A^T, (D, d), by which x - m is brought to the mean, and the scales, (d,)."""
        precise = self._linked(self._linked(self.weight) / self.scale.square(), back=True).flatten(1)  # W P
        inverse = torch.eye(len(self.weight)).to(precise) + precise @ self.weight.T
        return torch.linalg.solve(inverse, precise).T, inverse.diagonal().rsqrt()

    def _linked(self, x: Tensor, back: bool = False) -> Tensor:
        """Channels less what those before them share, of (n, D); or the transpose of that, (n, C, H, W)."""
        x = x.unflatten(1, self.mean.shape) if x.dim() == 2 else x
        square = torch.eye(len(self.mean)).to(x)
        square[:-1] -= self.link
        return torch.einsum("jc,njhw->nchw", square.T if back else square, x)


def principal_start(image: Tensor, levels: int, size: int) -> Start:
    """Probabilistic PCA of images (N, C, H, W), integers: of whole images, and of blocks of what these leave, `size` in
    all, or fewer where images are few or small. Channels share noise. The same images give the same numbers."""
    x = image[: max(2, MOST_VALUES // image[0].numel())].float() / (levels - 1)
    shape, mean = x.shape[1:], x.mean(0)
    x = (x - mean).flatten(1)
    held_out, values = torch.arange(len(x), device=x.device) % HELD_OUT == HELD_OUT - 1, x.shape[1]
    some, told = (x[~held_out], x[held_out]) if held_out.sum() > 1 else (x, x)
    rounding = 1 / 12 / (levels - 1) ** 2
    sizes = min(int(WHOLE * size), len(x) // IMAGES, values // 2), min(size, int(ALL * values))
    with seeded(0, x.device):
        whole, blocks = _components(some, shape, *sizes)
        found = torch.cat(_components(x, shape, *sizes), 1) if len(told) < len(x) else torch.cat([whole, blocks], 1)
        weight, recovered = x.new_zeros(size, values), torch.zeros_like(told)
        if k := found.shape[1]:
            code = torch.cat([told @ whole, (told - (told @ whole) @ whole.T) @ blocks], 1)
            variance = code.square().mean(0).clamp_min(rounding / HELD_OUT)
            noise = ((told.square().sum() / len(told) - variance.sum()) / (values - k)).clamp_min(rounding)
            gain = (1 - noise / variance).clamp_min(0)
            weight[:k] = (found * (gain * variance).sqrt()).T
            code = gain * code + (noise * gain).sqrt() * torch.randn_like(code)
            recovered = code @ torch.cat([whole, blocks], 1).T
    residual = (told - recovered).unflatten(1, shape)
    covariance = torch.einsum("njhw,nchw->jc", residual, residual) / residual[:, 0].numel()
    link = x.new_zeros(shape[0] - 1, shape[0])
    for c in range(1, shape[0]):
        before = covariance[:c, :c] + SHARE * torch.diag(covariance.diagonal()[:c].clamp_min(rounding))
        link[:c, c] = torch.linalg.solve(before, covariance[:c, c])
    unshared = Start(mean, weight, mean, link)._linked(residual)
    return Start(mean, weight, unshared.square().mean(0).clamp_min(rounding).sqrt(), link)


def _components(x: Tensor, shape: Shape, most_whole: int, most: int) -> tuple[Tensor, Tensor]:
    """Directions of centred images (N, D): of whole images, (D, k), and of blocks of what these leave, (D, l)."""
    whole = _of_whole(x, most_whole)
    return whole, _of_blocks(x - (x @ whole) @ whole.T, shape, most - whole.shape[1])


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


class PrincipalPosterior(Conditional):
    """q(z|x) = N(A (x - m) + mu(x), diag(s sigma(x))^2), with A, m and s those of probabilistic PCA and mu = 0, sigma =
    1 at first: its exact posterior. Latents beyond the components begin at the prior.

    Args:
        spec: of the images.
        latent_shape: (d,).
        net: from the image, scaled to [0, 1], to features.
    """

    mean: Tensor
    directions: Tensor
    log_scale_at_first: Tensor

    def __init__(self, spec: Spec, latent_shape: Shape, net: NetFactory = MLP) -> None:
        super().__init__()
        self.levels, size, values = spec.levels, math.prod(latent_shape), math.prod(spec.image_shape)
        self.net = net(spec.image_shape, spec.image_shape)
        self.mu, self.log_scale = latent_head(self.net.out_shape, size), latent_head(self.net.out_shape, size)
        for parameter in [*self.mu.parameters(), *self.log_scale.parameters()]:
            nn.init.zeros_(parameter)
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("directions", torch.zeros(values, size))
        self.register_buffer("log_scale_at_first", torch.zeros(size))

    def init_from_data(self, image: Tensor) -> None:
        """Finds A, m and s from images (N, C, H, W), integers."""
        start = principal_start(image, self.levels, self.directions.shape[1])
        directions, scale = start.posterior()
        self.mean.copy_(start.mean.flatten())
        self.directions.copy_(directions)
        self.log_scale_at_first.copy_(LOG_SCALE_BOUND * torch.atanh((scale.log() / LOG_SCALE_BOUND).clamp(-0.99, 0.99)))

    def forward(self, context: Tensor) -> Distribution:
        features = self.net(context)
        with torch.autocast(context.device.type, enabled=False):  # half precision is coarser than the posterior
            linear = (at_least_float32(context).flatten(-3) - self.mean) @ self.directions
        mu, raw = at_least_float32(self.mu(features) + linear), at_least_float32(self.log_scale(features))
        scale = bounded_log_scale(raw + self.log_scale_at_first).exp()
        return Independent(Normal(mu, scale, validate_args=False), 1, validate_args=False)


class PrincipalLogisticLikelihood(Likelihood):
    """`LinkedLogisticLikelihood` about W z + m + what the net adds, with W and m those of probabilistic PCA, and scales
    and links at first those of what PCA leaves at each value. Goes with `PrincipalPosterior`.

    Levels that the training images never hold, between others that they do (the digits' 17 grey levels in files of
    256), take no share of the mass to speak of: `used_edges`.

    Args:
        latent_shape: (d,).
        spec: of the images, grey or in colour.
        net: from the latent to features.
    """

    mean: Tensor
    directions: Tensor
    scale_at_first: Tensor
    link: Tensor
    edges: Tensor

    def __init__(self, latent_shape: Shape, spec: Spec, net: NetFactory = MLP) -> None:
        if spec.levels == 2:
            raise ValueError(
                "PrincipalLogisticLikelihood expects grey images, got binary ones: choose BernoulliLikelihood, with "
                "GaussianPosterior."
            )
        channels, size = spec.image_shape[0], math.prod(latent_shape)
        super().__init__(latent_shape, spec, net, num_params=1 + channels)
        nn.init.zeros_(self.head.last.weight)
        self.register_buffer("mean", torch.zeros(spec.image_shape))
        self.register_buffer("directions", torch.zeros(size, math.prod(spec.image_shape)))
        self.register_buffer("scale_at_first", torch.zeros(spec.image_shape))
        self.register_buffer("link", torch.zeros(channels - 1, channels))
        self.register_buffer("edges", even_edges(spec.levels))

    def init_from_data(self, image: Tensor) -> None:
        """Finds W, m, the scales, the links and the levels in use from images (N, C, H, W), integers."""
        start = principal_start(image, self.levels, len(self.directions))
        self.mean.copy_(start.mean)
        self.directions.copy_(start.weight)
        self.link.copy_(start.link)
        of_logistic = start.scale * (self.levels - 1) * math.sqrt(3) / math.pi  # whose variance is (pi scale)^2 / 3
        share = (of_logistic - SMALLEST_SCALE).clamp_min(SMALLEST_SCALE) * math.log(2) / (0.1 * (self.levels - 1))
        self.scale_at_first.copy_(share.expm1().log())  # softplus's inverse
        self.edges.copy_(used_edges(image, self.levels))

    def forward(self, context: Tensor) -> Distribution:
        loc, raw_scale, weight = self.params(context).split((1, 1, self.head.num_params - 2), -4)
        with torch.autocast(context.device.type, enabled=False):
            linear = (at_least_float32(context) @ self.directions).unflatten(-1, self.mean.shape) + self.mean
        raw_scale = raw_scale.squeeze(-4) + self.scale_at_first
        density = logistic_of_levels(linear + loc.squeeze(-4), raw_scale, self.levels)
        return LinkedChannels(density.loc, density.scale, weight + self.link[..., None, None], self.levels, self.edges)
