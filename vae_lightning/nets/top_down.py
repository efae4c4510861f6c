"""The nets of a top-down ladder: a bottom-up path that reads the image once, and for each latent what reads the state
above it and what takes the latent into the state (Sønderby et al. 2016; Kingma et al. 2016; Child 2021).

Legend of shapes: B images (C, H, W); S any leading shape, such as (), (B,) or (K, B); d numbers of a latent. States and
features are vectors (width,), or maps (width, h, w).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vae_lightning.nets.base import Shape, at_least_float32, over_leading, zeroed
from vae_lightning.nets.layers import Activation


class TopDownBlock(nn.Module):
    """The nets of one latent. Both heads begin by saying 0.

    Args:
        size: d.
        event_dim: of a state, 1 or 3.
        arrive: from the state that the latent above has left to the state here: the identity, or a change of size.
        prior: state -> the prior's two parameters a number, as (2 c,) or (2 c, h, w); None for the first latent, above
            which there is nothing.
        join: state -> what the posterior reads beside the image's feature.
        posterior: the sum of both -> the posterior's two parameters a number.
        take: a latent, as (c,) or (c, h, w) -> what is added to the state.
        blocks: from there to the state that is left behind.
    """

    def __init__(
        self,
        size: int,
        event_dim: int,
        arrive: nn.Module,
        prior: nn.Module | None,
        join: nn.Module,
        posterior: nn.Module,
        take: nn.Module,
        blocks: nn.Module,
    ) -> None:
        super().__init__()
        self.size, self.event_dim = size, event_dim
        self.arrive, self.prior, self.join, self.posterior = arrive, prior, join, posterior
        self.take, self.blocks = take, blocks

    def enter(self, state: Tensor) -> Tensor:
        """The state that the latent above has left, (*S, *state), as it is read here."""
        return over_leading(self.arrive, state, self.event_dim)

    def prior_parameters(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Two numbers for each of the latent's, (*S, d) each; those of the first are 0."""
        if self.prior is None:
            zero = at_least_float32(state).new_zeros(*state.shape[: state.dim() - self.event_dim], self.size)
            return zero, zero
        return self._halves(self.prior, state)

    def posterior_parameters(self, state: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """The same of a state (*S, *state) and the feature (B, *feature) of the images, (*S, d) each, or (B, d) where S
        is ()."""
        return self._halves(self.posterior, over_leading(self.join, state, self.event_dim) + feature)

    def leave(self, state: Tensor, z: Tensor) -> Tensor:
        """The state with the latent z, (*S, d), taken into it."""
        parts = z.unflatten(-1, (-1, *state.shape[state.dim() - self.event_dim :][1:]))
        taken = state + over_leading(self.take, parts.to(state.dtype), self.event_dim)
        return over_leading(self.blocks, taken, self.event_dim)

    def _halves(self, net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = over_leading(net, x, self.event_dim).chunk(2, -self.event_dim)
        return tuple(at_least_float32(part.flatten(-self.event_dim)) for part in (first, second))  # type: ignore[return-value]


class LadderNet(nn.Module, ABC):
    """The nets of all latents. Stages go from the image upwards, latents from the top downwards: those of a stage have
    one width and one size of map.

    Args:
        image_shape: (C, H, W).
        widths: of each stage, from the image upwards.
        latents: for each stage, the number of channels, or of numbers, of each of its latents.
        blocks: residual blocks of the bottom-up path in each stage.
        latent_blocks: residual blocks behind each latent.
        activation: the nonlinearity.
    """

    state_shape: Shape
    """Of the state behind the last latent, which p(x|z) is given."""

    def __init__(
        self,
        image_shape: Shape,
        widths: Sequence[int],
        latents: Sequence[Sequence[int]],
        blocks: int,
        latent_blocks: int,
        activation: Activation,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if min(blocks, latent_blocks) < 0:
            raise ValueError(f"{name}: expected no fewer than 0 blocks, got {blocks} and {latent_blocks}.")
        if not latents[-1]:
            raise ValueError(f"{name}: expected a latent in the last stage, the top, got none: leave the stage out.")
        self.image_shape, self.activation = tuple(image_shape), activation
        self.up = nn.ModuleList()
        for stage, width in enumerate(widths):
            within = [self.residual(width) for _ in range(blocks)]
            self.up.append(nn.Sequential(*([activation()] if stage else []), self.ascend(stage), *within))
        self.features_of, self.layers, self.stages = nn.ModuleList(), nn.ModuleList(), list[int]()
        arrive: list[nn.Module] = []
        for stage in reversed(range(len(widths))):
            if stage < len(widths) - 1:
                arrive += [activation(), self.descend(stage)]
            for channels in latents[stage]:
                self.layers.append(self._layer(stage, widths[stage], channels, arrive, latent_blocks))
                self.features_of.append(nn.Sequential(activation(), self.affine(widths[stage], widths[stage])))
                self.stages.append(stage)
                arrive = []
        self.last = nn.Sequential(*arrive)  # stages without latents between the last one and the image
        self.start = nn.Parameter(torch.zeros(self.shape(len(widths) - 1, widths[-1])))
        self.state_shape = self.shape(0, widths[0])

    def _layer(self, stage: int, width: int, channels: int, arrive: list[nn.Module], blocks: int) -> TopDownBlock:
        shape = self.shape(stage, channels)

        def head() -> nn.Module:
            return nn.Sequential(self.activation(), zeroed(self.affine(width, 2 * channels, wide=True)))

        return TopDownBlock(
            math.prod(shape),
            len(shape),
            nn.Sequential(*arrive),
            head() if len(self.layers) else None,
            self.affine(width, width),
            nn.Sequential(self.residual(width), head()),
            self.affine(channels, width, wide=True),
            nn.Sequential(*(self.residual(width) for _ in range(blocks))),
        )

    @abstractmethod
    def shape(self, stage: int, channels: int) -> Shape:
        """(channels,), or (channels, h, w) of the stage."""

    @abstractmethod
    def affine(self, fan_in: int, fan_out: int, wide: bool = False) -> nn.Module:
        """A linear map at each place, or of each place and, where it is `wide`, those around it."""

    @abstractmethod
    def residual(self, width: int) -> nn.Module:
        """A residual block that starts as the identity."""

    @abstractmethod
    def ascend(self, stage: int) -> nn.Module:
        """Image, or the stage before -> this stage."""

    @abstractmethod
    def descend(self, stage: int) -> nn.Module:
        """The stage above -> this stage."""

    def features(self, image: Tensor) -> list[Tensor]:
        """Of images in [0, 1], (B, C, H, W): what each latent's posterior is told, (B, *feature), from the top down."""
        seen, found = image, []
        for stage in self.up:
            seen = stage(seen)
            found.append(seen)
        return [layer(found[stage]) for layer, stage in zip(self.features_of, self.stages, strict=True)]

    def finish(self, state: Tensor) -> Tensor:
        """The state behind the last latent, (*S, *state), at the first stage: (*S, *state_shape)."""
        return over_leading(self.last, state, len(self.state_shape))


LadderFactory = Callable[[Shape], LadderNet]
"""image_shape -> the nets."""
