"""Densities that torch lacks. No nn.Module here, and no parameters: a density is a value."""

from vae_lightning.distributions.autoregressive_categorical import AutoregressiveCategorical, Choice
from vae_lightning.distributions.autoregressive_mixture import AutoregressiveMixture, Mixtures
from vae_lightning.distributions.binary_image import BinaryImage
from vae_lightning.distributions.bins import Autoregressive, Bins, Step
from vae_lightning.distributions.codes import (
    CodePoint,
    Codes,
    OfCodes,
    RelaxedCodes,
    as_latent,
    as_vectors,
)
from vae_lightning.distributions.continuous_bernoulli import ContinuousBernoulli
from vae_lightning.distributions.correlated import FullCovarianceNormal, LowRankNormal
from vae_lightning.distributions.diffused import Diffused, Predict, Sampler
from vae_lightning.distributions.discretized_logistic import DiscretizedLogistic, even_edges, used_edges
from vae_lightning.distributions.flow import Flow
from vae_lightning.distributions.levels import CategoricalLevels
from vae_lightning.distributions.linked_channels import Linked, LinkedChannels, LinkedMixtures
from vae_lightning.distributions.of_each import OfEach, log_prob_of_each
from vae_lightning.distributions.paths import (
    CosinePath,
    LogitNormalTimes,
    Path,
    PredictClean,
    Prediction,
    PredictVelocity,
    StraightPath,
    Times,
    UniformTimes,
)
from vae_lightning.distributions.rescaled import Rescaled

__all__ = [
    "Autoregressive",
    "AutoregressiveCategorical",
    "AutoregressiveMixture",
    "BinaryImage",
    "Bins",
    "CategoricalLevels",
    "Choice",
    "CodePoint",
    "Codes",
    "ContinuousBernoulli",
    "CosinePath",
    "Diffused",
    "DiscretizedLogistic",
    "Flow",
    "FullCovarianceNormal",
    "Linked",
    "LinkedChannels",
    "LinkedMixtures",
    "LogitNormalTimes",
    "LowRankNormal",
    "Mixtures",
    "OfCodes",
    "OfEach",
    "Path",
    "Predict",
    "PredictClean",
    "PredictVelocity",
    "Prediction",
    "RelaxedCodes",
    "Rescaled",
    "Sampler",
    "Step",
    "StraightPath",
    "Times",
    "UniformTimes",
    "as_latent",
    "as_vectors",
    "even_edges",
    "log_prob_of_each",
    "used_edges",
]
