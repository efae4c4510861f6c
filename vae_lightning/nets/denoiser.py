"""Denoisers: nets that look at a noised value, the time of its noise and conditions. They know no schedule and no loss.

Legend of shapes: N values (*event); each condition, by its name, a vector (size,).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_lightning.nets.base import Shape, zeroed
from vae_lightning.nets.transformer import Transformer

FREQUENCIES = 32
"""Of the sines and cosines of the time."""


class Denoiser(nn.Module, ABC):
    """(noised value, time, conditions) -> a tensor of the value's shape."""

    @abstractmethod
    def forward(self, x: Tensor, time: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """(N, *event), times (N,) in 0 .. 1, conditions {name: (N, size)} of all names -> (N, *event)."""


DenoiserFactory = Callable[[Shape, Mapping[str, int]], Denoiser]
"""(event_shape, {condition: its size}) -> Denoiser."""


class Told(nn.Module):
    """What a denoiser is told beside the value: sines and cosines of the time (Vaswani et al. 2017) through two layers,
    and a linear map of each condition, summed (Nichol & Dhariwal 2021): (N, width)."""

    frequencies: Tensor

    def __init__(self, width: int, conditions: Mapping[str, int]) -> None:
        super().__init__()
        rising = torch.linspace(0, math.log(1000), FREQUENCIES).exp()
        self.register_buffer("frequencies", rising, persistent=False)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.conditions = nn.ModuleDict({name: nn.Linear(size, width) for name, size in conditions.items()})

    def forward(self, time: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        angle = time[:, None] * self.frequencies
        out: Tensor = self.time(torch.cat((angle.sin(), angle.cos()), -1))
        for name, layer in self.conditions.items():
            out = out + layer(conditions[name])
        return out


class AdaptiveBlock(nn.Module):
    """x + gate * mlp(norm(x) * (1 + scale) + shift), where gate, scale and shift are linear in what is told and start
    at zero, so that the block starts as the identity (Peebles & Xie 2023, adaLN-Zero)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.adapt = zeroed(nn.Linear(width, 3 * width))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        gate, scale, shift = self.adapt(told).chunk(3, -1)
        out: Tensor = x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)
        return out


class ResidualDenoiser(Denoiser):
    """For vectors: residual blocks that are told time and conditions through adaptive layer norm. Says 0 at the start.

    Args:
        event_shape: of the value; flattened.
        conditions: {name: size}.
        width: units of each block; its hidden layer has twice as many.
        depth: how many blocks.
    """

    def __init__(self, event_shape: Shape, conditions: Mapping[str, int], width: int = 192, depth: int = 3) -> None:
        super().__init__()
        if depth < 1 or width < 1:
            raise ValueError(f"ResidualDenoiser: expected width and depth of at least 1, got {width} and {depth}.")
        size = math.prod(event_shape)
        self.told = Told(width, conditions)
        self.first = nn.Linear(size, width)
        self.blocks = nn.ModuleList(AdaptiveBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.last = zeroed(nn.Linear(width, size))

    def forward(self, x: Tensor, time: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        told = F.silu(self.told(time, conditions))
        h = self.first(x.flatten(1))
        for block in self.blocks:
            h = block(h, told)
        out: Tensor = self.last(self.norm(h))
        return out.view_as(x)


class PatchDenoiser(Denoiser):
    """For maps: a transformer over patches and extra tokens in front of them, one that sums time and conditions and
    `tokens` of each condition (Ramesh et al. 2022, section 2.1; Bao et al. 2023). Says 0 at the start.

    Args:
        event_shape: of the value: a map (C, h, w), or flat.
        conditions: {name: size}.
        map_shape: (C, h, w) of a value that comes flat, as a VAE's latents do; null for an `event_shape` that is a map.
        patch: side of a patch, which divides h and w.
        width: numbers at each token.
        depth: blocks of the transformer.
        heads: of each attention.
        tokens: extra tokens a condition.
    """

    def __init__(
        self,
        event_shape: Shape,
        conditions: Mapping[str, int],
        map_shape: list[int] | None = None,
        patch: int = 1,
        width: int = 192,
        depth: int = 4,
        heads: int = 4,
        tokens: int = 4,
    ) -> None:
        super().__init__()
        self.map_shape = tuple(event_shape if map_shape is None else map_shape)
        if len(self.map_shape) != 3 or math.prod(self.map_shape) != math.prod(event_shape):
            raise ValueError(
                f"PatchDenoiser.map_shape: expected (C, h, w) of {math.prod(event_shape)} numbers, got "
                f"{self.map_shape}: set it to the map that the latents are, or choose ResidualDenoiser."
            )
        channels, height, breadth = self.map_shape
        if patch < 1 or height % patch or breadth % patch:
            raise ValueError(
                f"PatchDenoiser.patch: expected a side that divides the map's {height}x{breadth}, got {patch}."
            )
        self.patch, places = patch, (height // patch) * (breadth // patch)
        self.told = Told(width, conditions)
        self.extra = nn.ModuleDict({name: nn.Linear(size, tokens * width) for name, size in conditions.items()})
        self.first = nn.Linear(channels * patch**2, width)
        self.place = nn.Parameter(0.02 * torch.randn(places, width))
        self.transformer = Transformer(width, depth, heads, causal=False)
        self.last = zeroed(nn.Linear(width, channels * patch**2))

    def forward(self, x: Tensor, time: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        size = self.map_shape[1:]
        patches = F.unfold(x.reshape(len(x), *self.map_shape), self.patch, stride=self.patch).transpose(1, 2)
        h = self.first(patches) + self.place  # (N, places, width)
        front = [self.told(time, conditions)[:, None]]
        front += [layer(conditions[name]).unflatten(-1, (-1, h.shape[-1])) for name, layer in self.extra.items()]
        h = self.transformer(torch.cat((*front, h), 1))[:, -len(self.place) :]
        out = F.fold(self.last(h).transpose(1, 2), size, self.patch, stride=self.patch)
        return out.reshape(x.shape)
