"""What the layers of a net are made of: a map, a normalisation, a nonlinearity or a gate, and blocks of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from vae_lightning.nets.base import zeroed

Activation = Callable[[], nn.Module]
Norm = Callable[[int], nn.Module]


def glorot(layer: nn.Linear, parts: int = 1) -> nn.Linear:
    """Glorot-uniform weights and a zero bias, as in the published MLP baselines (Burda et al. 2016); those of a gated
    layer for each of its `parts`."""
    for part in layer.weight.chunk(parts):
        nn.init.xavier_uniform_(part)
    nn.init.zeros_(layer.bias)
    return layer


def dropped(probability: float) -> list[nn.Module]:
    """The layer that drops activations in training; none where nothing is dropped."""
    return [nn.Dropout(probability)] if probability else []


class MapNorm(nn.Module):
    """Normalises maps (N, C, H, W) within each image, over the channels of a group and all places, with a learned scale
    and shift a channel: group normalisation (Wu & He 2018), which in one group is layer normalisation.

    Args:
        channels: C.
        groups: how many; they divide C.
    """

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        if groups < 1 or channels % groups:
            raise ValueError(f"MapNorm.groups: expected a divisor of the {channels} channels, got {groups}.")
        self.norm = nn.GroupNorm(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out


@dataclass(frozen=True)
class Layers:
    """How a net's layers are made.

    An activation that makes one number of two is a gate, as `torch.nn.GLU` is with `dim: 1`: h = A(x) * sigmoid(B(x))
    (Dauphin et al. 2017; the gated layers of Tomczak & Welling 2018). Each map is then twice as wide and followed by
    its gate; without one, a nonlinearity stands ahead of the next map, so that sums are of what no nonlinearity cut.

    Args:
        name: of the net, for its errors.
        maps: whether the net's layers are maps (N, C, H, W), or features (N, C).
        activation: the nonlinearity, or a gate.
        norm: a normalisation of so many channels, ahead of each nonlinearity; None for none.
        squeeze: a block's channels over those of its squeeze-and-excitation; 0 for none.
    """

    name: str
    maps: bool
    activation: Activation
    norm: Norm | None = None
    squeeze: int = 0

    def __post_init__(self) -> None:
        if self.squeeze < 0:
            raise ValueError(f"{self.name}.squeeze: expected a reduction of at least 1, or 0 for none.")

    @cached_property
    def parts(self) -> int:
        """How many numbers a map gives for each that the layer gives: 2 with a gate.

        Raises:
            ValueError: an activation that neither keeps what it gets nor halves its channels.
        """
        probe = torch.zeros(1, 2, 2, 2) if self.maps else torch.zeros(1, 2)
        activation = self.activation()
        found = activation(probe).shape
        if found == probe.shape:
            return 1
        if found == probe[:, :1].shape:
            return 2
        raise ValueError(
            f"{self.name}.activation: expected one that keeps the shape or halves the channels, got "
            f"{type(activation).__name__}, which makes {tuple(found)} of {tuple(probe.shape)}: a gate is "
            "{class_path: torch.nn.GLU, init_args: {dim: 1}}."
        )

    def gated(self, width: int, *layers: nn.Module) -> list[nn.Module]:
        """Layers that give `parts` times the width, with their gate; without gates, as they are."""
        return [*layers, *self._nonlinear(width)] if self.parts == 2 else list(layers)

    def ahead(self, width: int) -> list[nn.Module]:
        """What stands between this width and the next map: nothing where a gate stands behind the last."""
        return [] if self.parts == 2 else self._nonlinear(width)

    def _nonlinear(self, width: int) -> list[nn.Module]:
        return [*([] if self.norm is None else [self.norm(self.parts * width)]), self.activation()]

    def linear(self, fan_in: int, fan_out: int) -> nn.Linear:
        """A fully connected map, ready for its gate."""
        return glorot(nn.Linear(fan_in, self.parts * fan_out), self.parts)

    def same(self, fan_in: int, fan_out: int) -> nn.Module:
        """A map that keeps the size: fully connected, or a 3x3 convolution."""
        return nn.Conv2d(fan_in, fan_out, 3, padding=1) if self.maps else glorot(nn.Linear(fan_in, fan_out))

    def blocks(self, count: int, width: int) -> list[nn.Module]:
        """So many residual blocks of this width.

        Raises:
            ValueError: a negative number of them.
        """
        if count < 0:
            raise ValueError(f"{self.name}.blocks: expected at least 0, got {count}.")
        return [ResidualBlock(width, self) for _ in range(count)]


class ResidualBlock(nn.Module):
    """x + map(act(map(act(x)))), with its normalisations ahead of the nonlinearities (He et al. 2016, pre-activation);
    with gates x + map(gate(map(x))). It keeps the size and the width. The last map starts at zero, so the block starts
    as the identity. Squeeze-and-excitation weighs the channels of what is added (Hu et al. 2018)."""

    def __init__(self, width: int, layers: Layers) -> None:
        super().__init__()
        last = zeroed(layers.same(width, width))
        first = layers.gated(width, layers.same(width, layers.parts * width))
        excited: list[nn.Module] = []
        if layers.squeeze:
            from torchvision.ops import SqueezeExcitation

            excited = [SqueezeExcitation(width, max(1, width // layers.squeeze))]
        self.body = nn.Sequential(*layers.ahead(width), *first, *layers.ahead(width), last, *excited)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out
