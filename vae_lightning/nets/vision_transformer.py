"""The patch transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vae_lightning.nets.base import Net, Shape
from vae_lightning.nets.transformer import Transformer


class VisionTransformer(Net):
    """Image (C, H, W) -> features (width,): patches that do not overlap, each with a learned place, through a
    transformer whose positions all see each other, and the mean over them (Dosovitskiy et al. 2021; the mean in the
    place of a class token: Zhai et al. 2022).

    Args:
        in_shape: the image's (C, H, W).
        image_shape: the same; every net takes it.
        patch: side of a patch, which divides height and width.
        width: numbers at a patch.
        depth: how many blocks.
        heads: of each attention.
        dropout: probability of dropping in training.

    Raises:
        ValueError: a patch that does not divide the image.
    """

    def __init__(
        self,
        in_shape: Shape,
        image_shape: Shape,
        patch: int = 4,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_shape, image_shape)
        channels, height, width_of_image = self.in_shape
        if patch < 1 or height % patch or width_of_image % patch:
            raise ValueError(
                f"VisionTransformer.patch: expected a divisor of height and width, got {patch} for {height}x"
                f"{width_of_image} pixels: choose another."
            )
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.place = nn.Parameter(0.02 * torch.randn((height // patch) * (width_of_image // patch), width))
        self.transformer = Transformer(width, depth, heads, causal=False, dropout=dropout)
        self.out_shape = (width,)

    def body(self, x: Tensor) -> Tensor:
        sequence = self.patches(x).flatten(2).transpose(1, 2) + self.place  # (N, patches, width)
        out: Tensor = self.transformer(sequence).mean(1)
        return out
