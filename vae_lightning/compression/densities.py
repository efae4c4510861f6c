"""Which codec codes which density. A new density needs one function here or anywhere, registered with its class."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal

from vae_lightning.compression.codecs import Codec, Grid, Search, Table
from vae_lightning.compression.stack import Integers, Stack
from vae_lightning.distributions import BinaryImage, CategoricalLevels, DiscretizedLogistic, Linked


@singledispatch
def image_codec(density: Distribution) -> Codec:
    """The codec of a density over integer images, for all of its values in order. To add that of a new likelihood:

        @image_codec.register
        def _(density: MyLevels) -> Codec:
            return Search(density.levels, my_tails, density.loc.flatten().cpu())

    or any other Codec. Its parameters must be the same, bit for bit, for the encoder and the decoder.

    Raises:
        ValueError: no codec is registered for the density, or its parameters are not finite.
    """
    raise ValueError(
        f"expected a likelihood that is a probability of levels ({_known(image_codec)}), got {_name(density)}, which "
        "has no codec: a density over continuous values is no probability of levels, and has no code length. Train "
        "with a likelihood of levels, or register a codec with vae_lightning.compression.image_codec."
    )


@singledispatch
def latent_codec(density: Distribution, grid: Grid) -> Codec:
    """The codec of a density over latents, rounded to the grid: the numbers of its points. Registered as `image_codec`
    is, by functions of the density and the grid.

    Raises:
        ValueError: no codec is registered for the density, or its parameters are not finite.
    """
    raise ValueError(
        f"expected a density that can be both drawn from and coded with on a grid ({_known(latent_codec)}), got "
        f"{_name(density)}, which has no codec: train with a Gaussian posterior and N(0, I), a mixture of "
        "Gaussians or AutoregressiveMixturePrior as the prior, or register a codec with "
        "vae_lightning.compression.latent_codec."
    )


@singledispatch
def latent_points(density: Distribution, grid: Grid, symbols: Integers) -> Tensor:
    """The latents (*S, *event) of symbols (n,) that a density's codec codes; by default the points of the grid."""
    return grid.points(symbols, density.mean)


@singledispatch
def popped(density: Distribution) -> int:
    """How many symbols are popped with a posterior."""
    return math.prod((*density.batch_shape, *density.event_shape))


@image_codec.register
def _(density: Independent) -> Codec:
    return image_codec(density.base_dist)


@image_codec.register
def _(density: BinaryImage) -> Codec:
    logits = require_finite(density, density.logits).flatten()
    return Table(torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], -1))


@image_codec.register
def _(density: CategoricalLevels) -> Codec:
    return Table(require_finite(density, density.logits).softmax(-1).flatten(0, -2))


@image_codec.register
def _(density: DiscretizedLogistic) -> Codec:
    loc, scale = (require_finite(density, t).flatten().cpu() for t in (density.loc, density.scale))
    if density.edges is None:
        return Search(density.levels, logistic_tails, loc, scale)
    cell = cells(density.edges.cpu())

    def tails(edges: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        return logistic_tails(cell[edges.clamp(0, density.levels).long()], loc, scale)

    return Search(density.levels, tails, loc, scale)


def cells(edges: Tensor) -> Tensor:
    """Of edges between levels, (levels - 1,), what stands at 0, 1, ..., levels, so that the level i reaches from i to
    i + 1 as `logistic_tails` has it, which takes halves off; the ends are further out than any level."""
    far = 10 * len(edges)
    return torch.cat([edges[:1] - far, edges, edges[-1:] + far]).double() + 0.5


def logistic_tails(edges: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """P(x < edge) and P(x >= edge) of discretized logistics: the level i is the interval from i - 1/2 to i + 1/2."""
    at = (edges - (loc + 0.5)).div_(scale)
    return torch.sigmoid(at), torch.sigmoid(-at)


@image_codec.register
def _(density: Linked) -> Codec:
    for parameter in density.parameters:
        require_finite(density, parameter)
    return InTurn(density)


class InTurn(Codec):
    """Channels one after another, each under what the channels before it hold."""

    def __init__(self, density: Linked) -> None:
        self.density, self.levels = density, density.levels

    def _codec(self, channel: int, image: Tensor) -> Codec:
        return image_codec(self.density.channel(channel, image))

    def push(self, stack: Stack, symbols: Integers) -> None:
        like = self.density.loc
        image = torch.from_numpy(symbols).to(like.device, like.dtype).view(like.shape)
        parts = symbols.reshape(like.shape)
        for channel in reversed(range(parts.shape[-3])):  # so that the pop meets the first channel first
            self._codec(channel, image).push(stack, np.ascontiguousarray(parts[..., channel, :, :]).ravel())

    def pop(self, stack: Stack) -> Integers:
        image = torch.zeros_like(self.density.loc, memory_format=torch.contiguous_format)
        for channel in range(image.shape[-3]):
            found = torch.from_numpy(self._codec(channel, image).pop(stack))
            image[..., channel, :, :] = found.view(image[..., channel, :, :].shape).to(image)
        symbols: Integers = image.cpu().numpy().astype(np.int32).ravel()
        return symbols


@image_codec.register
def _(density: MixtureSameFamily) -> Codec:
    """The tails of a mixture are the mixture of its components' tails."""
    component = image_codec(density.component_distribution)
    if not isinstance(component, Search):
        raise ValueError(
            f"expected a mixture of densities over ordered levels, got one of {_name(density.component_distribution)}: "
            "register a codec for it with vae_lightning.compression.image_codec."
        )
    weights = require_finite(density, density.mixture_distribution.logits).flatten(0, -2).double().softmax(-1).cpu()
    count, components = weights.shape

    def tails(edges: Tensor, weights: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        below = above = torch.zeros_like(edges)
        for k in range(components):
            sides = component.tails(edges, *(parameter[:, k] for parameter in parameters))
            below, above = (t + weights[:, k] * side for t, side in zip((below, above), sides, strict=True))
        return below, above

    return Search(
        component.levels, tails, weights, *(p.unflatten(0, (count, components)) for p in component.parameters)
    )


@latent_codec.register
def _(density: Independent, grid: Grid) -> Codec:
    return latent_codec(density.base_dist, grid)


@latent_codec.register
def _(density: Normal, grid: Grid) -> Codec:
    loc, scale = (require_finite(density, t) for t in (density.loc, density.scale))
    return Search(grid.levels, normal_tails, *grid.in_cells(loc, scale))


@latent_codec.register
def _(density: MixtureSameFamily, grid: Grid) -> Codec:
    return WithComponent(density, grid)


class WithComponent(Codec):
    """Latents under a mixture of diagonal Gaussians, which leaves them dependent: an image's component c is pushed with
    its weight behind the latents with that Gaussian, and cost its bits back before: it was popped with p(c | latents).
    log w_c + log N_c(z) - log p(c|z) is log p(z), whatever c."""

    def __init__(self, density: MixtureSameFamily, grid: Grid) -> None:
        component = density.component_distribution
        normal = component.base_dist if isinstance(component, Independent) else component
        if not isinstance(normal, Normal):
            raise ValueError(
                "expected a mixture of Gaussians that are independent over the latents, got one of "
                f"{_name(component)}: register a codec for it with vae_lightning.compression.latent_codec."
            )
        self.levels = grid.levels
        for parameter in (normal.loc, normal.scale, density.mixture_distribution.logits):
            require_finite(density, parameter)
        self.log_weight = density.mixture_distribution.logits.double().log_softmax(-1).cpu()  # (B, K)
        shape = (*self.log_weight.shape, -1)
        self.loc, self.scale = (t.view(shape) for t in grid.in_cells(normal.loc, normal.scale))  # (B, K, d) each

    def _given(self, symbols: Integers) -> Table:
        """p(component | latents), by the densities at the middles of the latents' cells."""
        at = torch.from_numpy(symbols).double().view(len(self.loc), 1, -1) + 0.5
        log_prob = Normal(self.loc, self.scale, validate_args=False).log_prob(at).sum(-1)
        return Table((self.log_weight + log_prob).softmax(-1))

    def _latents(self, component: Integers) -> Search:
        rows = torch.arange(len(self.loc)), torch.from_numpy(component).long()
        return Search(self.levels, normal_tails, self.loc[rows].flatten(), self.scale[rows].flatten())

    def push(self, stack: Stack, symbols: Integers) -> None:
        component = self._given(symbols).pop(stack)
        self._latents(component).push(stack, symbols)
        Table(self.log_weight.exp()).push(stack, component)

    def pop(self, stack: Stack) -> Integers:
        component = Table(self.log_weight.exp()).pop(stack)
        symbols = self._latents(component).pop(stack)
        self._given(symbols).push(stack, component)
        return symbols


def normal_tails(edges: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """P(x < edge) and P(x >= edge) of normals."""
    at = (edges - loc).div_(scale * math.sqrt(2))
    return torch.erfc(-at).mul_(0.5), torch.erfc(at).mul_(0.5)


def require_finite(density: Distribution, parameter: Tensor) -> Tensor:
    """The parameter itself; raises ValueError where a value of it is not a finite number: it must not be coded with."""
    if parameter.numel() and not bool(torch.isfinite(torch.stack(parameter.aminmax())).all()):
        raise ValueError(
            f"expected finite parameters of {_name(density)}, got nan or inf: the model has diverged or its file is "
            "damaged; take another checkpoint."
        )
    return parameter


def _name(density: Distribution) -> str:
    return _name(density.base_dist) if isinstance(density, Independent) else type(density).__name__


def _known(codec: Any) -> str:
    wrappers = (Distribution, Independent, object)
    return ", ".join(sorted(c.__name__ for c in codec.registry if c not in wrappers))
