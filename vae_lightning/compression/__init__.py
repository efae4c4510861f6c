"""Lossless coding of images with a trained model: bits-back coding over an entropy coder.

`encode` and `decode` are the whole of it; `image_codec` and `latent_codec` register what codes a new density.
"""

from vae_lightning.compression.autoregressive import LatentByLatent
from vae_lightning.compression.bits_back import decode, encode, require_codable
from vae_lightning.compression.codecs import Codec, Grid, Search, Table
from vae_lightning.compression.coded import Coded, Settings
from vae_lightning.compression.codes import OneByOne
from vae_lightning.compression.correlated import GaussianChain
from vae_lightning.compression.densities import image_codec, latent_codec, logistic_tails, normal_tails, require_finite
from vae_lightning.compression.stack import Stack

__all__ = [
    "Codec",
    "Coded",
    "GaussianChain",
    "Grid",
    "LatentByLatent",
    "OneByOne",
    "Search",
    "Settings",
    "Stack",
    "Table",
    "decode",
    "encode",
    "image_codec",
    "latent_codec",
    "logistic_tails",
    "normal_tails",
    "require_codable",
    "require_finite",
]
