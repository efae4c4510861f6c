"""Likelihoods of binary images, and the density on [0, 1] that is often mistaken for one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from vae_lightning.conditionals.likelihood import Likelihood
from vae_lightning.core import Shape, Spec
from vae_lightning.distributions import BinaryImage, ContinuousBernoulli, Rescaled
from vae_lightning.nets import MLP, NetFactory

BISECTIONS = 30
"""Of a logit, each of which halves what is not known of it."""


class BernoulliLikelihood(Likelihood):
    """p(x|z) = Bernoulli(sigmoid(f(z))) for binary images; refuses grey ones, of which it is no density."""

    def __init__(self, latent_shape: Shape, spec: Spec, net: NetFactory = MLP) -> None:
        if spec.levels != 2:
            raise ValueError(
                f"BernoulliLikelihood expects binary images (2 levels), got images of {spec.levels} grey levels, over "
                "which a Bernoulli is no likelihood. Binarise the data (--data.dynamic_binarization true, or the "
                "source BinarizedMNIST), or choose a likelihood of grey levels (DiscretizedLogisticLikelihood, "
                "CategoricalLikelihood; ContinuousBernoulliLikelihood for a density)."
            )
        super().__init__(latent_shape, spec, net)

    def forward(self, context: Tensor) -> Distribution:
        logits = self.params(context).squeeze(-4)
        return BinaryImage(logits)

    def init_from_data(self, image: Tensor) -> None:
        self.head.set_bias(0, self.mean_logit(image))


class ContinuousBernoulliLikelihood(Likelihood):
    """p(x|z) = continuous Bernoulli(sigmoid(f(z))) over x / (levels - 1) in [0, 1] (Loaiza-Ganem & Cunningham 2019):
    the squared-error-like loss of a Bernoulli on grey levels, with the constant that makes it a density."""

    def __init__(self, latent_shape: Shape, spec: Spec, net: NetFactory = MLP) -> None:
        if spec.levels == 2:
            raise ValueError(
                "ContinuousBernoulliLikelihood expects grey images, got binary ones, on which its density has no "
                "bound: choose BernoulliLikelihood."
            )
        super().__init__(latent_shape, spec, net)

    def forward(self, context: Tensor) -> Distribution:
        logits = self.params(context).squeeze(-4)
        base = ContinuousBernoulli(logits=logits, validate_args=False)
        return Independent(Rescaled(base, self.levels - 1), 3, validate_args=False)

    def init_from_data(self, image: Tensor) -> None:
        """The bias whose density has the mean of the images, found by bisection: its logit is not that of the mean."""
        mean, most = self.mean(image), -torch.logit(torch.tensor(self.edge(image)))
        low, high = -most.expand(mean.shape), most.expand(mean.shape)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = ContinuousBernoulli(middle).mean < mean
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        self.head.set_bias(0, (low + high) / 2)
