"""p(z)."""

from vae_lightning.priors.standard_normal import StandardNormal

__all__ = ["StandardNormal"]
