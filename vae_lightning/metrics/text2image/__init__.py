"""How well images that a text-to-image model makes do what their captions say, and whether they are as varied as real
ones: estimates from embeddings, images and labels, without a model."""

from vae_lightning.metrics.text2image.agreement import rank_correlation, wilson_lower_bound
from vae_lightning.metrics.text2image.attributes import Attributes, ColourJudge, Said
from vae_lightning.metrics.text2image.spread import cosine_to_others, spread_of_each, spread_ratio
from vae_lightning.metrics.text2image.two_sample import matched, two_sample

__all__ = [
    "Attributes",
    "ColourJudge",
    "Said",
    "cosine_to_others",
    "matched",
    "rank_correlation",
    "spread_of_each",
    "spread_ratio",
    "two_sample",
    "wilson_lower_bound",
]
