"""Where latents come from: posteriors, their means, priors, or given values.

Legend of shapes: B images of shape (C, H, W); K samples per image; S any leading shape, such as (B,) or (K, B).
Units: every log-density is in nats per image, constants included, and is a density over the integer image 0..levels-1.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.core.data import Shape
from vae_lightning.core.story import Draw, Site, Story, Trace, centre


def _required(name: str, q: Distribution | None) -> Distribution:
    if q is None:
        raise ValueError(f"latent {name!r} has no posterior here: expected an image in the batch, got none.")
    return q


@dataclass
class FromPosterior:
    """Draws by reparameterisation (z = mu + sigma * eps for a Gaussian), and records the sites.

    The `num_samples` K are the leading dimension of every latent: the first site is drawn K times an image, and later
    ones inherit the dimension from their context, or are drawn K times where their posterior lacks it. A posterior in
    `instead`, by its site's name, takes the place of the story's. One without `rsample` is drawn by `sample`.
    """

    num_samples: int | None = None
    instead: Mapping[str, Distribution] = field(default_factory=dict)
    sites: dict[str, Site] = field(default_factory=dict)

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        q = _required(name, self.instead.get(name, q))
        if name in self.sites:
            raise ValueError(f"latent {name!r}: expected a name of its own for each latent of a story, got it twice.")
        shape: Shape = () if self.num_samples is None else (self.num_samples,)
        if shape and self.sites:
            first = next(iter(self.sites.values()))
            most = first.z.dim() - len(first.q.event_shape)
            shape = shape[: max(0, most - len(q.batch_shape))]
        z = q.rsample(shape) if q.has_rsample else q.sample(shape)
        self.sites[name] = Site(name, p, q, z)
        return z


@dataclass
class PosteriorMean:
    """Takes the posterior's `centre`, its mean where it has one: the deterministic code of an image."""

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        return centre(_required(name, q))


@dataclass
class Recorded:
    """Any draw about images, with the sites that it passes kept by name."""

    draw: Draw
    sites: dict[str, Site] = field(default_factory=dict)

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        z = self.draw(name, p, q)
        self.sites[name] = Site(name, p, _required(name, q), z)
        return z


@dataclass
class FromPrior:
    """Draws every latent from its prior with the leading shape S, such as (K,), or (K, B) for K samples of B labels: a
    prior without a batch is drawn S times, one that knows of the B labels K times, and a later latent, which inherits
    S from its context, once."""

    shape: Shape = ()

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        return p.sample(self.shape[: max(0, len(self.shape) - len(p.batch_shape))])


@dataclass
class PriorMean:
    """Takes every prior's centre, with the leading shape S where the prior has none: what is left alone while another
    latent moves."""

    shape: Shape = ()

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        return centre(p).expand(*(p.batch_shape or self.shape), *p.event_shape)


@dataclass
class Given:
    """Takes the latents that are named in `values`, and leaves any other to the draw `otherwise`."""

    values: Mapping[str, Tensor]
    otherwise: Draw = field(default_factory=FromPrior)

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        return self.values[name] if name in self.values else self.otherwise(name, p, q)


class _Stopped(Exception):  # noqa: N818 (no error)
    """A story has come to the site that it was wanted until. Private."""


def stopped(draw: Draw, until: str) -> Draw:
    """The draw, ending the story behind the site of that name: what follows costs nothing. See `told_until`."""

    def drawn(name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        z = draw(name, p, q)
        if name == until:
            raise _Stopped
        return z

    return drawn


def told_until(story: Story, draw: Draw, until: str) -> None:
    """Tells a story up to and with one site; ValueError where it has no such site."""
    with suppress(_Stopped):
        story(stopped(draw, until))
        raise ValueError(f"until: expected a latent of this story, got {until!r}, which it has not.")


def traced(
    story: Story,
    x: Tensor,
    num_samples: int | None = None,
    instead: Mapping[str, Distribution] | None = None,
    until: str | None = None,
) -> Trace:
    """A story about images x with its latents drawn from their posteriors. See `LatentModel.trace`."""
    draw, told = FromPosterior(num_samples, instead or {}), None
    if until is None:
        told = story(draw)
    else:
        told_until(story, draw, until)
    if instead and not instead.keys() <= draw.sites.keys():
        got = f"expected names of this story's latents, {sorted(draw.sites)}, got {list(instead)}"
        raise ValueError(f"instead: {got}.")
    return Trace(draw.sites, told, x)
