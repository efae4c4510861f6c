"""What a story is made of: conditional densities, the draws that decide where its latents come from, and its trace.

Legend of shapes: B images of shape (C, H, W); K samples per image; S any leading shape, such as (B,) or (K, B).
Units: every log-density is in nats per image, constants included, and is a density over the integer image 0..levels-1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from vae_lightning.core.data import Batch
from vae_lightning.core.delta import Delta


class Conditional(nn.Module, ABC):
    """A conditional density: q(z|x), p(x|z), p(z), p(z1|z2)."""

    needs: tuple[str, ...] = ()
    """What else of a batch it is told, beside its context: ("label",) for p(z|y)."""

    @abstractmethod
    def forward(self, context: Any) -> Distribution:
        """Context (*S, *event) -> a distribution whose batch_shape is S; batch_shape () of none. For one that `needs`
        more, a mapping of what it needs, and of its own context as "context" where there is one."""

    def told(self, context: Tensor | None, given: Batch) -> Distribution:
        """The distribution given its own context and what it needs of a batch; ValueError where that is not there."""
        if not self.needs:
            return self(context)
        if missing := [name for name in self.needs if name not in given]:
            raise ValueError(
                f"{type(self).__name__}: expected a {missing[0]} for each image, got {', '.join(given) or 'nothing'}: "
                f"give the {missing[0]}s (--label of a command), or train a model without them."
            )
        told = {name: given[name] for name in self.needs}
        return self(told if context is None else {**told, "context": context})

    def observe(self, statistics: Mapping[str, Tensor]) -> None:
        """Takes what a step of training found, by name, into its buffers; see `LatentModel.statistics`. Does nothing by
        default."""
        return

    def attach(self, encoder: Conditional) -> None:
        """Takes the encoder of the model that this is the prior of, once both are built; see `VampPrior`. Does nothing
        by default."""
        return

    def init_from_data(self, image: Tensor) -> None:
        """Sets what is better set from training images (N, C, H, W), integers, than at random. Does nothing by
        default."""
        return

    def init_from_codes(self, z: Tensor) -> None:
        """Sets what is better set from posterior draws (N, *event) than at random, of a prior that is fitted to a
        trained model's; see `SecondStage`. Does nothing by default."""
        return


class Draw(Protocol):
    """Where a latent comes from. The story calls it once per latent site."""

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor: ...


Story = Callable[[Draw], Distribution]
"""A generative story about some images: calls the draw for each latent, and returns p(x|z)."""


def has_rate(q: Distribution) -> bool:
    """Whether KL(q || p) can be finite: not of a continuous point mass, the code of an autoencoder, which is
    thus told from a Gaussian that has diverged."""
    return not isinstance(q, Delta)


def bits(nats: Tensor) -> Tensor:
    """The length in bits of an ideal code whose length in nats is given, any shape."""
    return nats / math.log(2)


def has_mean(d: Distribution) -> bool:
    """Whether it has a mean in closed form, which a flow has not; nor have events that are no numbers, whose mean torch
    gives as nan."""
    try:
        return not bool(d.mean.isnan().any())
    except NotImplementedError:
        return False


def is_discrete(d: Distribution) -> bool:
    """Whether its values are discrete, so that it is a probability, and no gradient leads to them."""
    try:
        return bool(getattr(d.support, "is_discrete", False))
    except NotImplementedError:
        return False


def is_diagonal_gaussian(d: Distribution) -> bool:
    """Whether all values are independent and normal."""
    return isinstance(d, Independent) and isinstance(d.base_dist, Normal)


def is_point(d: Distribution) -> bool:
    """Whether all mass lies at a point, (*S, *event): it has no variance."""
    try:
        return not bool(d.variance.any())
    except NotImplementedError:
        return False


@runtime_checkable
class Coded(Protocol):
    """A distribution of codes: each value is n of them, out of a codebook of `num_codes`."""

    num_codes: int

    def indices_of(self, z: Tensor) -> Tensor:
        """The indices of a value, (*S, d) -> (*S, n) int64."""


@runtime_checkable
class Centred(Protocol):
    """A distribution without a mean in closed form that names a point of its own in the middle, (*S, *event)."""

    @property
    def centre(self) -> Tensor: ...


def centre(d: Distribution) -> Tensor:
    """A point that stands for the distribution, (*S, *event), without noise wherever it has one: the mean, else what it
    names its centre, else the mode; else a sample."""
    if has_mean(d):
        return d.mean
    if isinstance(d, Centred):
        return d.centre
    try:
        return d.mode
    except NotImplementedError:
        return d.sample()


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
        """KL(q || p) in nats: closed form, shape (B,) or S, where torch has one, else the one-sample estimate, S."""
        try:
            return kl_divergence(self.q, self.p)
        except NotImplementedError:
            return -self.log_ratio()


@dataclass(frozen=True)
class Trace:
    """A story told once about images x: its latent sites by name, in order, and p(x|z) at their end.

    Args:
        sites: name -> site.
        told: p(x|z); None for a story that was stopped before it.
        x: (B, C, H, W).
    """

    sites: dict[str, Site]
    told: Distribution | None
    x: Tensor

    @property
    def px(self) -> Distribution:
        """p(x|z), batch_shape S."""
        if self.told is None:
            raise ValueError(f"expected a story told to its end, got one that stops behind {list(self.sites)[-1]!r}.")
        return self.told

    @property
    def points(self) -> list[Site]:
        """The sites whose codes are points, which have no rate."""
        return [site for site in self.sites.values() if not has_rate(site.q)]

    @property
    def has_rate(self) -> bool:
        """Whether there is an ELBO: every posterior has a rate."""
        return not self.points

    @property
    def is_discrete(self) -> bool:
        """Whether p(x|z) is a probability of grey levels, so that its code length is a number of bits."""
        return bool(getattr(self.px.support, "is_discrete", False))

    @property
    def is_random(self) -> bool:
        """Whether any latent is drawn with noise: else all importance samples are one."""
        return not all(is_point(site.q) for site in self.sites.values())

    @property
    def latent_size(self) -> int:
        """Numbers in an image's latents, of all sites."""
        return sum(math.prod(site.q.event_shape) for site in self.sites.values())

    def log_likelihood(self) -> Tensor:
        """log p(x|z) in nats, shape (B,) or (K, B)."""
        return self.px.log_prob(self.x)

    def kl(self) -> Tensor:
        """Sum over sites of KL(q || p) in nats (the rate)."""
        first, *others = (site.kl() for site in self.sites.values())
        return sum(others, start=first)

    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z|x) in nats, shape (B,) or (K, B): the importance weight of Burda et al. (2016)."""
        return sum((site.log_ratio() for site in self.sites.values()), start=self.log_likelihood())

    def scores(self) -> dict[str, Tensor]:
        """What each image costs, nats, (B,) or (K, B): the distortion -log p(x|z), and where there is a rate, that and
        elbo = -(rate + distortion)."""
        distortion = -self.log_likelihood()
        if not self.has_rate:
            return {"distortion": distortion}
        rate = self.kl()
        return {"elbo": -(rate + distortion), "rate": rate, "distortion": distortion}
