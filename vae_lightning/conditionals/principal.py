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
from vae_lightning.conditionals.principal_start import PrincipalStart
from vae_lightning.core import Conditional, Shape, Spec
from vae_lightning.distributions import LinkedChannels, LinkedMixtures, even_edges, used_edges
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

    gain: Tensor

    def __init__(self, spec: Spec, latent_shape: Shape, net: NetFactory = UNet) -> None:
        super().__init__()
        self.net = net(spec.image_shape, spec.image_shape)
        self.head = ImageHead(self.net.out_shape, spec.image_shape, 2)
        nn.init.zeros_(self.head.last.weight)
        self.start = PrincipalStart(spec, size := math.prod(latent_shape))
        self.register_buffer("gain", torch.zeros(size))
        self.log_gain = nn.Parameter(torch.zeros(2, size))
        """log a and log b."""

    def init_from_data(self, image: Tensor) -> None:
        """Finds the linear model in images (N, C, H, W), integers."""
        self.start.fit(image)
        self.gain.copy_(self.start.gain())

    def forward(self, context: Tensor) -> Distribution:
        changed, raw = at_least_float32(self.head(self.net(context))).unbind(-4)
        with torch.autocast(context.device.type, enabled=False):  # half precision is coarser than the posterior
            told = at_least_float32(context) + TENTH * changed - self.start.mean
            of_mean, of_precision = self.log_gain.exp()
            mu = of_mean * self.gain * self.start.code(told)
            weight = (-2 * bounded_log_scale(raw)).exp() / self.start.scale.square()
            precision = 1 + of_precision * self.start.precision(weight)
        return Independent(Normal(mu, precision.rsqrt(), validate_args=False), 1, validate_args=False)


def begins_as_pca(model: nn.Module) -> bool:
    """Whether a model has a `PrincipalPosterior`, and so as many latents as there could be."""
    return any(isinstance(part, PrincipalPosterior) for part in model.modules())


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
        components: logistics that are mixed for each value, about one centre; 1 for one logistic.
    """

    scale_at_first: Tensor
    edges: Tensor
    apart: Tensor
    """Of a mixture's logistics at first, in standard deviations of the noise."""

    def __init__(self, latent_shape: Shape, spec: Spec, net: NetFactory = UNet, components: int = 1) -> None:
        if components < 1:
            raise ValueError(f"PrincipalLogisticLikelihood.components: expected at least 1, got {components}.")
        if spec.levels == 2:
            raise ValueError(
                "PrincipalLogisticLikelihood expects grey images, got binary ones: choose BernoulliLikelihood, with "
                "GaussianPosterior."
            )
        channels = spec.image_shape[0]
        super().__init__(spec.image_shape, spec, net, num_params=channels + (1 if components == 1 else 3 * components))
        nn.init.zeros_(self.head.last.weight)
        self.components = components
        self.start = PrincipalStart(spec, math.prod(latent_shape))
        self.register_buffer("scale_at_first", torch.zeros(spec.image_shape))
        self.register_buffer("edges", even_edges(spec.levels))
        self.register_buffer("apart", torch.linspace(-1, 1, components), persistent=False)

    def init_from_data(self, image: Tensor) -> None:
        """Finds the linear model and the levels in use in images (N, C, H, W), integers."""
        self.start.fit(image)
        of_logistic = self.start.scale * (self.levels - 1) * math.sqrt(3) / math.pi  # of variance (pi scale)^2 / 3
        share = (of_logistic - SMALLEST_SCALE).clamp_min(SMALLEST_SCALE) * math.log(2) / (0.1 * (self.levels - 1))
        self.scale_at_first.copy_(share.expm1().log())  # softplus's inverse
        self.edges.copy_(used_edges(image, self.levels))

    def forward(self, context: Tensor) -> Distribution:
        with torch.autocast(context.device.type, enabled=False):
            linear = self.start.image(at_least_float32(context)) + self.start.mean
        links, each = len(self.start.link), self.components
        params = self.params(linear).split((1, links, *((each,) if each == 1 else (each, each, each))), -4)
        centre, weight = linear + TENTH * params[0].squeeze(-4), params[1] + self.start.link[..., None, None]
        if each == 1:
            one = logistic_of_levels(centre, params[2].squeeze(-4) + self.scale_at_first, self.levels)
            return LinkedChannels(one.loc, one.scale, weight, self.levels, self.edges)
        offset, raw_scale, logits = (it.movedim(-4, -1) for it in params[2:])
        offset = TENTH * offset + self.start.scale[..., None] * self.apart
        some = logistic_of_levels(offset, raw_scale + self.scale_at_first[..., None], self.levels)
        loc = (self.levels - 1) * centre
        return LinkedMixtures(loc, logits, some.loc, some.scale, weight, self.levels, self.edges)
