"""The generative stories, and trained ones as parts of others."""

from vae_lightning.models.frozen import FromRun, Frozen, FrozenEncoder, FrozenLikelihood, FrozenPart, FrozenPrior
from vae_lightning.models.vae import VAE

__all__ = ["VAE", "FromRun", "Frozen", "FrozenEncoder", "FrozenLikelihood", "FrozenPart", "FrozenPrior"]
