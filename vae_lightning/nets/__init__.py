"""Tensor -> Tensor. No probability here, and any image size and channel count."""

from vae_lightning.nets.base import Net, NetFactory, Shape, at_least_float32, bounded_log_scale, raw_log_scale, zeroed
from vae_lightning.nets.conv import ConvDecoder, ConvEncoder
from vae_lightning.nets.corruption import Corruption, GaussianNoise, Masking, SaltAndPepper
from vae_lightning.nets.denoiser import Denoiser, DenoiserFactory, PatchDenoiser, ResidualDenoiser
from vae_lightning.nets.ladder import ConvLadder, MLPLadder
from vae_lightning.nets.layers import MapNorm
from vae_lightning.nets.mlp import MLP
from vae_lightning.nets.quantisers import (
    Codebook,
    FiniteScalarQuantiser,
    OneHotCodes,
    Quantised,
    Quantiser,
    QuantiserFactory,
)
from vae_lightning.nets.sizes import Widths, map_depth, require_widths, stage_sizes
from vae_lightning.nets.standardise import PerChannel, PrincipalComponents, Standardisation, StandardisationFactory
from vae_lightning.nets.top_down import LadderFactory, LadderNet, TopDownBlock
from vae_lightning.nets.transformer import Cache, Transformer
from vae_lightning.nets.unet import UNet
from vae_lightning.nets.vector_quantiser import VectorQuantiser
from vae_lightning.nets.vision_transformer import VisionTransformer

__all__ = [
    "MLP",
    "Cache",
    "Codebook",
    "ConvDecoder",
    "ConvEncoder",
    "ConvLadder",
    "Corruption",
    "Denoiser",
    "DenoiserFactory",
    "FiniteScalarQuantiser",
    "GaussianNoise",
    "LadderFactory",
    "LadderNet",
    "MLPLadder",
    "MapNorm",
    "Masking",
    "Net",
    "NetFactory",
    "OneHotCodes",
    "PatchDenoiser",
    "PerChannel",
    "PrincipalComponents",
    "Quantised",
    "Quantiser",
    "QuantiserFactory",
    "ResidualDenoiser",
    "SaltAndPepper",
    "Shape",
    "Standardisation",
    "StandardisationFactory",
    "TopDownBlock",
    "Transformer",
    "UNet",
    "VectorQuantiser",
    "VisionTransformer",
    "Widths",
    "at_least_float32",
    "bounded_log_scale",
    "map_depth",
    "raw_log_scale",
    "require_widths",
    "stage_sizes",
    "zeroed",
]
