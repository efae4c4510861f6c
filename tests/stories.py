"""Stories that are not the project's, as a user would write them."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from vae_lightning.conditionals import DiscretizedLogisticLikelihood, GaussianLikelihood
from vae_lightning.core import Batch, Conditional, Draw, LatentModel, Spec, Story
from vae_lightning.nets import MLP


class TwoLatents(LatentModel):
    """z2 ~ N(0, I), z1 ~ N(f(z2), s^2), x ~ p(x|z1), with q(z2|x) q(z1|x, z2)."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        values, self.levels = math.prod(spec.image_shape), spec.levels
        self.q2, self.q1 = nn.Linear(values, 3), nn.Linear(values + 3, 4)
        self.p1, self.px = nn.Linear(3, 4), DiscretizedLogisticLikelihood((4,), spec)

    def about(self, given: Batch) -> Story:
        return lambda draw: self.tell(draw, given)

    def tell(self, draw: Draw, given: Batch) -> Distribution:
        x = given["image"].flatten(1) / (self.levels - 1) if "image" in given else None
        z2 = draw("z2", p=normal(torch.zeros(3), 1.0), q=None if x is None else normal(self.q2(x), 0.3))
        q1 = None
        if x is not None:
            q1 = normal(self.q1(torch.cat([x.expand(*z2.shape[:-1], -1), z2], -1)), 0.2)
        return self.px(draw("z1", p=normal(self.p1(z2), 0.8), q=q1))


class Ladder(LatentModel):
    """z3 ~ N(0, I), z2 ~ N(A z3 + a, 0.8^2), z1 ~ N(B z2 + b, 0.6^2), x ~ N(W z1 + w, s^2) over the integer image, with
    linear posteriors q(z3|x) q(z2|x, z3) q(z1|x, z2) from the top down."""

    sizes = (2, 3, 4)

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        (d3, d2, d1), values = self.sizes, math.prod(spec.image_shape)
        self.levels = spec.levels
        self.q3, self.q2, self.q1 = nn.Linear(values, d3), nn.Linear(values + d3, d2), nn.Linear(values + d2, d1)
        self.log_scale = nn.ParameterDict({f"z{3 - i}": nn.Parameter(torch.zeros(d)) for i, d in enumerate(self.sizes)})
        self.p2, self.p1, self.px = nn.Linear(d3, d2), nn.Linear(d2, d1), self.likelihood(spec)

    def likelihood(self, spec: Spec) -> Conditional:
        return GaussianLikelihood((self.sizes[-1],), spec, net=partial(MLP, hidden=[]), scale=0.1)

    def about(self, given: Batch) -> Story:
        x = given["image"].flatten(1) / (self.levels - 1) if "image" in given else None

        def posterior(name: str, head: nn.Linear, above: Tensor | None = None) -> Distribution | None:
            if x is None:
                return None
            seen = x if above is None else torch.cat([x.expand(*above.shape[:-1], -1), above], -1)
            return normal(head(seen), self.log_scale[name].exp())

        def story(draw: Draw) -> Distribution:
            z3 = draw("z3", p=normal(torch.zeros_like(self.log_scale["z3"]), 1.0), q=posterior("z3", self.q3))
            z2 = draw("z2", p=normal(self.p2(z3), 0.8), q=posterior("z2", self.q2, z3))
            z1 = draw("z1", p=normal(self.p1(z2), 0.6), q=posterior("z1", self.q1, z2))
            return self.px(z1)

        return story

    @torch.no_grad()
    def untangle(self) -> None:
        """Gives the linear maps columns that are orthogonal all the way, so that each posterior is diagonal."""
        last = self.px.head.last  # type: ignore[union-attr]
        last.weight.copy_(torch.linalg.qr(last.weight)[0] * torch.tensor([0.25, 0.15, 0.1, 0.2]))
        self.p1.weight.copy_(torch.tensor([[0.9, 0, 0], [0, 1.1, 0], [0, 0, -0.7], [0.6, 0, 0]]))
        self.p2.weight.copy_(torch.tensor([[0.8, 0], [0, 1.2], [-0.9, 0]]))

    @torch.no_grad()
    def match(self, shift: float = 0.0, wider: float = 0.0) -> None:
        """Sets the posteriors to the exact ones where these are diagonal, and else to their means and to the variances
        1 / precision_ii of each given those above it; `shift` is added to means and `wider` to log scales."""
        truth, (d3, d2, _) = self.truth(), self.sizes
        v = truth.covariance
        blocks = [slice(0, d3), slice(d3, d3 + d2), slice(d3 + d2, None)]
        for i, (name, head) in enumerate((("z3", self.q3), ("z2", self.q2), ("z1", self.q1))):
            own, above = blocks[i], blocks[i - 1] if i else slice(0, 0)
            hang = torch.linalg.solve(v[above, above], v[above, own]).T
            left = v[own, own] - hang @ v[above, own]
            gain = truth.gain[own] - hang @ truth.gain[above]
            head.weight.copy_(torch.cat([gain * (self.levels - 1), hang], 1))
            head.bias.copy_(truth.offset[own] - hang @ truth.offset[above] + shift)
            self.log_scale[name].copy_(-0.5 * torch.linalg.inv(left).diag().log() + wider)

    @torch.no_grad()
    def truth(self) -> LadderTruth:
        """The exact densities of what the weights are now; for float64."""
        top, d3, (n3, n2, n1) = self.levels - 1, self.sizes[0], self.sizes
        last = self.px.head.last  # type: ignore[union-attr]
        w, bias, s = last.weight * top, last.bias * top, self.px.scale * top  # type: ignore[union-attr, operator]
        noise, mean = torch.eye(n3 + n2 + n1).to(w), torch.zeros(n3 + n2 + n1).to(w)  # z = mean + noise e, e ~ N(0, I)
        two, one = slice(d3, d3 + n2), slice(d3 + n2, None)
        noise[two] = 0.8 * noise[two] + self.p2.weight @ noise[:d3]
        mean[two] = self.p2.bias
        noise[one] = 0.6 * noise[one] + self.p1.weight @ noise[two]
        mean[one] = self.p1.bias + self.p1.weight @ mean[two]
        decode = torch.cat([torch.zeros(len(w), n3 + n2).to(w), w], 1)
        prior = MultivariateNormal(mean, noise @ noise.T)
        precision = prior.precision_matrix + decode.T @ decode / s**2
        covariance = torch.linalg.inv(precision)
        gain = covariance @ decode.T / s**2
        offset = covariance @ prior.precision_matrix @ mean - gain @ bias
        image = MultivariateNormal(
            bias + decode @ mean, decode @ prior.covariance_matrix @ decode.T + s**2 * torch.eye(len(w)).to(w)
        )
        return LadderTruth(prior, image, gain, offset, 0.5 * (covariance + covariance.T))


class LadderTruth(NamedTuple):
    """p(z) of (z3, z2, z1) side by side, p(x) over flat images, and p(z|x) = N(gain x + offset, covariance)."""

    prior: MultivariateNormal
    image: MultivariateNormal
    gain: Tensor
    offset: Tensor
    covariance: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of images (B, C, H, W), nats, (B,)."""
        return self.image.log_prob(x.flatten(1))


class DiscreteLadder(Ladder):
    """The same with grey levels that have probabilities, for compression."""

    def likelihood(self, spec: Spec) -> Conditional:
        return DiscretizedLogisticLikelihood((self.sizes[-1],), spec)


class Beside(LatentModel):
    """Two latents that know nothing of each other: a, b ~ N(0, 1), x ~ N((a, b), 1), q(a|x) = N(g x_1, s^2) and q(b|x)
    the same of x_2, which is exact at g = 1/2, s^2 = 1/2."""

    def __init__(self, gain: float = 0.5, scale: float = math.sqrt(0.5)) -> None:
        super().__init__()
        self.gain, self.scale = gain, scale

    def about(self, given: Batch) -> Story:
        def q(i: int) -> Distribution | None:
            return normal(self.gain * given["image"].flatten(1)[:, i : i + 1], self.scale) if "image" in given else None

        def story(draw: Draw) -> Distribution:
            a, b = (draw(name, p=normal(torch.zeros(1).double(), 1.0), q=q(i)) for i, name in enumerate("ab"))
            return Independent(Normal(torch.cat([a, b], -1)[..., None, None, :], 1.0), 3)

        return story


def normal(loc: Tensor, scale: Tensor | float) -> Distribution:
    return Independent(Normal(loc, scale * torch.ones_like(loc)), 1)
