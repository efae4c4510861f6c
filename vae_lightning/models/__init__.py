"""The generative stories, and trained ones as parts of others."""

from vae_lightning.models.frozen import Frozen, FrozenEncoder, FrozenLikelihood, FrozenPart, FrozenPrior
from vae_lightning.models.vae import VAE

__all__ = ["VAE", "Frozen", "FrozenEncoder", "FrozenLikelihood", "FrozenPart", "FrozenPrior"]
