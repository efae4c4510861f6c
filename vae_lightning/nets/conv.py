"""Convolutional nets for images of any size: each stage halves (rounding up) or undoes exactly that halving."""

from __future__ import annotations

import math

from torch import Tensor, nn

from vae_lightning.nets.base import Net, Shape
from vae_lightning.nets.layers import Activation, Layers, Norm, dropped
from vae_lightning.nets.sizes import Widths, layer_widths, map_depth, require_a_map, stage_sizes, stage_widths


class ConvEncoder(Net):
    """Image (C, H, W) -> features (hidden,), or the last stage where `hidden` is 0: flattened, or as a map.

    Args:
        in_shape: the image's (C, H, W), any H and W.
        image_shape: the same; every net takes it.
        channels: width of each stage; each stage halves the height and the width. One number: the first stage's, and
            as many stages as bring the image to 4x4 or less, see `grown`.
        blocks: residual blocks after each halving.
        hidden: widths of the fully connected layers at the end; 0 for none.
        activation: the nonlinearity, or a gate: torch.nn.GLU with dim 1, see `Layers`.
        norm: a normalisation of maps before each of their nonlinearities, such as torch.nn.BatchNorm2d or MapNorm.
        squeeze: reduction of the squeeze-and-excitation in each block, 16 by its authors; 0 for none.
        dropout: probability of dropping an activation in training, after every stage and fully connected layer.
        spatial: give the last stage as a map (channels[-1], h, w), from which a posterior reads each latent at its
            place; needs hidden = 0.

    Raises:
        ValueError: settings that do not fit together, each with what to do.
    """

    def __init__(
        self,
        in_shape: Shape,
        image_shape: Shape,
        channels: Widths = [32, 64, 128],  # noqa: B006
        blocks: int = 0,
        hidden: Widths = 256,
        activation: Activation = nn.SiLU,
        norm: Norm | None = None,
        squeeze: int = 0,
        dropout: float = 0.0,
        spatial: bool = False,
    ) -> None:
        size = (in_shape[1], in_shape[2])
        channels, hidden = _widths("ConvEncoder", channels, hidden, size, spatial)
        super().__init__(in_shape, image_shape)
        make, flat = _layers("ConvEncoder", activation, norm, blocks, squeeze)
        widths = [in_shape[0], *channels]
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip(widths, channels, strict=False):
            layers += make.gated(fan_out, nn.Conv2d(fan_in, make.parts * fan_out, 3, stride=2, padding=1))
            layers += [*make.blocks(blocks, fan_out), *make.ahead(fan_out), *dropped(dropout)]
        h, w = stage_sizes(size, len(channels))[-1]
        features = widths[-1] * h * w
        if not spatial:
            layers.append(nn.Flatten())
        for fan_in, fan_out in zip([features, *hidden], hidden, strict=False):
            layers += [*flat.gated(fan_out, flat.linear(fan_in, fan_out)), *flat.ahead(fan_out), *dropped(dropout)]
        self.layers = nn.Sequential(*layers)
        self.out_shape = (widths[-1], h, w) if spatial else ([features, *hidden][-1],)

    def body(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class ConvDecoder(Net):
    """Latent (d,) -> features (channels[-1], H, W) at the image's own size: the mirror of ConvEncoder.

    Args:
        in_shape: the latent's shape, (d,).
        image_shape: (C, H, W), any H and W.
        channels: width of each stage, from the smallest to the image's size; each stage doubles height and width. One
            number: that of the last stage, as of ConvEncoder's first, and as many stages as the image asks for.
        blocks: residual blocks before each doubling.
        hidden: widths of the fully connected layers at the start; 0 for none.
        activation: the nonlinearity, or a gate: torch.nn.GLU with dim 1, see `Layers`.
        norm: a normalisation of maps before each of their nonlinearities, such as torch.nn.BatchNorm2d or MapNorm.
        squeeze: reduction of the squeeze-and-excitation in each block, 16 by its authors; 0 for none.
        dropout: probability of dropping an activation in training, before every stage.
        spatial: take the latents as a map (d / (h w), h, w) of the smallest stage's size; needs hidden = 0.

    Raises:
        ValueError: settings that do not fit together, each with what to do.
    """

    def __init__(
        self,
        in_shape: Shape,
        image_shape: Shape,
        channels: Widths = [128, 64, 32],  # noqa: B006
        blocks: int = 0,
        hidden: Widths = 256,
        activation: Activation = nn.SiLU,
        norm: Norm | None = None,
        squeeze: int = 0,
        dropout: float = 0.0,
        spatial: bool = False,
    ) -> None:
        _, height, width = image_shape
        is_grown = isinstance(channels, int)
        channels, hidden = _widths("ConvDecoder", channels, hidden, (height, width), spatial)
        channels = channels[::-1] if is_grown else channels
        super().__init__(in_shape, image_shape)
        make, flat = _layers("ConvDecoder", activation, norm, blocks, squeeze)
        sizes = stage_sizes((height, width), len(channels))[::-1]  # smallest first
        features = math.prod(in_shape)
        layers: list[nn.Module] = [nn.Flatten()]
        (h, w), wide = sizes[0], make.parts * channels[0]
        if spatial:
            if len(in_shape) == 3 and tuple(in_shape[1:]) != (h, w):
                raise ValueError(
                    f"ConvDecoder.channels: expected as many stages as bring the map {tuple(in_shape)} to the image's "
                    f"{height}x{width}, got {len(channels)}, which begin at {h}x{w}: give a channel for each doubling."
                )
            deep = map_depth("ConvDecoder", features, (h, w))
            to_map: list[nn.Module] = [nn.Unflatten(1, (deep, h, w)), nn.Conv2d(deep, wide, 3, padding=1)]
        else:
            for fan_in, fan_out in zip([features, *hidden], hidden, strict=False):
                layers += [*flat.gated(fan_out, flat.linear(fan_in, fan_out)), *flat.ahead(fan_out)]
            to_map = [flat.linear([features, *hidden][-1], channels[0] * h * w), nn.Unflatten(1, (wide, h, w))]
        layers += make.gated(channels[0], *to_map)
        for fan_in, fan_out, small, large in zip(
            channels, [*channels[1:], channels[-1]], sizes, sizes[1:], strict=False
        ):
            # A transposed convolution of stride 2 gives 2h - 1 + extra rows: exactly the even or odd size it came from.
            extra = (large[0] - (2 * small[0] - 1), large[1] - (2 * small[1] - 1))
            layers += [*make.blocks(blocks, fan_in), *make.ahead(fan_in), *dropped(dropout)]
            doubled = nn.ConvTranspose2d(fan_in, make.parts * fan_out, 3, 2, padding=1, output_padding=extra)
            layers += make.gated(fan_out, doubled)
        layers += make.ahead(channels[-1])
        self.layers = nn.Sequential(*layers)
        self.out_shape = (channels[-1], height, width)

    def body(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def _widths(
    name: str, channels: Widths, hidden: Widths, size: tuple[int, int], spatial: bool
) -> tuple[list[int], list[int]]:
    """Of the stages, and of the fully connected layers."""
    found = stage_widths(f"{name}.channels", channels, size), layer_widths(f"{name}.hidden", hidden)
    require_a_map(name, spatial, found[1])
    return found


def _layers(name: str, activation: Activation, norm: Norm | None, blocks: int, squeeze: int) -> tuple[Layers, Layers]:
    """How a net's maps are made, and its fully connected layers, which no norm of maps fits."""
    if squeeze and not blocks:
        raise ValueError(
            f"{name}.squeeze: expected 0 without blocks, which it is a part of, got {squeeze}: set blocks."
        )
    return Layers(name, True, activation, norm, squeeze), Layers(name, False, activation)
