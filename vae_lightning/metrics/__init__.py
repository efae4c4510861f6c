"""Measures of models and their baselines. All in nats per image unless the name says otherwise."""

from vae_lightning.metrics.base import Evaluation, Headline
from vae_lightning.metrics.baselines import (
    gaussian_rate_distortion,
    held_out_rate_distortion,
    independent_pixels_nll,
    pca_squared_error,
)
from vae_lightning.metrics.codes import CodeUsage
from vae_lightning.metrics.estimators.importance import Importance, importance, log_prob, log_prob_curve
from vae_lightning.metrics.evaluation import (
    ImageEvaluation,
    SiteEvaluation,
    nats_per_bit_per_dim,
    sample_counts,
)
from vae_lightning.metrics.mean import MeanWithError, mean_error
from vae_lightning.metrics.retrieval import Retrieval

__all__ = [
    "CodeUsage",
    "Evaluation",
    "Headline",
    "ImageEvaluation",
    "Importance",
    "MeanWithError",
    "Retrieval",
    "SiteEvaluation",
    "gaussian_rate_distortion",
    "held_out_rate_distortion",
    "importance",
    "independent_pixels_nll",
    "log_prob",
    "log_prob_curve",
    "mean_error",
    "nats_per_bit_per_dim",
    "pca_squared_error",
    "sample_counts",
]
