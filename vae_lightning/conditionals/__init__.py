"""nn.Modules that return a Distribution: encoders q(z|x), likelihoods p(x|z) and priors p(z)."""

from vae_lightning.conditionals.autoregressive import AutoregressivePrior
from vae_lightning.conditionals.autoregressive_mixture import AutoregressiveMixturePrior
from vae_lightning.conditionals.bernoulli import BernoulliLikelihood, ContinuousBernoulliLikelihood
from vae_lightning.conditionals.code_transformer import CodeTransformer
from vae_lightning.conditionals.codes import CodePosterior, CodePrior, GumbelPosterior, PriorOfCodes
from vae_lightning.conditionals.conditions import Conditions, SiteDensity, SiteFactory
from vae_lightning.conditionals.correlated import FullCovariancePosterior, LowRankPosterior
from vae_lightning.conditionals.diffusion import Diffusion
from vae_lightning.conditionals.discrete import (
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    DiscretizedLogisticMixtureLikelihood,
    LinkedLogisticLikelihood,
)
from vae_lightning.conditionals.encoded_mixtures import ExemplarPrior, VampPrior
from vae_lightning.conditionals.flow import FlowPosterior, InverseAutoregressivePosterior, SplineFlowPosterior
from vae_lightning.conditionals.flow_priors import FlowPrior, MaskedAutoregressivePrior, SplineFlowPrior
from vae_lightning.conditionals.gaussian import (
    GaussianLearnedScaleLikelihood,
    GaussianLikelihood,
    GaussianOptimalScaleLikelihood,
    GaussianPixelScaleLikelihood,
)
from vae_lightning.conditionals.labelled import LabelledEncoder, LabelledGaussian, LabelledLikelihood
from vae_lightning.conditionals.likelihood import Likelihood, LikelihoodFactory
from vae_lightning.conditionals.posterior import (
    ClassifierFactory,
    ClassPosterior,
    Corrupted,
    EncoderFactory,
    GaussianPosterior,
    PointMass,
    class_distribution,
)
from vae_lightning.conditionals.principal import PrincipalLogisticLikelihood, PrincipalPosterior, begins_as_pca
from vae_lightning.conditionals.priors import GaussianMixture, PriorFactory, StandardNormal
from vae_lightning.conditionals.top_down import TopDownGaussian, TopPosterior

__all__ = [
    "AutoregressiveMixturePrior",
    "AutoregressivePrior",
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "ClassPosterior",
    "ClassifierFactory",
    "CodePosterior",
    "CodePrior",
    "CodeTransformer",
    "Conditions",
    "ContinuousBernoulliLikelihood",
    "Corrupted",
    "Diffusion",
    "DiscretizedLogisticLikelihood",
    "DiscretizedLogisticMixtureLikelihood",
    "EncoderFactory",
    "ExemplarPrior",
    "FlowPosterior",
    "FlowPrior",
    "FullCovariancePosterior",
    "GaussianLearnedScaleLikelihood",
    "GaussianLikelihood",
    "GaussianMixture",
    "GaussianOptimalScaleLikelihood",
    "GaussianPixelScaleLikelihood",
    "GaussianPosterior",
    "GumbelPosterior",
    "InverseAutoregressivePosterior",
    "LabelledEncoder",
    "LabelledGaussian",
    "LabelledLikelihood",
    "Likelihood",
    "LikelihoodFactory",
    "LinkedLogisticLikelihood",
    "LowRankPosterior",
    "MaskedAutoregressivePrior",
    "PointMass",
    "PrincipalLogisticLikelihood",
    "PrincipalPosterior",
    "PriorFactory",
    "PriorOfCodes",
    "SiteDensity",
    "SiteFactory",
    "SplineFlowPosterior",
    "SplineFlowPrior",
    "StandardNormal",
    "TopDownGaussian",
    "TopPosterior",
    "VampPrior",
    "begins_as_pca",
    "class_distribution",
]
