"""The generative stories."""

from vae_lightning.models.vae import VAE

__all__ = ["VAE"]
