"""Encoder and likelihood that begin as probabilistic PCA of the training images, the best linear VAE (Tipping & Bishop
1999; Lucas et al. 2019), and whose nets, which look at images, learn what is to be changed about it.

A net that begins at random spends its first thousands of steps on finding the subspace that one decomposition gives;
with few images or little time it never gets there. The components stay as they are found, in buffers, since steps of
one size for all weights would blur the small ones; what the nets add to them begins at zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.conditionals.discrete import SMALLEST_SCALE, logistic_of_levels
from vae_lightning.conditionals.likelihood import ImageHead, Likelihood
from vae_lightning.conditionals.principal_start import principal_start
from vae_lightning.core import Conditional, Shape, Spec
from vae_lightning.distributions import LinkedChannels, even_edges, used_edges
from vae_lightning.nets import NetFactory, UNet, at_least_float32, bounded_log_scale

TENTH = 0.1
"""Of the range: the unit of what nets add to an image."""


class PrincipalPosterior(Conditional):
    """q(z|x) = N(a A (x + f(x) - m), diag s(x)^2), the posterior of a linear model x = m + W z + noise. A net says what
    is to be changed about the image, f(x), and how large the noise is at each value, sigma(x); gains a and b, one of
    each a latent, are learned, so that a latent that is not worth its rate can leave:

        s_k(x)^-2 = 1 + b_k sum over values i of (W_ki / sigma_i(x))^2.

    A, m, W and sigma begin as those of probabilistic PCA, with f = 0 and gains of 1: the posterior's mean, and the
    scales of the nearest independent Gaussians. Latents beyond the components stay at the prior.

    Args:
        spec: of the images.
        latent_shape: (d,).
        net: from the image, scaled to [0, 1], to features.
    """

    mean: Tensor
    directions: Tensor
    precision: Tensor

    def __init__(self, spec: Spec, latent_shape: Shape, net: NetFactory = UNet) -> None:
        super().__init__()
        self.levels, size, values = spec.levels, math.prod(latent_shape), math.prod(spec.image_shape)
        self.net = net(spec.image_shape, spec.image_shape)
        self.head = ImageHead(self.net.out_shape, spec.image_shape, 2)
        nn.init.zeros_(self.head.last.weight)
        self.log_gain = nn.Parameter(torch.zeros(2, size))
        """log a and log b."""
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("directions", torch.zeros(values, size))
        self.register_buffer("precision", torch.zeros(values, size))

    def init_from_data(self, image: Tensor) -> None:
        """Finds A, m, W and sigma from images (N, C, H, W), integers."""
        start = principal_start(image, self.levels, self.directions.shape[1])
        self.mean.copy_(start.mean.flatten())
        self.directions.copy_(start.posterior()[0])
        self.precision.copy_(start.precision().T)

    def forward(self, context: Tensor) -> Distribution:
        changed, raw = at_least_float32(self.head(self.net(context))).unbind(-4)
        with torch.autocast(context.device.type, enabled=False):  # half precision is coarser than the posterior
            told = at_least_float32(context) + TENTH * changed
            of_mean, of_precision = self.log_gain.exp()
            mu = of_mean * ((told.flatten(-3) - self.mean) @ self.directions)
            precision = 1 + of_precision * ((-2 * bounded_log_scale(raw.flatten(-3))).exp() @ self.precision)
        return Independent(Normal(mu, precision.rsqrt(), validate_args=False), 1, validate_args=False)


class PrincipalLogisticLikelihood(Likelihood):
    """`LinkedLogisticLikelihood` about y = W z + m and what a net that looks at this image adds, with W and m those of
    probabilistic PCA, and scales and links at first those of what PCA leaves at each value. Goes with
    `PrincipalPosterior`.

    Levels that the training images never hold, between others that they do (the digits' 17 grey levels in files of
    256), take no share of the mass to speak of: `used_edges`.

    Args:
        latent_shape: (d,).
        spec: of the images, grey or in colour.
        net: from y to features.
    """

    mean: Tensor
    directions: Tensor
    scale_at_first: Tensor
    link: Tensor
    edges: Tensor

    def __init__(self, latent_shape: Shape, spec: Spec, net: NetFactory = UNet) -> None:
        if spec.levels == 2:
            raise ValueError(
                "PrincipalLogisticLikelihood expects grey images, got binary ones: choose BernoulliLikelihood, with "
                "GaussianPosterior."
            )
        channels, size = spec.image_shape[0], math.prod(latent_shape)
        super().__init__(spec.image_shape, spec, net, num_params=1 + channels)
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
        with torch.autocast(context.device.type, enabled=False):
            linear = (at_least_float32(context) @ self.directions).unflatten(-1, self.mean.shape) + self.mean
        added, raw_scale, weight = self.params(linear).split((1, 1, self.head.num_params - 2), -4)
        raw_scale = raw_scale.squeeze(-4) + self.scale_at_first
        density = logistic_of_levels(linear + TENTH * added.squeeze(-4), raw_scale, self.levels)
        return LinkedChannels(density.loc, density.scale, weight + self.link[..., None, None], self.levels, self.edges)
