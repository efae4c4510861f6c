"""How the gradient of the importance-weighted bound is estimated: its value is the same by all of them.

Shapes: B images, K samples an image. With log w_k = log p(x, z_k) - log q(z_k|x) and the normalised weights v_k, the
bound's gradient has three parts: that of p's own parameters, sum_k v_k d log p(x, z_k); what reaches the encoder by the
path x -> z_k -> log w_k; and the score -sum_k v_k d log q(z_k|x) at a fixed z_k, whose noise does not fall with K.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.core import Batch, FromPosterior, LatentModel, Site, Trace, image_of


class Bound(NamedTuple):
    """What an estimator returns."""

    value: Tensor
    """The mean over images of log 1/K sum_k w_k, (), nats: its gradient is the estimator's."""
    log_weight: Tensor
    """(K, B), without gradient."""
    trace: Trace


class GradientEstimator(ABC):
    """(model, batch, K) -> the importance-weighted bound with an estimate of its gradient."""

    @abstractmethod
    def __call__(self, model: LatentModel, batch: Batch, num_samples: int) -> Bound: ...


class Reparameterised(GradientEstimator):
    """All three parts, as automatic differentiation of the bound gives them (Burda et al. 2016, eq. 13)."""

    def __call__(self, model: LatentModel, batch: Batch, num_samples: int) -> Bound:
        trace = model.trace(batch, num_samples)
        log_weight = trace.log_weight()
        return Bound(_bound(log_weight), log_weight.detach(), trace)


class PathGradient(GradientEstimator):
    """The encoder learns by the path alone, sample k with a weight of the estimator's own; p learns as ever.

    The path leads through every later latent, too: a latent that hangs on another hands its gradient on to it. Costs a
    second pass backwards through the decoder, and for a flow the inverse; is not compiled.
    """

    @abstractmethod
    def path_weight(self, weight: Tensor) -> Tensor:
        """Of the normalised weights v (K, B) those of the paths, (K, B)."""

    @torch._disable_dynamo
    def __call__(self, model: LatentModel, batch: Batch, num_samples: int) -> Bound:
        draw = _Leaves(FromPosterior(num_samples))
        trace = Trace(draw.sites, model.about(batch)(draw), image_of(batch))
        log_p = sum((site.p.log_prob(site.z) for site in trace.sites.values()), start=trace.log_likelihood())
        log_weight = log_p - sum(site.q.log_prob(site.z) for site in trace.sites.values())
        weight = log_weight.detach().softmax(0)
        surrogate = (weight * log_p).sum(0).mean()
        if torch.is_grad_enabled():
            surrogate = surrogate + draw.along((self.path_weight(weight) * log_weight).sum(0).mean())
        value = _bound(log_weight.detach()) + (surrogate - surrogate.detach())
        return Bound(value, log_weight.detach(), trace)


class StickingTheLanding(PathGradient):
    """Leaves the score out, whose expectation is zero at K = 1: the noise of the encoder's gradient goes to zero where
    q is the exact posterior (Roeder et al. 2017). At K > 1 the score's expectation is not zero, and the gradient has a
    bias (Tucker et al. 2019, section 4): take `DoublyReparameterised` there."""

    def path_weight(self, weight: Tensor) -> Tensor:
        return weight


class DoublyReparameterised(PathGradient):
    """The score reparameterised once more, which leaves the paths with the squares of the weights: without bias at any
    K, and with a noise that falls faster than the gradient as K grows (Tucker et al. 2019, eq. 8). At K = 1 it is
    `StickingTheLanding`."""

    def path_weight(self, weight: Tensor) -> Tensor:
        return weight.square()


def _bound(log_weight: Tensor) -> Tensor:
    """(K, B) -> ()."""
    return (log_weight.logsumexp(0) - math.log(len(log_weight))).mean()


@dataclass
class _Leaves:
    """Draws from the posteriors, and hands on each latent cut from what it was drawn from; `drawn` are the uncut."""

    draw: FromPosterior
    drawn: dict[str, Tensor] = field(default_factory=dict)

    @property
    def sites(self) -> dict[str, Site]:
        return self.draw.sites

    def __call__(self, name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        self.drawn[name] = self.draw(name, p, q)
        site = self.sites[name]
        if not site.q.has_rsample:
            raise ValueError(
                f"a path gradient needs posteriors that are reparameterised, got {type(site.q).__name__} at {name!r}: "
                "set --model.objective.gradient Reparameterised."
            )
        leaf = site.z.detach().requires_grad_()
        self.sites[name] = Site(name, site.p, site.q, leaf)
        return leaf

    def along(self, value: Tensor) -> Tensor:
        """(), whose gradient is that of `value` () by way of the latents alone: the posteriors' parameters enter by the
        draws, and not by their densities."""
        leaves = {name: site.z for name, site in self.sites.items()}
        reached = dict(zip(leaves, _gradients(value, list(leaves.values())), strict=True))
        names = list(leaves)
        for i, name in reversed(list(enumerate(names))):
            above = names[:i]
            handed = _gradients(self.drawn[name], [leaves[it] for it in above], reached[name])
            for it, gradient in zip(above, handed, strict=True):
                reached[it] = reached[it] + gradient
        return torch.stack([(self.drawn[name] * reached[name]).sum() for name in names]).sum()


def _gradients(value: Tensor, of: list[Tensor], by: Tensor | None = None) -> tuple[Tensor, ...]:
    """Zeros for what the value does not hang on."""
    if not of or not value.requires_grad:
        return tuple(map(torch.zeros_like, of))
    return torch.autograd.grad(value, of, by, retain_graph=True, materialize_grads=True)
