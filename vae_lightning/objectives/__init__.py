"""What training minimises: pure functions of (model, batch, share of the training), and their schedules."""

from vae_lightning.objectives.beta_tc import BetaTC
from vae_lightning.objectives.contrastive import Contrastive
from vae_lightning.objectives.elbo import ELBO
from vae_lightning.objectives.equivariant import Equivariant
from vae_lightning.objectives.gradients import (
    DoublyReparameterised,
    GradientEstimator,
    Reparameterised,
    StickingTheLanding,
)
from vae_lightning.objectives.iwae import IWAE
from vae_lightning.objectives.mmd import MMD, GaussianKernel, InverseMultiquadratic, Kernel
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
from vae_lightning.objectives.semi_amortised import SemiAmortised
from vae_lightning.objectives.semi_supervised import SemiSupervised
from vae_lightning.objectives.site_nll import SiteNLL
from vae_lightning.objectives.target_rate import Capacity, TargetRate
from vae_lightning.objectives.vq import VQ

__all__ = [
    "ELBO",
    "IWAE",
    "MMD",
    "VQ",
    "BetaTC",
    "Capacity",
    "Constant",
    "Contrastive",
    "Cyclical",
    "DoublyReparameterised",
    "Equivariant",
    "GaussianKernel",
    "GradientEstimator",
    "InverseMultiquadratic",
    "Kernel",
    "Linear",
    "Reconstruction",
    "Reparameterised",
    "Schedule",
    "SemiAmortised",
    "SemiSupervised",
    "SiteNLL",
    "Stages",
    "StickingTheLanding",
    "TargetRate",
    "WarmupConstant",
    "WarmupCosine",
]
