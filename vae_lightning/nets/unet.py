"""A net from images to features of the same size that sees both the places and the whole."""

from __future__ import annotations

from torch import Tensor, nn

from vae_lightning.nets.base import Net, Shape
from vae_lightning.nets.layers import Activation, Layers, Norm, dropped
from vae_lightning.nets.sizes import Widths, require_widths, stage_sizes, stage_widths


class UNet(Net):
    """Image (C, H, W) in [0, 1] -> features (features, H, W), by stages that halve the image and stages that undo it,
    each of which adds what the same size held on the way down (Ronneberger et al. 2015, with sums in place of
    concatenations).

    Convolutions alone: what it learns of one place it knows of every other, so that a few hundred images are many.

    Args:
        in_shape: the image's (C, H, W), any H and W.
        image_shape: the same; every net takes it.
        channels: width of each stage below the image's own size. One number: the first's, and as many stages as bring
            the image to 4x4 or less, twice as wide each, up to 128, see `grown`.
        features: width at the image's own size, where a channel costs most.
        blocks: residual blocks in each stage below the image's own size.
        activation: the nonlinearity, or a gate: torch.nn.GLU with dim 1, see `Layers`.
        dropout: probability of dropping an activation in training, in every stage below the image's own size.
        norm: a normalisation of maps before each nonlinearity, such as torch.nn.BatchNorm2d or MapNorm.
        squeeze: reduction of the squeeze-and-excitation in each block, 16 by its authors; 0 for none.

    Raises:
        ValueError: what comes in is no image, a stage without a channel, or an activation that does not fit.
    """

    def __init__(
        self,
        in_shape: Shape,
        image_shape: Shape,
        channels: Widths = 16,
        features: int = 8,
        blocks: int = 1,
        activation: Activation = nn.SiLU,
        dropout: float = 0.0,
        norm: Norm | None = None,
        squeeze: int = 0,
    ) -> None:
        if len(in_shape) != 3:
            raise ValueError(f"UNet: expected an image (C, H, W) to read, got {tuple(in_shape)}: choose ConvDecoder.")
        require_widths("UNet.features", [features])
        super().__init__(in_shape, image_shape)
        size, make = (in_shape[1], in_shape[2]), Layers("UNet", True, activation, norm, squeeze)
        widths = [features, *stage_widths("UNet.channels", channels, size)]
        sizes = stage_sizes(size, len(widths) - 1)
        self.first = _whole(make.gated(features, nn.Conv2d(in_shape[0], make.parts * features, 3, padding=1)))
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for wide, narrow, (height, width), (h, w) in zip(widths, widths[1:], sizes, sizes[1:], strict=False):
            within = make.blocks(blocks, narrow)
            halved = make.gated(narrow, nn.Conv2d(wide, make.parts * narrow, 3, stride=2, padding=1))
            self.down.append(nn.Sequential(*make.ahead(wide), *halved, *within, *dropped(dropout)))
            extra = (height - (2 * h - 1), width - (2 * w - 1))  # exactly the even or odd size it came from
            back = nn.ConvTranspose2d(narrow, make.parts * wide, 3, 2, padding=1, output_padding=extra)
            self.up.append(nn.Sequential(*make.ahead(narrow), *make.gated(wide, back)))
        self.last = _whole(make.ahead(features))
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


def _whole(layers: list[nn.Module]) -> nn.Module:
    """One module of some, under its own name where there is one."""
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)
