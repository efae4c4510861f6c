"""The two kinds of nets of a top-down ladder: of vectors, and of maps."""

from __future__ import annotations

import math

from torch import nn

from vae_lightning.nets.base import Shape
from vae_lightning.nets.layers import Activation, Layers, ResidualBlock, glorot
from vae_lightning.nets.sizes import require_widths, stage_sizes
from vae_lightning.nets.top_down import LadderNet


class MLPLadder(LadderNet):
    """Fully connected layers, and one latent a stage. All lists go from the image upwards.

    Args:
        image_shape: (C, H, W).
        hidden: width of each stage.
        latents: numbers of each stage's latent.
        blocks: residual blocks of the bottom-up path in each stage.
        latent_blocks: residual blocks behind each latent, on the way down.
        activation: the nonlinearity.
    """

    def __init__(
        self,
        image_shape: Shape,
        hidden: list[int] = [256, 128],  # noqa: B006 (never changed; jsonargparse shows it as the default)
        latents: list[int] = [32, 10],  # noqa: B006
        blocks: int = 1,
        latent_blocks: int = 1,
        activation: Activation = nn.SiLU,
    ) -> None:
        require_widths("MLPLadder.hidden", hidden, at_least=1)
        require_widths("MLPLadder.latents", latents, at_least=1)
        if len(hidden) != len(latents):
            raise ValueError(f"MLPLadder: expected a width for each latent, got hidden={hidden} and latents={latents}.")
        self.widths = [math.prod(image_shape), *hidden]
        super().__init__(image_shape, hidden, [[size] for size in latents], blocks, latent_blocks, activation)

    def shape(self, stage: int, channels: int) -> Shape:
        return (channels,)

    def affine(self, fan_in: int, fan_out: int, wide: bool = False) -> nn.Module:
        return glorot(nn.Linear(fan_in, fan_out))

    def residual(self, width: int) -> nn.Module:
        return ResidualBlock(width, Layers("MLPLadder", False, self.activation))

    def ascend(self, stage: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), self.affine(self.widths[stage], self.widths[stage + 1]))

    def descend(self, stage: int) -> nn.Module:
        return self.affine(self.widths[stage + 2], self.widths[stage + 1])


class ConvLadder(LadderNet):
    """Convolutional residual blocks over maps, each stage of half the height and width of that below it, and any number
    of latents a stage, which are maps of its size, flattened. All lists go from the image upwards.

    Args:
        image_shape: (C, H, W), any H and W.
        channels: width of each stage; the first is at half the image's height and width, rounded up.
        layers: how many latents each stage has; 0 for none, but in the last.
        latent_channels: channels of each stage's latents.
        blocks: residual blocks of the bottom-up path in each stage.
        latent_blocks: residual blocks behind each latent, on the way down.
        activation: the nonlinearity.
    """

    def __init__(
        self,
        image_shape: Shape,
        channels: list[int] = [32, 32],  # noqa: B006 (never changed; jsonargparse shows it as the default)
        layers: list[int] = [4, 4],  # noqa: B006
        latent_channels: list[int] = [1, 1],  # noqa: B006
        blocks: int = 3,
        latent_blocks: int = 1,
        activation: Activation = nn.SiLU,
    ) -> None:
        require_widths("ConvLadder.channels", channels, at_least=1)
        require_widths("ConvLadder.latent_channels", latent_channels, at_least=1)
        if not len(channels) == len(layers) == len(latent_channels) or min(layers) < 0:
            raise ValueError(
                f"ConvLadder: expected layers >= 0 and latent_channels of each of {len(channels)} stages, as channels "
                f"has, got layers={layers} and latent_channels={latent_channels}."
            )
        self.widths = [image_shape[0], *channels]
        self.sizes = stage_sizes((image_shape[1], image_shape[2]), len(channels))
        latents = [[deep] * count for deep, count in zip(latent_channels, layers, strict=True)]
        super().__init__(image_shape, channels, latents, blocks, latent_blocks, activation)

    def shape(self, stage: int, channels: int) -> Shape:
        return (channels, *self.sizes[stage + 1])

    def affine(self, fan_in: int, fan_out: int, wide: bool = False) -> nn.Module:
        return nn.Conv2d(fan_in, fan_out, 3 if wide else 1, padding=int(wide))

    def residual(self, width: int) -> nn.Module:
        return ResidualBlock(width, Layers("ConvLadder", True, self.activation))

    def ascend(self, stage: int) -> nn.Module:
        return nn.Conv2d(self.widths[stage], self.widths[stage + 1], 3, stride=2, padding=1)

    def descend(self, stage: int) -> nn.Module:
        (height, width), (h, w) = self.sizes[stage + 1], self.sizes[stage + 2]
        extra = (height - (2 * h - 1), width - (2 * w - 1))  # exactly the even or odd size it came from
        return nn.ConvTranspose2d(self.widths[stage + 2], self.widths[stage + 1], 3, 2, 1, output_padding=extra)
