"""The evidence lower bound of posteriors that begin at the encoder's and are refined for each image."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.core import (
    Batch,
    LatentModel,
    Loss,
    Model,
    Objective,
    Story,
    Trace,
    image_of,
    is_diagonal_gaussian,
    traced,
)
from vae_lightning.objectives.elbo import mean_scores, require_density, require_stories
from vae_lightning.objectives.schedules import Constant, Schedule


class Gaussian(NamedTuple):
    """q of the latent of that name: mean and log scale, (B, *event) each."""

    name: str
    mean: Tensor
    log_scale: Tensor

    def detached(self) -> Gaussian:
        return self._replace(mean=self.mean.detach(), log_scale=self.log_scale.detach())

    def distribution(self) -> Distribution:
        normal = Normal(self.mean, self.log_scale.exp(), validate_args=False)
        return Independent(normal, self.mean.dim() - 1, validate_args=False)

    def trace(self, story: Story, image: Tensor) -> Trace:
        """The story with the latent drawn from this."""
        return traced(story, image, instead={self.name: self.distribution()})


class SemiAmortised(Objective):
    """-(E_q log p(x|z) - beta KL(q || p)) under each image's own q, averaged over the batch, in nats per image: the
    encoder says where a search begins, and the decoder and the prior learn by the Gaussians in which it ends (Kim et
    al. 2018; as in Krishnan et al. 2018 no gradient passes through the search). The encoder learns by the bound at its
    own Gaussian, whose gradient is that of the search's first step.

    A step goes along the natural gradient of the bound: a mean by rate * scale^2 * gradient, a log scale by rate *
    gradient / 2; the mean by at most one scale, the log scale by at most 0.5. So the rate needs no tuning to a model.
    The gradient is that of one draw with the score left out, whose noise goes to zero where q is the exact posterior
    (Roeder et al. 2017).

    One latent alone: what an encoder says of the later of several, given a draw of those before, is no Gaussian that
    could be refined by itself. A step with dropout or BatchNorm in the decoder has its noise or counts anew in each of
    the `steps` + 1 passes, and a prior that encodes images of its own (VampPrior) does so in each.

    Args:
        steps: of the search; each costs a pass through the decoder and back.
        rate: of each step, in (0, 1].
        beta: weight of the KL term, a number or a schedule over the training.
    """

    def __init__(self, steps: int = 4, rate: float = 0.3, beta: Schedule | float = 1.0) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"SemiAmortised.steps: expected at least 1, got {steps}.")
        if not 0 < rate <= 1:
            raise ValueError(f"SemiAmortised.rate: expected a rate above 0 and at most 1, got {rate}.")
        self.steps, self.rate = steps, rate
        self.beta = beta if isinstance(beta, Schedule) else Constant(float(beta))

    def check(self, model: Model, batch: Batch) -> None:
        require_density(model, batch, "SemiAmortised")
        latent_model = require_stories(model, "SemiAmortised")
        sites = latent_model.trace(batch).sites
        if len(sites) > 1:
            raise ValueError(
                f"the objective SemiAmortised refines one latent, got a story of {', '.join(sites)}: choose the "
                "objective ELBO, or a VAE."
            )
        encoders(latent_model.about(batch))

    @torch._disable_dynamo
    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        model, beta = require_stories(model, "SemiAmortised"), self.beta.at(share)
        story, image = model.about(batch), image_of(batch)
        begun = encoders(story)
        if not torch.is_grad_enabled():
            return self._loss(model, begun.trace(story, image), beta, {})
        q, (of_mean, of_log_scale), bound = self._step(story, image, begun, beta)
        for _ in range(self.steps - 1):
            q, *_ = self._step(story, image, q, beta)
        loss = self._loss(model, q.trace(story, image), beta, {"elbo_encoder": bound})
        teaching = ((begun.mean * of_mean).sum() + (begun.log_scale * of_log_scale).sum()) / len(image)
        return Loss(loss.value - (teaching - teaching.detach()), loss.logs, loss.statistics)

    def _step(
        self, story: Story, image: Tensor, q: Gaussian, beta: Tensor
    ) -> tuple[Gaussian, tuple[Tensor, Tensor], Tensor]:
        """Where a step leads from q, the gradient of the bound's sum over images at q, and the bound's mean, ()."""
        fixed = q.detached()
        leaf = Gaussian(q.name, fixed.mean.clone().requires_grad_(), fixed.log_scale.clone().requires_grad_())
        trace = leaf.trace(story, image)
        site = trace.sites[q.name]
        log_ratio = site.p.log_prob(site.z) - fixed.distribution().log_prob(site.z)
        log_likelihood = trace.log_likelihood()
        bound = log_likelihood + beta * log_ratio
        of_mean, of_log_scale = torch.autograd.grad(bound.sum(), [leaf.mean, leaf.log_scale], materialize_grads=True)
        scale = fixed.log_scale.exp()
        mean = fixed.mean + (self.rate * scale.square() * of_mean).clamp(-scale, scale)
        log_scale = fixed.log_scale + (self.rate / 2 * of_log_scale).clamp(-0.5, 0.5)
        return Gaussian(q.name, mean, log_scale), (of_mean, of_log_scale), (log_likelihood + log_ratio).detach().mean()

    @staticmethod
    def _loss(model: LatentModel, trace: Trace, beta: Tensor, logs: dict[str, Tensor]) -> Loss:
        terms = mean_scores(trace)
        value = terms["distortion"] + beta * terms["rate"]
        logs = {**{name: term.detach() for name, term in terms.items()}, **logs, "beta": beta}
        return Loss(value, logs, model.statistics(trace))


class _Asked(Exception):  # noqa: N818 (no error)
    """The latent has been asked for, and nothing more is wanted of the story. Private."""


def encoders(story: Story) -> Gaussian:
    """Where the search begins; ValueError for another posterior than a diagonal Gaussian."""
    asked = dict[str, Distribution | None]()

    def draw(name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        asked[name] = q
        raise _Asked

    with suppress(_Asked):
        story(draw)
    ((name, q),) = asked.items()
    if q is None or not is_diagonal_gaussian(q):
        raise ValueError(
            "the objective SemiAmortised refines diagonal Gaussians, got the encoder's "
            f"{type(q).__name__} at {name!r}: choose GaussianPosterior, or the objective ELBO."
        )
    return Gaussian(name, q.mean, q.stddev.log())
