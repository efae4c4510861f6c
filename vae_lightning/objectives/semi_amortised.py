"""The evidence lower bound of posteriors that begin at the encoder's and are refined for each image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.core import (
    Batch,
    LatentModel,
    Loss,
    Model,
    Objective,
    PosteriorMean,
    Recorded,
    Story,
    image_of,
    traced,
)
from vae_lightning.objectives.elbo import mean_scores, require_density, require_stories
from vae_lightning.objectives.schedules import Constant, Schedule

Gaussians = dict[str, tuple[Tensor, Tensor]]
"""{site: mean and log scale, (B, *event) each}."""


class SemiAmortised(Objective):
    """-(E_q log p(x|z) - beta KL(q || p)) under each image's own q, averaged over the batch, in nats per image: the
    encoder says where a search begins, and the decoder and the prior learn by the Gaussians in which it ends (Kim et
    al. 2018; as in Krishnan et al. 2018 no gradient passes through the search). The encoder learns by the bound at its
    own Gaussian, whose gradient is that of the search's first step.

    A step goes along the natural gradient of the bound: a mean by rate * scale^2 * gradient, a log scale by rate *
    gradient / 2, at most a scale and a half of one. So the rate needs no tuning to a model. The gradient is that of
    one draw with the score left out, whose noise goes to zero where q is the exact posterior (Roeder et al. 2017).

    Several latents are refined as independent ones, from the encoder's along the path of its means.

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
        encoders_gaussians(require_stories(model, "SemiAmortised").about(batch))

    @torch._disable_dynamo
    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        model, beta = require_stories(model, "SemiAmortised"), self.beta.at(share)
        story, image = model.about(batch), image_of(batch)
        begun = encoders_gaussians(story)
        if not torch.is_grad_enabled():
            return self._loss(model, story, image, begun, beta, {})
        q, gradients, bound = self._step(story, image, begun, beta)
        for _ in range(self.steps - 1):
            q, *_ = self._step(story, image, q, beta)
        loss = self._loss(model, story, image, q, beta, {"elbo_encoder": bound})
        pairs = [pair for name in begun for pair in zip(begun[name], gradients[name], strict=True)]
        teaching = torch.stack([(part * gradient).sum() for part, gradient in pairs]).sum() / len(image)
        return Loss(loss.value - (teaching - teaching.detach()), loss.logs, loss.statistics)

    def _step(self, story: Story, image: Tensor, q: Gaussians, beta: Tensor) -> tuple[Gaussians, Gaussians, Tensor]:
        """Where a step leads from q, the bound's gradient at q, and its mean, ()."""
        leaves = {name: (a.detach().requires_grad_(), b.detach().requires_grad_()) for name, (a, b) in q.items()}
        trace = traced(story, image, instead=posteriors(leaves))
        fixed = posteriors({name: (mean.detach(), log.detach()) for name, (mean, log) in leaves.items()})
        log_ratio = [site.p.log_prob(site.z) - fixed[name].log_prob(site.z) for name, site in trace.sites.items()]
        bound = trace.log_likelihood() + beta * torch.stack(log_ratio).sum(0)
        parts = [part for pair in leaves.values() for part in pair]
        found = iter(torch.autograd.grad(bound.sum(), parts, materialize_grads=True))
        gradients = {name: (next(found), next(found)) for name in leaves}
        moved: Gaussians = {}
        for name, (mean, log_scale) in leaves.items():
            of_mean, of_log_scale = gradients[name]
            scale = log_scale.detach().exp()
            by = (self.rate * scale.square() * of_mean).clamp(-scale, scale)
            moved[name] = (mean.detach() + by, log_scale.detach() + (self.rate / 2 * of_log_scale).clamp(-0.5, 0.5))
        with torch.no_grad():
            return moved, gradients, trace.log_weight().mean()

    @staticmethod
    def _loss(
        model: LatentModel, story: Story, image: Tensor, q: Gaussians, beta: Tensor, logs: dict[str, Tensor]
    ) -> Loss:
        trace = traced(story, image, instead=posteriors(q))
        terms = mean_scores(trace)
        value = terms["distortion"] + beta * terms["rate"]
        logs = {**{name: term.detach() for name, term in terms.items()}, **logs}
        return Loss(value, {**logs, "beta": beta}, model.statistics(trace))


def encoders_gaussians(story: Story) -> Gaussians:
    """Where the search begins, along the path of the means; ValueError for others than diagonal Gaussians."""
    path, found = Recorded(PosteriorMean()), {}
    story(path)
    for name, site in path.sites.items():
        if not (isinstance(site.q, Independent) and isinstance(site.q.base_dist, Normal)):
            raise ValueError(
                "the objective SemiAmortised refines diagonal Gaussians, got the encoder's "
                f"{type(site.q).__name__} at {name!r}: choose GaussianPosterior, or the objective ELBO."
            )
        found[name] = (site.q.mean, site.q.stddev.log())
    return found


def posteriors(q: Gaussians) -> dict[str, Distribution]:
    """As distributions, by the names of their sites."""
    return {
        name: Independent(Normal(mean, log_scale.exp(), validate_args=False), mean.dim() - 1, validate_args=False)
        for name, (mean, log_scale) in q.items()
    }
