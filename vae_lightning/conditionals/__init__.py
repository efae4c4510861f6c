"""nn.Modules that return a Distribution: encoders q(z|x), likelihoods p(x|z) and priors p(z)."""

from vae_lightning.conditionals.bernoulli import BernoulliLikelihood, ContinuousBernoulliLikelihood
from vae_lightning.conditionals.discrete import (
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    DiscretizedLogisticMixtureLikelihood,
    LinkedLogisticLikelihood,
)
from vae_lightning.conditionals.gaussian import (
    GaussianLearnedScaleLikelihood,
    GaussianLikelihood,
    GaussianOptimalScaleLikelihood,
    GaussianPixelScaleLikelihood,
)
from vae_lightning.conditionals.gaussian_mixture import GaussianMixture
from vae_lightning.conditionals.likelihood import Likelihood, LikelihoodFactory
from vae_lightning.conditionals.posterior import Corrupted, GaussianPosterior, PointMass
from vae_lightning.conditionals.standard_normal import StandardNormal

__all__ = [
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "ContinuousBernoulliLikelihood",
    "Corrupted",
    "DiscretizedLogisticLikelihood",
    "DiscretizedLogisticMixtureLikelihood",
    "GaussianLearnedScaleLikelihood",
    "GaussianLikelihood",
    "GaussianMixture",
    "GaussianOptimalScaleLikelihood",
    "GaussianPixelScaleLikelihood",
    "GaussianPosterior",
    "Likelihood",
    "LikelihoodFactory",
    "LinkedLogisticLikelihood",
    "PointMass",
    "StandardNormal",
]
