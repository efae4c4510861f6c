"""The generative stories, and trained ones as parts of others."""

from vae_lightning.models.frozen import (
    FromRun,
    Frozen,
    FrozenEncoder,
    FrozenImageText,
    FrozenLikelihood,
    FrozenPart,
    FrozenPrior,
    FrozenWhole,
)
from vae_lightning.models.frozen_site import FrozenSite
from vae_lightning.models.unclip import UnCLIP
from vae_lightning.models.vae import VAE

__all__ = [
    "VAE",
    "FromRun",
    "Frozen",
    "FrozenEncoder",
    "FrozenImageText",
    "FrozenLikelihood",
    "FrozenPart",
    "FrozenPrior",
    "FrozenSite",
    "FrozenWhole",
    "UnCLIP",
]
