"""The nouns: a model tells its generative story once, and a `Draw` decides where each latent comes from."""

from vae_lightning.core.data import UNKNOWN, Batch, Shape, Spec, TextSpec, image_of, rows, seeded, without_image
from vae_lightning.core.delta import Delta
from vae_lightning.core.draws import (
    FromPosterior,
    FromPrior,
    Given,
    PosteriorMean,
    PriorMean,
    Recorded,
    told_until,
    traced,
)
from vae_lightning.core.model import (
    Classifier,
    Counting,
    ImageTextModel,
    LatentModel,
    Loss,
    Model,
    Objective,
    SumsOutClass,
)
from vae_lightning.core.story import Conditional, Draw, Site, Story, Trace, bits, centre, has_mean, has_rate

__all__ = [
    "UNKNOWN",
    "Batch",
    "Classifier",
    "Conditional",
    "Counting",
    "Delta",
    "Draw",
    "FromPosterior",
    "FromPrior",
    "Given",
    "ImageTextModel",
    "LatentModel",
    "Loss",
    "Model",
    "Objective",
    "PosteriorMean",
    "PriorMean",
    "Recorded",
    "Shape",
    "Site",
    "Spec",
    "Story",
    "SumsOutClass",
    "TextSpec",
    "Trace",
    "bits",
    "centre",
    "has_mean",
    "has_rate",
    "image_of",
    "rows",
    "seeded",
    "told_until",
    "traced",
    "without_image",
]
