"""What training minimises: pure functions of (model, batch, share of the training), and their schedules."""

from vae_lightning.objectives.contrastive import Contrastive
from vae_lightning.objectives.elbo import ELBO
from vae_lightning.objectives.iwae import IWAE
from vae_lightning.objectives.reconstruction import Reconstruction
from vae_lightning.objectives.schedules import (
    Constant,
    Cyclical,
    Linear,
    Schedule,
    Stages,
    WarmupConstant,
    WarmupCosine,
)
from vae_lightning.objectives.site_nll import SiteNLL
from vae_lightning.objectives.vq import VQ

__all__ = [
    "ELBO",
    "IWAE",
    "VQ",
    "Constant",
    "Contrastive",
    "Cyclical",
    "Linear",
    "Reconstruction",
    "Schedule",
    "SiteNLL",
    "Stages",
    "WarmupConstant",
    "WarmupCosine",
]
