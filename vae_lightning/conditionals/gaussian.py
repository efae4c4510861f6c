"""Gaussian likelihoods: N(mu(z), sigma^2) for each value, with four ways to come by sigma, and mu any number or within
[0, 1].

`scale` is a standard deviation in units of the full range 0..1, as textbooks write it; the density is over the integer
image, so a fixed scale gives -log p(x|z) = squared error / (2 scale^2) + (D/2) log(2 pi scale^2 (levels-1)^2), the
squared error taken over images in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.conditionals.likelihood import Likelihood
from vae_lightning.core import Shape, Spec
from vae_lightning.nets import MLP, NetFactory


def _normal(loc: Tensor, scale: Tensor, levels: int) -> Distribution:
    """N(loc, scale^2) over images in [0, 1], carried to 0..levels-1."""
    loc, scale = torch.broadcast_tensors(loc * (levels - 1), scale * (levels - 1))
    return Independent(Normal(loc, scale, validate_args=False), 3, validate_args=False)


def quantisation_scale(levels: int) -> float:
    """Standard deviation of rounding to a level, in units of the range: below it a density only counts the rounding,
    and grows without bound on pixels that never change."""
    return 1 / math.sqrt(12) / (levels - 1)


def _require_grey(name: str, levels: int) -> None:
    if levels == 2:
        raise ValueError(
            f"{name} expects grey images, got binary ones, on which a learned Gaussian scale has no optimum: choose "
            "BernoulliLikelihood, or GaussianLikelihood with a fixed scale."
        )


class GaussianOutput(Likelihood):
    """What they share: where the mean lies.

    Args:
        bounded: whether mu is the logistic function of the net's output, and so within [0, 1], as pixels are; else it
            is that output.
    """

    def __init__(
        self, latent_shape: Shape, spec: Spec, net: NetFactory, bounded: bool = False, num_params: int = 1
    ) -> None:
        super().__init__(latent_shape, spec, net, num_params)
        self.bounded = bounded

    def loc(self, raw: Tensor) -> Tensor:
        """mu, images in [0, 1], of the net's output for it."""
        return torch.sigmoid(raw) if self.bounded else raw

    def init_from_data(self, image: Tensor) -> None:
        if self.bounded:
            self.head.set_bias(0, self.mean_logit(image))
        else:
            super().init_from_data(image)


class GaussianLikelihood(GaussianOutput):
    """N(mu(z), scale^2) with a fixed scale: the squared error of the textbook.

    Args:
        latent_shape: (d,).
        spec: of the images.
        net: from the latent to features.
        scale: standard deviation, images in [0, 1].
        bounded: whether mu is kept within [0, 1] by the logistic function, as pixels are.
    """

    def __init__(
        self, latent_shape: Shape, spec: Spec, net: NetFactory = MLP, scale: float = 0.1, bounded: bool = False
    ) -> None:
        if scale <= 0:
            raise ValueError(f"GaussianLikelihood.scale: expected a standard deviation > 0, got {scale}.")
        super().__init__(latent_shape, spec, net, bounded)
        self.scale = scale

    def forward(self, context: Tensor) -> Distribution:
        loc = self.loc(self.params(context).squeeze(-4))
        return _normal(loc, loc.new_full((), self.scale), self.levels)


class GaussianLearnedScaleLikelihood(GaussianOutput):
    """N(mu(z), sigma^2) with one sigma for all values, learned by gradient (the probabilistic-PCA noise).

    Args:
        latent_shape: (d,).
        spec: of the images.
        net: from the latent to features.
        bounded: whether mu is kept within [0, 1] by the logistic function, as pixels are.
    """

    def __init__(self, latent_shape: Shape, spec: Spec, net: NetFactory = MLP, bounded: bool = False) -> None:
        _require_grey("GaussianLearnedScaleLikelihood", spec.levels)
        super().__init__(latent_shape, spec, net, bounded)
        self.raw_scale = nn.Parameter(torch.tensor(-1.0))

    @property
    def scale(self) -> Tensor:
        return quantisation_scale(self.levels) + F.softplus(self.raw_scale)

    def forward(self, context: Tensor) -> Distribution:
        return _normal(self.loc(self.params(context).squeeze(-4)), self.scale, self.levels)


class GaussianPixelScaleLikelihood(GaussianOutput):
    """N(mu(z), sigma(z)^2) with a sigma of its own for each value of each image (heteroscedastic).

    Args:
        latent_shape: (d,).
        spec: of the images.
        net: from the latent to features.
        bounded: whether mu is kept within [0, 1] by the logistic function, as pixels are.
    """

    def __init__(self, latent_shape: Shape, spec: Spec, net: NetFactory = MLP, bounded: bool = False) -> None:
        _require_grey("GaussianPixelScaleLikelihood", spec.levels)
        super().__init__(latent_shape, spec, net, bounded, num_params=2)

    def forward(self, context: Tensor) -> Distribution:
        loc, raw = self.params(context).unbind(-4)
        return _normal(self.loc(loc), quantisation_scale(self.levels) + F.softplus(raw - 1), self.levels)


class OptimalScaleNormal(Independent):
    """N(loc, s^2) whose log_prob takes for s the maximum-likelihood scale of all the images that it is asked for at
    once: the bound to train on, and no density of a single image. Exists in training only, where the scale is being
    fitted; it changes nothing, and `statistics` says what was found."""

    def _mean_square(self, value: Tensor) -> Tensor:
        """(), in squared levels, no less than what rounding to a level alone makes of it."""
        return (value - self.base_dist.loc).square().mean().clamp_min(1 / 12)

    def log_prob(self, value: Tensor) -> Tensor:
        scale = self._mean_square(value).sqrt()
        normal = Normal(self.base_dist.loc, scale, validate_args=False)
        return Independent(normal, self.reinterpreted_batch_ndims, validate_args=False).log_prob(value)

    def statistics(self, value: Tensor) -> dict[str, Tensor]:
        """mean_square: of these images, in squared levels, ()."""
        return {"mean_square": self._mean_square(value).detach()}


class GaussianOptimalScaleLikelihood(GaussianOutput):
    """N(mu(z), sigma^2) with sigma at its analytic optimum, sigma^2 = mean squared error (Rybkin et al. 2021, eq. 6).

    In training the optimum is that of the batch; evaluation uses the running mean of the training batches', as batch
    normalisation does with its variance, so that validation and test see a fixed and proper density. The mean runs by
    `observe`, which training calls once a step, and never by asking for a density.

    Args:
        latent_shape: (d,).
        spec: of the images.
        net: from the latent to features.
        momentum: weight of each new batch in the running mean.
        bounded: whether mu is kept within [0, 1] by the logistic function, as pixels are.
    """

    mean_square: Tensor
    batches: Tensor

    def __init__(
        self, latent_shape: Shape, spec: Spec, net: NetFactory = MLP, momentum: float = 0.01, bounded: bool = False
    ) -> None:
        _require_grey("GaussianOptimalScaleLikelihood", spec.levels)
        super().__init__(latent_shape, spec, net, bounded)
        self.momentum = momentum
        self.register_buffer("mean_square", torch.tensor(float((spec.levels - 1) ** 2)))  # in squared spec.levels
        self.register_buffer("batches", torch.tensor(0))

    def observe(self, statistics: Mapping[str, Tensor]) -> None:
        """Takes one training batch's mean squared error, `mean_square` in squared levels, into the running mean."""
        if "mean_square" not in statistics:
            return
        self.batches += 1
        weight = torch.clamp_min(1 / self.batches, self.momentum)
        self.mean_square += weight * (statistics["mean_square"] - self.mean_square)

    @property
    def scale(self) -> Tensor:
        return self.mean_square.sqrt() / (self.levels - 1)

    def forward(self, context: Tensor) -> Distribution:
        loc = self.loc(self.params(context).squeeze(-4))
        if self.training:
            loc = loc * (self.levels - 1)
            return OptimalScaleNormal(Normal(loc, torch.ones_like(loc), validate_args=False), 3, validate_args=False)
        return _normal(loc, self.scale, self.levels)
