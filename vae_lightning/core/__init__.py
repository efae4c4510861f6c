"""The nouns: a model tells its generative story once, and a `Draw` decides where each latent comes from."""

from vae_lightning.core.data import Batch, Shape, Spec, TextSpec, image_of, rows, seeded, without_image
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
from vae_lightning.core.model import ImageTextModel, LatentModel, Loss, Model, Objective
from vae_lightning.core.story import Conditional, Draw, Site, Story, Trace, bits, centre, has_mean, has_rate

__all__ = [
    "Batch",
    "Conditional",
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
