"""nn.Modules that return a Distribution: encoders q(z|x) and likelihoods p(x|z)."""

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
from vae_lightning.conditionals.likelihood import Likelihood, LikelihoodFactory
from vae_lightning.conditionals.posterior import Corrupted, GaussianPosterior, PointMass

__all__ = [
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "ContinuousBernoulliLikelihood",
    "Corrupted",
    "DiscretizedLogisticLikelihood",
    "DiscretizedLogisticMixtureLikelihood",
    "GaussianLearnedScaleLikelihood",
    "GaussianLikelihood",
    "GaussianOptimalScaleLikelihood",
    "GaussianPixelScaleLikelihood",
    "GaussianPosterior",
    "Likelihood",
    "LikelihoodFactory",
    "LinkedLogisticLikelihood",
    "PointMass",
]
