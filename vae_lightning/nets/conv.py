"""Convolutional nets for images of any size: each stage halves (rounding up) or undoes exactly that halving."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from vae_lightning.nets.base import Net, Shape
from vae_lightning.nets.mlp import glorot, require_widths


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))): keeps size and channels. The last convolution starts at zero, so the block starts
    as the identity."""

    def __init__(self, channels: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.body = nn.Sequential(activation(), nn.Conv2d(channels, channels, 3, padding=1), activation(), last)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def stage_sizes(size: tuple[int, int], stages: int) -> list[tuple[int, int]]:
    """[(H, W), (ceil(H/2), ceil(W/2)), ...], stages + 1 of them."""
    sizes = [size]
    for _ in range(stages):
        h, w = sizes[-1]
        sizes.append(((h + 1) // 2, (w + 1) // 2))
    return sizes


def grown(size: tuple[int, int], width: int, widest: int = 128, smallest: int = 4) -> list[int]:
    """Widths of as many stages as bring an image of this size to a map of at most `smallest` a side: `width` at first,
    and twice as wide where the map has a quarter of the places, up to `widest`; at least one."""
    stages = max(1, math.ceil(math.log2(max(size) / smallest)))
    return [min(width * 2**stage, max(width, widest)) for stage in range(stages)]


def map_depth(name: str, size: int, sides: tuple[int, int]) -> int:
    """How many latents stand at each place of a map (h, w); raises ValueError where they do not come out even."""
    places = math.prod(sides)
    if size % places:
        raise ValueError(
            f"{name}: expected a number of latents that is a multiple of the {places} places of the "
            f"{sides[0]}x{sides[1]} map, got {size}: choose another latent_size, or spatial: false."
        )
    return size // places


def require_a_map(name: str, spatial: bool, hidden: int) -> None:
    """Raises ValueError where a fully connected layer would mix the places of a map."""
    if spatial and hidden:
        raise ValueError(f"{name}.hidden: expected 0 with spatial, since features keep their places, got {hidden}.")


def dropped(probability: float) -> list[nn.Module]:
    """The layer that drops activations in training; none where nothing is dropped."""
    return [nn.Dropout(probability)] if probability else []


class ConvEncoder(Net):
    """Image (C, H, W) -> features (hidden,), or the last stage where `hidden` is 0: flattened, or as a map.

    Args:
        in_shape: the image's (C, H, W), any H and W.
        image_shape: the same; every net takes it.
        channels: width of each stage; each stage halves the height and the width. One number: the first stage's, and
            as many stages as bring the image to 4x4 or less, see `grown`.
        blocks: residual blocks after each halving.
        hidden: width of the fully connected layer at the end; 0 for none.
        activation: the nonlinearity.
        dropout: probability of dropping an activation in training, after every stage and the fully connected layer.
        spatial: give the last stage as a map (channels[-1], h, w), from which a posterior reads each latent at its
            place; needs hidden = 0.
    """

    def __init__(
        self,
        in_shape: Shape,
        image_shape: Shape,
        channels: list[int] | int = [32, 64, 128],  # noqa: B006
        blocks: int = 0,
        hidden: int = 256,
        activation: Callable[[], nn.Module] = nn.SiLU,
        dropout: float = 0.0,
        spatial: bool = False,
    ) -> None:
        if isinstance(channels, int):
            channels = grown((in_shape[1], in_shape[2]), channels)
        require_widths("ConvEncoder.channels", channels, at_least=1)
        require_a_map("ConvEncoder", spatial, hidden)
        super().__init__(in_shape, image_shape)
        widths = [in_shape[0], *channels]
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip(widths, channels, strict=False):
            layers.append(nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1))
            layers.extend(ResidualBlock(fan_out, activation) for _ in range(blocks))
            layers += [activation(), *dropped(dropout)]
        h, w = stage_sizes((in_shape[1], in_shape[2]), len(channels))[-1]
        features = widths[-1] * h * w
        if not spatial:
            layers.append(nn.Flatten())
        if hidden:
            layers += [glorot(nn.Linear(features, hidden)), activation(), *dropped(dropout)]
        self.layers = nn.Sequential(*layers)
        self.out_shape = (widths[-1], h, w) if spatial else (hidden or features,)

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
        hidden: width of the fully connected layer at the start; 0 for none.
        activation: the nonlinearity.
        dropout: probability of dropping an activation in training, before every stage.
        spatial: take the latents as a map (d / (h w), h, w) of the smallest stage's size; needs hidden = 0.
    """

    def __init__(
        self,
        in_shape: Shape,
        image_shape: Shape,
        channels: list[int] | int = [128, 64, 32],  # noqa: B006
        blocks: int = 0,
        hidden: int = 256,
        activation: Callable[[], nn.Module] = nn.SiLU,
        dropout: float = 0.0,
        spatial: bool = False,
    ) -> None:
        if isinstance(channels, int):
            channels = grown((image_shape[1], image_shape[2]), channels)[::-1]
        require_widths("ConvDecoder.channels", channels, at_least=1)
        require_a_map("ConvDecoder", spatial, hidden)
        super().__init__(in_shape, image_shape)
        _, height, width = image_shape
        sizes = stage_sizes((height, width), len(channels))[::-1]  # smallest first
        features = math.prod(in_shape)
        layers: list[nn.Module] = [nn.Flatten()]
        h, w = sizes[0]
        if spatial:
            if len(in_shape) == 3 and tuple(in_shape[1:]) != (h, w):
                raise ValueError(
                    f"ConvDecoder.channels: expected as many stages as bring the map {tuple(in_shape)} to the image's "
                    f"{height}x{width}, got {len(channels)}, which begin at {h}x{w}: give a channel for each doubling."
                )
            deep = map_depth("ConvDecoder", features, (h, w))
            layers += [nn.Unflatten(1, (deep, h, w)), nn.Conv2d(deep, channels[0], 3, padding=1)]
        else:
            if hidden:
                layers += [glorot(nn.Linear(features, hidden)), activation()]
            layers += [glorot(nn.Linear(hidden or features, channels[0] * h * w)), nn.Unflatten(1, (channels[0], h, w))]
        for fan_in, fan_out, small, large in zip(
            channels, [*channels[1:], channels[-1]], sizes, sizes[1:], strict=False
        ):
            # A transposed convolution of stride 2 gives 2h - 1 + extra rows: exactly the even or odd size it came from.
            extra = (large[0] - (2 * small[0] - 1), large[1] - (2 * small[1] - 1))
            layers.extend(ResidualBlock(fan_in, activation) for _ in range(blocks))
            layers += [activation(), *dropped(dropout)]
            layers.append(nn.ConvTranspose2d(fan_in, fan_out, 3, 2, padding=1, output_padding=extra))
        layers.append(activation())
        self.layers = nn.Sequential(*layers)
        self.out_shape = (channels[-1], height, width)

    def body(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out
