"""p(z)."""

from vae_lightning.priors.gaussian_mixture import GaussianMixture
from vae_lightning.priors.standard_normal import StandardNormal

__all__ = ["GaussianMixture", "StandardNormal"]
