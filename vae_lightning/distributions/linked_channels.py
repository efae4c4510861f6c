"""Discretized logistics of an image's channels, each one told what the channels before it hold."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, constraints
from torch.types import _size

from vae_lightning.distributions.discretized_logistic import DiscretizedLogistic


class Linked(Distribution):
    """P(x) = prod over c of P(x_c | x_0..x_{c-1}), each about

        loc_c + sum over j < c of w_jc (x_j - loc_j),

    so that what one channel shows of a place need not be said again for the next (Salimans et al. 2017, eq. 3, there
    with the values of the channels before in place of their distance from the centre).

    Args:
        loc: centres before the other channels are known, in levels, (*batch, C, H, W).
        weight: w, (*batch, C - 1, C, H, W); what is not below the diagonal is not used.
        levels: how many integers the support holds.
        edges: as DiscretizedLogistic's.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, loc: Tensor, weight: Tensor, levels: int, edges: Tensor | None = None) -> None:
        self.loc, self.weight, self.levels, self.edges = loc, weight, levels, edges
        super().__init__(loc.shape[:-3], loc.shape[-3:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.integer_interval(0, self.levels - 1), 3)

    @property
    @abstractmethod
    def parameters(self) -> tuple[Tensor, ...]:
        """All that it is made of."""

    @abstractmethod
    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> Self: ...

    @abstractmethod
    def channel(self, index: int, before: Tensor) -> Distribution:
        """P(x_index | the channels before it), (*batch, H, W), told an image that holds at least those."""

    def centre(self, index: int, before: Tensor) -> Tensor:
        """Of a channel, told an image that holds at least those before it, (*batch, H, W)."""
        centre = self.loc[..., index, :, :]
        for j in range(index):
            residual = before[..., j, :, :] - self.loc[..., j, :, :]
            centre = centre + self.weight[..., j, index, :, :] * residual
        return centre

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x = value) in nats, the shape of the batch."""
        return self.log_prob_of_each(value).flatten(-3).sum(-1)

    def log_prob_of_each(self, value: Tensor) -> Tensor:
        """log P(x_c = value_c | the channels before it) at every place, nats, (*batch, C, H, W)."""
        channels = range(self.event_shape[0])
        return torch.stack([self.channel(c, value).log_prob(value[..., c, :, :]) for c in channels], -3)

    def _in_turn(self, value: Callable[[Distribution], Tensor]) -> Tensor:
        """An image made channel after channel, each of what its density gives when told those before."""
        made = torch.empty_like(self.loc)
        for c in range(self.event_shape[0]):
            made[..., c, :, :] = value(self.channel(c, made))
        return made

    @property
    def mean(self) -> Tensor:
        """E[x], each channel at the means of those before: exact but near the ends of the range; no gradient."""
        with torch.no_grad():
            return self._in_turn(lambda density: density.mean)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        with torch.no_grad():
            wide = self.expand(Size(sample_shape) + self.batch_shape)
            return wide._in_turn(lambda density: density.sample())


class LinkedChannels(Linked):
    """Of discretized logistics.

    Args:
        scale: the logistics' scales, in levels, > 0, (*batch, C, H, W); the others: see `Linked`.
    """

    def __init__(self, loc: Tensor, scale: Tensor, weight: Tensor, levels: int, edges: Tensor | None = None) -> None:
        self.scale = scale
        super().__init__(loc, weight, levels, edges)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.loc, self.scale, self.weight

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> LinkedChannels:
        batch = Size(batch_shape)
        loc, scale = (part.expand(batch + self.event_shape) for part in (self.loc, self.scale))
        return LinkedChannels(loc, scale, self.weight.expand(batch + self.weight.shape[-4:]), self.levels, self.edges)

    def channel(self, index: int, before: Tensor) -> DiscretizedLogistic:
        scale = self.scale[..., index, :, :]
        return DiscretizedLogistic(self.centre(index, before), scale, self.levels, False, self.edges)


class LinkedMixtures(Linked):
    """Of mixtures of K discretized logistics, for values that may be one of several, such as at the edge of a stroke.

    Args:
        logits: of the components, (*batch, C, H, W, K).
        offset: where each lies from the centre, in levels, the same shape.
        scale: the logistics' scales, in levels, > 0, the same shape; the others: see `Linked`.
    """

    def __init__(
        self,
        loc: Tensor,
        logits: Tensor,
        offset: Tensor,
        scale: Tensor,
        weight: Tensor,
        levels: int,
        edges: Tensor | None = None,
    ) -> None:
        self.logits, self.offset, self.scale = logits, offset, scale
        super().__init__(loc, weight, levels, edges)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.loc, self.logits, self.offset, self.scale, self.weight

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> LinkedMixtures:
        batch = Size(batch_shape)
        loc, rest = self.loc.expand(batch + self.event_shape), self.parameters[1:]
        logits, offset, scale, weight = (part.expand(batch + part.shape[-4:]) for part in rest)
        return LinkedMixtures(loc, logits, offset, scale, weight, self.levels, self.edges)

    def channel(self, index: int, before: Tensor) -> MixtureSameFamily:
        of_channel = (..., index, slice(None), slice(None), slice(None))
        loc = self.centre(index, before)[..., None] + self.offset[of_channel]
        logistic = DiscretizedLogistic(loc, self.scale[of_channel], self.levels, False, self.edges)
        weight = Categorical(logits=self.logits[of_channel], validate_args=False)
        return MixtureSameFamily(weight, logistic, validate_args=False)
