"""The evidence lower bound."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from vae_lightning.core import Batch, LatentModel, Loss, Model, Objective, Site, Trace, is_discrete
from vae_lightning.objectives.schedules import Constant, Schedule


@runtime_checkable
class Committed(Protocol):
    """A posterior at a codebook's vectors."""

    distance: Tensor | None
    """Of the encoder's vectors from the codes, squared, and summed over an image, (B,); None where nothing has to draw
    them there, as the codes are not learned."""


def commitment(trace: Trace) -> Tensor | None:
    """The distances of all sites, (B,); None where nothing has to be drawn to codes."""
    found = [site.q.distance for site in trace.sites.values() if isinstance(site.q, Committed)]
    known = [distance for distance in found if distance is not None]
    return torch.stack(known).sum(0) if known else None


def require_stories(model: Model, objective: str) -> LatentModel:
    """The model, where it tells stories; raises ValueError for another, such as a dual encoder."""
    if not isinstance(model, LatentModel):
        raise ValueError(
            f"the objective {objective} needs a model with latents, got {type(model).__name__}, which tells no "
            "story of an image: choose the objective that belongs to it."
        )
    return model


def require_a_prior_of_codes(trace: Trace) -> None:
    """Raises ValueError where a discrete posterior has a prior that is none, which leaves no rate."""
    for site in trace.sites.values():
        if is_discrete(site.q) and not is_discrete(site.p):
            raise ValueError(
                f"expected a prior of codes for the discrete posterior at {site.name!r}, got {type(site.p).__name__}, "
                "a density: choose CodePrior or CodeTransformer (configs/prior/codes.yaml, code_transformer.yaml)."
            )


def require_density(model: Model, batch: Batch, objective: str) -> None:
    """Raises ValueError where a posterior of the model's is a point mass, has draws that pass no gradient on or that
    the objective does not draw to their codes, or is discrete and its prior is not."""
    with torch.enable_grad():
        trace = require_stories(model, objective).trace(batch)
        for site in trace.sites.values():
            if not site.q.has_rsample and site.q.log_prob(site.z.detach()).requires_grad:
                raise ValueError(
                    f"the objective {objective} needs posteriors whose draws pass gradients on, got "
                    f"{type(site.q).__name__} at {site.name!r}, whose encoder would learn from its rate alone: choose "
                    "one with rsample, such as torch's OneHotCategoricalStraightThrough or RelaxedOneHotCategorical."
                )
    require_a_prior_of_codes(trace)
    if commitment(trace) is not None:
        raise ValueError(
            f"the objective {objective} leaves a codebook's vectors and the encoder's apart: choose the objective VQ "
            "(configs/objective/vq.yaml), or FiniteScalarQuantiser, whose codes are not learned."
        )
    if not trace.has_rate:
        raise ValueError(
            f"the objective {objective} needs a posterior with a density, got a point mass (an autoencoder), whose KL "
            "to the prior is infinite: choose the encoder GaussianPosterior, or the objective Reconstruction."
        )


def kl_per_latent(site: Site) -> Tensor:
    """KL(q || p) of each number of a latent, (B, *event) or (K, B, *event); raises ValueError unless both
    factorise and torch has the pair."""
    q, p = site.q, site.p
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        raise ValueError(
            f"free bits need a posterior and a prior that factorise over the latents, got {type(q).__name__} and "
            f"{type(p).__name__} at {site.name!r}: set --model.objective.free_bits 0, or choose such a pair."
        )
    return kl_divergence(q.base_dist, p.base_dist)


def mean_scores(trace: Trace) -> dict[str, Tensor]:
    """`Trace.scores`, averaged over the batch and the samples: name -> (), nats per image."""
    return {name: value.mean() for name, value in trace.scores().items()}


def samples_of(name: str, num_samples: int) -> int | None:
    """What `LatentModel.trace` is told of so many samples, None for one; ValueError for less."""
    if num_samples < 1:
        raise ValueError(f"{name}: expected num_samples of at least 1, got {num_samples}.")
    return num_samples if num_samples > 1 else None


def _batch_mean(kl: Tensor, site: Site) -> Tensor:
    """(B, *event) or, where the prior hangs on a latent drawn K times, (K, B, *event) -> (*event)."""
    return kl.flatten(0, kl.dim() - len(site.q.event_shape) - 1).mean(0)


class ELBO(Objective):
    """-(E_q log p(x|z) - beta KL(q || p)), averaged over the batch, in nats per image; beta = 1 is the bound itself.

    Args:
        beta: weight of the KL term, a number or a schedule over the training (Higgins et al. 2017 for beta > 1).
        free_bits: nats of each latent number whose batch-mean KL goes unpunished (Kingma et al. 2016, appendix C.8).
        free_bits_site: the same of each site of the story, such as a layer of a ladder, as a whole: its numbers may
            share them as they like, and any pair of posterior and prior will do. One of the two at most.
        num_samples: posterior samples per image in the expectation.
    """

    def __init__(
        self,
        beta: Schedule | float = 1.0,
        free_bits: float = 0.0,
        num_samples: int = 1,
        free_bits_site: float = 0.0,
    ) -> None:
        super().__init__()
        if min(free_bits, free_bits_site) < 0:
            raise ValueError(
                f"ELBO: expected free_bits and free_bits_site of at least 0, got {free_bits} and {free_bits_site}."
            )
        if free_bits and free_bits_site:
            raise ValueError(
                f"ELBO: expected free bits of each latent number or of each site, got both, free_bits={free_bits} and "
                f"free_bits_site={free_bits_site}: set one of them to 0."
            )
        self.beta = beta if isinstance(beta, Schedule) else Constant(float(beta))
        self.free_bits, self.free_bits_site = free_bits, free_bits_site
        self.num_samples = samples_of("ELBO", num_samples)

    def check(self, model: Model, batch: Batch) -> None:
        require_density(model, batch, "ELBO")

    def _punished(self, trace: Trace, rate: Tensor) -> Tensor:
        if self.free_bits_site:
            return torch.stack([site.kl().mean().clamp_min(self.free_bits_site) for site in trace.sites.values()]).sum()
        if not self.free_bits:
            return rate
        kl = [_batch_mean(kl_per_latent(site), site).clamp_min(self.free_bits).sum() for site in trace.sites.values()]
        return torch.stack(kl).sum()

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        beta = self.beta.at(share)  # first, so that all that follows can be compiled as one
        model = require_stories(model, "ELBO")
        return self._of(model, model.trace(batch, self.num_samples), beta)

    def _of(self, model: LatentModel, trace: Trace, beta: Tensor) -> Loss:
        terms = mean_scores(trace)
        value = terms["distortion"] + beta * self._punished(trace, terms["rate"])
        logs = {name: term.detach() for name, term in terms.items()}
        return Loss(value, {**logs, "beta": beta}, model.statistics(trace))
