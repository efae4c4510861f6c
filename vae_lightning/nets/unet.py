"""A net from images to features of the same size that sees both the places and the whole."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from vae_lightning.nets.base import Net, Shape
from vae_lightning.nets.conv import ResidualBlock, dropped, grown, stage_sizes


class UNet(Net):
    """Image (C, H, W) in [0, 1] -> features (features, H, W), by stages that halve the image and stages that undo it,
    each of which adds what the same size held on the way down (Ronneberger et al. 2015, with sums in place of
    concatenations).

    Convolutions alone: what it learns of one place it knows of every other, so that a few hundred images are many.

    Args:
        in_shape: the image's (C, H, W), any H and W.
        image_shape: the same; every net takes it.
        channels: width of the first stage below the image's own size; as many stages as bring the image to 4x4 or less,
            twice as wide each, up to 128, see `grown`.
        features: width at the image's own size, where a channel costs most.
        blocks: residual blocks in each stage below the image's own size.
        activation: the nonlinearity.
        dropout: probability of dropping an activation in training, in every stage below the image's own size.
    """

    def __init__(
        self,
        in_shape: Shape,
        image_shape: Shape,
        channels: int = 16,
        features: int = 8,
        blocks: int = 1,
        activation: Callable[[], nn.Module] = nn.SiLU,
        dropout: float = 0.0,
    ) -> None:
        if len(in_shape) != 3:
            raise ValueError(f"UNet: expected an image (C, H, W) to read, got {tuple(in_shape)}: choose ConvDecoder.")
        if min(channels, features) < 1:
            raise ValueError(f"UNet: expected channels and features of at least 1, got {channels} and {features}.")
        super().__init__(in_shape, image_shape)
        size = (in_shape[1], in_shape[2])
        widths = [features, *grown(size, channels)]
        sizes = stage_sizes(size, len(widths) - 1)
        self.first = nn.Conv2d(in_shape[0], features, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for wide, narrow, (height, width), (h, w) in zip(widths, widths[1:], sizes, sizes[1:], strict=False):
            within = [ResidualBlock(narrow, activation) for _ in range(blocks)]
            self.down.append(
                nn.Sequential(activation(), nn.Conv2d(wide, narrow, 3, stride=2, padding=1), *within, *dropped(dropout))
            )
            extra = (height - (2 * h - 1), width - (2 * w - 1))  # exactly the even or odd size it came from
            back = nn.ConvTranspose2d(narrow, wide, 3, 2, padding=1, output_padding=extra)
            self.up.append(nn.Sequential(activation(), back))
        self.last = activation()
        self.out_shape = (features, *size)

    def body(self, x: Tensor) -> Tensor:
        held = [self.first(4 * x - 2)]
        for stage in self.down:
            held.append(stage(held[-1]))
        out: Tensor = held.pop()
        for stage in reversed(self.up):
            out = held.pop() + stage(out)
        features: Tensor = self.last(out)
        return features
