"""The nouns: a model tells its generative story once, and a `Draw` decides where each latent comes from.

Legend of shapes: B images of shape (C, H, W); K samples per image; S any leading shape, such as (B,) or (K, B).
Units: every log-density is in nats per image, constants included, and is a density over the integer image 0..levels-1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict

from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

Shape = tuple[int, ...]


class Batch(TypedDict, total=False):
    image: Tensor  # (B, C, H, W) float32 holding the integers 0..levels-1
    label: Tensor  # (B,) int64
    text: Tensor  # (B, T) int64
    encoded: Distribution  # what LatentModel.encoded made of the images, batch_shape (B,)


class Conditional(nn.Module, ABC):
    """A conditional density: q(z|x), p(x|z), p(z1|z2)."""

    @abstractmethod
    def forward(self, context: Tensor) -> Distribution:
        """Context (*S, *event) -> a distribution whose batch_shape is S."""


class Prior(nn.Module, ABC):
    """p(z), with batch_shape (). It is handed the encoder because a VampPrior is a mixture of posteriors."""

    @abstractmethod
    def forward(self, encoder: Conditional) -> Distribution: ...


class Draw(Protocol):
    """Where a latent comes from. The story calls it once per latent site."""

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Site:
    """One latent of the story: its prior p, its posterior q and the value z drawn, (*S, *event)."""

    name: str
    p: Distribution
    q: Distribution
    z: Tensor

    def log_ratio(self) -> Tensor:
        """log p(z) - log q(z) in nats, shape S."""
        return self.p.log_prob(self.z) - self.q.log_prob(self.z)

    def kl(self) -> Tensor:
        """KL(q || p) in nats: closed form, shape (B,), where torch has one, else the one-sample estimate, shape S."""
        try:
            return kl_divergence(self.q, self.p)
        except NotImplementedError:
            return -self.log_ratio()


@dataclass(frozen=True)
class Trace:
    """A story told once: its latent sites in order, and p(x|z) at their end."""

    sites: tuple[Site, ...]
    px: Distribution

    @property
    def is_point_mass(self) -> bool:
        """Whether some posterior is a point mass: the code of an autoencoder, infinitely far from any prior density."""
        return not all(getattr(site.q, "has_density", True) for site in self.sites)

    @property
    def is_discrete(self) -> bool:
        """Whether p(x|z) is a probability of grey levels, so that its code length is a number of bits."""
        return bool(getattr(self.px.support, "is_discrete", False))

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(x|z) in nats, shape (B,) or (K, B)."""
        return self.px.log_prob(x)

    def kl(self) -> Tensor:
        """Sum over sites of KL(q || p) in nats (the rate)."""
        first, *others = (site.kl() for site in self.sites)
        return sum(others, start=first)

    def log_weight(self, x: Tensor) -> Tensor:
        """log p(x, z) - log q(z|x) in nats, shape (B,) or (K, B): the importance weight of Burda et al. (2016)."""
        return sum((site.log_ratio() for site in self.sites), start=self.log_likelihood(x))


@dataclass
class FromPosterior:
    """Draws by reparameterisation (z = mu + sigma * eps for a Gaussian), and records the sites.

    The `num_samples` K enter at the first site; later sites inherit the leading dimension from their context. A
    posterior in `instead`, by its site's name, takes the place of the story's.
    """

    num_samples: int | None = None
    instead: Mapping[str, Distribution] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        q = self.instead.get(name, q)
        if q is None:
            raise ValueError(f"latent {name!r} has no posterior here: expected an image in the batch, got none.")
        z = q.rsample(() if self.num_samples is None or self.sites else (self.num_samples,))
        self.sites.append(Site(name, p, q, z))
        return z


@dataclass
class PosteriorMean:
    """Takes the posterior's mean: the deterministic code of an image."""

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        if q is None:
            raise ValueError(f"latent {name!r} has no posterior here: expected an image in the batch, got none.")
        return q.mean


@dataclass
class FromPrior:
    """Draws from the prior: `num_samples` images of the model's own imagination."""

    num_samples: int | None = None
    names: list[str] = field(default_factory=list)

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        z = p.sample(() if self.num_samples is None or self.names else (self.num_samples,))
        self.names.append(name)
        return z


@dataclass
class Given:
    """Takes the latents that are named in `values`, and leaves any other to the draw `otherwise`."""

    values: Mapping[str, Tensor]
    otherwise: Draw = field(default_factory=FromPrior)

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        return self.values[name] if name in self.values else self.otherwise(name, p, q)


class LatentModel(nn.Module, ABC):
    """A generative story over latents and an image."""

    @abstractmethod
    def forward(self, draw: Draw, given: Batch) -> Distribution:
        """Tells the story and returns p(x|z), a distribution over integer images with batch_shape S."""

    def encoded(self, given: Batch) -> Batch:
        """The batch with what depends on its images alone, for a model that would otherwise compute it again in each
        of many stories about them. The batch as it is by default."""
        return given

    def trace(
        self, given: Batch, num_samples: int | None = None, instead: Mapping[str, Distribution] | None = None
    ) -> Trace:
        """The story with its latents drawn from their posteriors given the images, or from those of `instead`.
        ValueError for a name in `instead` that no latent has."""
        draw = FromPosterior(num_samples, instead or {})
        px = self(draw, given)
        if instead and not instead.keys() <= (names := {site.name for site in draw.sites}):
            raise ValueError(f"instead: expected names of this story's latents, {sorted(names)}, got {list(instead)}.")
        return Trace(tuple(draw.sites), px)

    def sample(self, given: Batch, num_samples: int | None = None) -> Distribution:
        """p(x|z) for latents drawn from the prior, batch_shape (num_samples,)."""
        return self(FromPrior(num_samples), given)

    def init_from_data(self, image: Tensor) -> None:
        """Sets what is better set from the training images (N, C, H, W) than at random. Does nothing by default."""
        return


@dataclass(frozen=True)
class Loss:
    value: Tensor  # (), minimised
    logs: dict[str, Tensor]  # {name: ()}


class Objective(nn.Module, ABC):
    """What training minimises: a pure function of the model, the batch and the share of the training that is done."""

    @abstractmethod
    def forward(self, model: LatentModel, batch: Batch, share: float) -> Loss:
        """The loss at a share of 0.0 .. 1.0, be the training's length given in epochs, steps or time. In a compiled
        training the share comes as a tensor (), which can change without being compiled anew."""

    def check(self, trace: Trace) -> None:
        """Called once before training with the story of a few images; raises ValueError for a pair without sense."""
        return

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of its own parameters, {"params": [...], "lr": ..., "name": ...}, which ask the optimiser for settings
        of their own; those that are in none get the optimiser's. None by default."""
        return []
