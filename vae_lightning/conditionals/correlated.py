"""q(z|x) by Gaussians whose latents hang together, as those of p(z|x) do under most decoders."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lightning.conditionals.posterior import latent_head
from vae_lightning.core import Conditional, Shape, Spec
from vae_lightning.distributions import FullCovarianceNormal, LowRankNormal
from vae_lightning.nets import MLP, NetFactory, at_least_float32, bounded_log_scale, zeroed

START = 0.5
"""Length of the low-rank factor's rows at the start: at 0 they would get no gradient, and near to it hardly any."""


class CorrelatedPosterior(Conditional):
    """q(z|x) = N(mu(x), S C S) with the standard deviations S = diag sigma(x) and correlations C(x). Starts at S = I,
    near the prior. The KL to N(0, I), or to other independent Gaussians, is in closed form.

    Args:
        spec: of the images.
        latent_shape: (d,).
        net: from the image, scaled to [0, 1], to features.
        told: how many numbers C is made of.
    """

    def __init__(self, spec: Spec, latent_shape: Shape, net: NetFactory, told: int) -> None:
        super().__init__()
        self.net = net(spec.image_shape, spec.image_shape)
        features, size = self.net.out_shape, math.prod(latent_shape)
        self.mu, self.log_scale = latent_head(features, size), zeroed(latent_head(features, size))
        self.correlation = zeroed(nn.Linear(math.prod(features), told))

    @abstractmethod
    def density(self, mu: Tensor, sigma: Tensor, told: Tensor) -> Distribution:
        """Of (B, d), (B, d) and (B, told)."""

    def forward(self, context: Tensor) -> Distribution:
        features = self.net(context)
        flat = features.flatten(-len(self.net.out_shape))
        mu, raw, told = (
            at_least_float32(it) for it in (self.mu(features), self.log_scale(features), self.correlation(flat))
        )
        return self.density(mu, bounded_log_scale(raw).exp(), told)


class FullCovariancePosterior(CorrelatedPosterior):
    """C = M M^T with M = I + N, its rows brought to length 1, and N strictly lower triangular: S M is a Cholesky factor
    of any covariance. The encoder says d (d + 3) / 2 numbers.

    Args:
        spec: of the images.
        latent_shape: (d,).
        net: from the image, scaled to [0, 1], to features.
    """

    def __init__(self, spec: Spec, latent_shape: Shape, net: NetFactory = MLP) -> None:
        size = math.prod(latent_shape)
        super().__init__(spec, latent_shape, net, size * (size - 1) // 2)

    def density(self, mu: Tensor, sigma: Tensor, told: Tensor) -> Distribution:
        size = mu.shape[-1]
        row, column = torch.tril_indices(size, size, -1, device=mu.device)
        unit = torch.eye(size, dtype=mu.dtype, device=mu.device).repeat(*mu.shape[:-1], 1, 1)
        unit[..., row, column] = told
        rows = unit / unit.norm(dim=-1, keepdim=True)
        return FullCovarianceNormal(mu, scale_tril=sigma[..., None] * rows, validate_args=False)


class LowRankPosterior(CorrelatedPosterior):
    """C = W W^T + I, brought to a diagonal of 1, with a factor W of few columns: latents hang together along `rank`
    directions.

    Args:
        spec: of the images.
        latent_shape: (d,).
        net: from the image, scaled to [0, 1], to features.
        rank: columns of W, at most d.
    """

    def __init__(self, spec: Spec, latent_shape: Shape, net: NetFactory = MLP, rank: int = 2) -> None:
        size = math.prod(latent_shape)
        if not 1 <= rank <= size:
            raise ValueError(f"LowRankPosterior.rank: expected 1 to {size}, the number of latents, got {rank}.")
        super().__init__(spec, latent_shape, net, size * rank)
        self.rank = rank
        nn.init.normal_(self.correlation.bias, std=START / math.sqrt(rank))

    def density(self, mu: Tensor, sigma: Tensor, told: Tensor) -> Distribution:
        factor = told.unflatten(-1, (mu.shape[-1], self.rank))
        own = sigma / (1 + factor.square().sum(-1)).sqrt()  # what each latent has for itself
        return LowRankNormal(mu, own[..., None] * factor, own.square(), validate_args=False)
