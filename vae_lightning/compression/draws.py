"""Where a coder's latents come from: the draws that make a bits-back coder of any story."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.compression.codecs import Codec, Grid
from vae_lightning.compression.densities import latent_codec, latent_points, popped
from vae_lightning.compression.stack import Integers, Stack
from vae_lightning.core import centre


class Latent(NamedTuple):
    """A latent as the numbers of its grid points, (n,), and as these points, (B, *event)."""

    symbols: Integers
    z: Tensor


class StoryTold(Exception):  # noqa: N818 (no error)
    """The last latent has been asked for, and nothing more is wanted of the story. Private."""


@dataclass
class _Waiting:
    """Latents that are to be pushed, the last one first, with the codecs that the story gave them."""

    stack: Stack
    grid: Grid
    waiting: list[tuple[Codec, Integers]] = field(default_factory=list)


class PopPosterior(_Waiting):
    """Pops every latent with its posterior; to be pushed with its prior once the image is."""

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        q = _required(name, q)
        posterior = _codec(name, "posterior", q, self.grid)
        self.stack.scramble(popped(q))
        symbols = posterior.pop(self.stack)
        self.waiting.append((_codec(name, "prior", p.expand(q.batch_shape), self.grid), symbols))
        return latent_points(q, self.grid, symbols)

    def push(self) -> None:
        for codec, symbols in reversed(self.waiting):
            codec.push(self.stack, symbols)


@dataclass
class PopPrior:
    """Pops every latent of `batch` images with its prior."""

    stack: Stack
    grid: Grid
    batch: int
    latents: dict[str, Latent] = field(default_factory=dict)

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        p = p.expand((self.batch,))
        symbols = _codec(name, "prior", p, self.grid).pop(self.stack)
        self.latents[name] = Latent(symbols, latent_points(p, self.grid, symbols))
        return self.latents[name].z


class Retell(_Waiting):
    """Takes the latents that are known, until the last one; to be pushed with their posteriors, which depend on the
    image that is now known too."""

    def __init__(self, stack: Stack, grid: Grid, latents: Mapping[str, Latent]) -> None:
        super().__init__(stack, grid)
        self.latents = latents
        self.taken: list[int] = []

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        symbols, z = self.latents[name]
        q = _required(name, q)
        self.waiting.append((_codec(name, "posterior", q, self.grid), symbols))
        self.taken.append(popped(q))
        if len(self.waiting) == len(self.latents):
            raise StoryTold  # the likelihood, often the dearest part, has been computed before
        return z

    def push(self) -> None:
        for (codec, symbols), taken in zip(reversed(self.waiting), reversed(self.taken), strict=True):
            codec.push(self.stack, symbols)
            self.stack.scramble(taken)


@dataclass
class Inspect:
    """Takes the posterior's centre, and raises ValueError for a latent that cannot be coded."""

    grid: Grid
    names: set[str] = field(default_factory=set)

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        if name in self.names:
            raise ValueError(f"latent {name!r}: expected a name of its own for each latent, got it twice.")
        self.names.add(name)
        q = _required(name, q)
        _codec(name, "posterior", q, self.grid)
        _codec(name, "prior", p.expand(q.batch_shape), self.grid)
        return centre(q)


def _required(name: str, q: Distribution | None) -> Distribution:
    if q is None:
        raise ValueError(f"latent {name!r}: expected a posterior to draw it from, got none.")
    return q


def _codec(name: str, role: str, density: Distribution, grid: Grid) -> Codec:
    try:
        return latent_codec(density, grid)
    except ValueError as error:
        raise ValueError(f"the {role} of the latent {name!r}: {error}") from error
