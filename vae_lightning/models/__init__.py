"""The generative stories, image-text models, and trained ones as parts of others."""

from vae_lightning.models.dual_encoder import DualEncoder
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
from vae_lightning.models.ladder import LadderVAE
from vae_lightning.models.open_clip import OpenClipImage, OpenClipText
from vae_lightning.models.pixels import Pixels
from vae_lightning.models.second_stage import SecondStage
from vae_lightning.models.semi_supervised import SemiSupervisedVAE
from vae_lightning.models.text_tower import BagOfWords, TextTower, TextTransformer
from vae_lightning.models.two_stage import TwoStageVAE
from vae_lightning.models.unclip import UnCLIP
from vae_lightning.models.vae import VAE

__all__ = [
    "VAE",
    "BagOfWords",
    "DualEncoder",
    "FromRun",
    "Frozen",
    "FrozenEncoder",
    "FrozenImageText",
    "FrozenLikelihood",
    "FrozenPart",
    "FrozenPrior",
    "FrozenSite",
    "FrozenWhole",
    "LadderVAE",
    "OpenClipImage",
    "OpenClipText",
    "Pixels",
    "SecondStage",
    "SemiSupervisedVAE",
    "TextTower",
    "TextTransformer",
    "TwoStageVAE",
    "UnCLIP",
]
