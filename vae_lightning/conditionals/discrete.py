"""Likelihoods over grey levels that sum to one: their code lengths are bits per dimension."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily

from vae_lightning.conditionals.likelihood import Likelihood
from vae_lightning.core import Shape, Spec
from vae_lightning.distributions import CategoricalLevels, DiscretizedLogistic, LinkedChannels
from vae_lightning.nets import MLP, NetFactory

SMALLEST_SCALE = 0.02
"""In levels. A logistic this narrow gives one level all but e^-25 of the mass: no data needs a narrower one."""


def logistic_of_levels(loc: Tensor, raw_scale: Tensor, levels: int, edges: Tensor | None = None) -> DiscretizedLogistic:
    """Unit-free parameters, loc in [0, 1] and a raw scale, to levels. A raw scale of 0 is a tenth of the range."""
    scale = SMALLEST_SCALE + 0.1 * (levels - 1) / math.log(2) * F.softplus(raw_scale)
    return DiscretizedLogistic(loc * (levels - 1), scale, levels, False, edges)


class DiscretizedLogisticLikelihood(Likelihood):
    """A logistic for each value, integrated over its level (Salimans et al. 2017 with one component)."""

    def __init__(self, latent_shape: Shape, spec: Spec, net: NetFactory = MLP) -> None:
        super().__init__(latent_shape, spec, net, num_params=2)

    def forward(self, context: Tensor) -> Distribution:
        loc, raw_scale = self.params(context).unbind(-4)
        return Independent(logistic_of_levels(loc, raw_scale, self.levels), 3, validate_args=False)


class LinkedLogisticLikelihood(Likelihood):
    """A logistic for each value, integrated over its level, whose centre moves with the channels before it: colours say
    most things three times, and a latent need say them once (Salimans et al. 2017, section 2.2)."""

    def __init__(self, latent_shape: Shape, spec: Spec, net: NetFactory = MLP) -> None:
        super().__init__(latent_shape, spec, net, num_params=1 + spec.image_shape[0])

    def forward(self, context: Tensor) -> Distribution:
        loc, raw_scale, weight = self.params(context).split((1, 1, self.head.num_params - 2), -4)
        logistic = logistic_of_levels(loc.squeeze(-4), raw_scale.squeeze(-4), self.levels)
        return LinkedChannels(logistic.loc, logistic.scale, weight, self.levels)


class DiscretizedLogisticMixtureLikelihood(Likelihood):
    """A mixture of `components` discretized logistics for each value (Salimans et al. 2017, eq. 1 and 2, without the
    dependence between channels).

    Args:
        latent_shape: (d,).
        spec: of the images.
        net: from the latent to features.
        components: how many logistics are mixed.
    """

    def __init__(self, latent_shape: Shape, spec: Spec, net: NetFactory = MLP, components: int = 5) -> None:
        if components < 1:
            raise ValueError(f"DiscretizedLogisticMixtureLikelihood.components: expected at least 1, got {components}.")
        super().__init__(latent_shape, spec, net, num_params=3 * components)
        self.components = components
        for k in range(components):  # spread over the range, or all components would stay the same one
            self.head.set_bias(components + k, torch.full(tuple(spec.image_shape), (k + 0.5) / components))

    def forward(self, context: Tensor) -> Distribution:
        logits, loc, raw_scale = self.params(context).movedim(-4, -1).chunk(3, -1)
        mixture = MixtureSameFamily(
            Categorical(logits=logits, validate_args=False),
            logistic_of_levels(loc, raw_scale, self.levels),
            validate_args=False,
        )
        return Independent(mixture, 3, validate_args=False)

    def init_from_data(self, image: Tensor) -> None:
        """Nothing: the components lie spread over the range."""


MOST_CATEGORIES = 256


class CategoricalLikelihood(Likelihood):
    """A free probability for every level of every value: the most flexible, and blind to the order of the levels."""

    def __init__(self, latent_shape: Shape, spec: Spec, net: NetFactory = MLP) -> None:
        if spec.levels > MOST_CATEGORIES:
            raise ValueError(
                f"CategoricalLikelihood: expected at most {MOST_CATEGORIES} levels, each with a parameter of its own "
                f"for each value, got {spec.levels}: choose DiscretizedLogisticLikelihood, or fewer levels by "
                "--data.source.window."
            )
        super().__init__(latent_shape, spec, net, num_params=spec.levels)

    def forward(self, context: Tensor) -> Distribution:
        logits = self.params(context).movedim(-4, -1)
        return Independent(CategoricalLevels(logits, validate_args=False), 3, validate_args=False)

    def init_from_data(self, image: Tensor) -> None:
        smoothed = len(image) + self.levels
        for level in range(self.levels):
            count = self.head.shared((image == level).sum(0).float())
            self.head.set_bias(level, ((1 + count) / smoothed).log())
