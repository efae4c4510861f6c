"""A prior that is fitted to the codes of a trained model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.conditionals import PriorFactory, SplineFlowPrior
from vae_lightning.core import (
    Batch,
    Conditional,
    Draw,
    LatentModel,
    PosteriorMean,
    Recorded,
    Site,
    Spec,
    Story,
    Trace,
    rows,
    seeded,
    told_until,
)
from vae_lightning.models.frozen import Frozen

CHUNK = 500
"""Images that are encoded at a time when the prior is begun."""


def frozen_latent(who: str, first: Frozen, spec: Spec, name: str) -> Site:
    """A latent of a run's story, of a blank image; the run may wait for its weights.

    Args:
        who: the model that takes it, for its errors.
        first: the run, which `who` calls `first_stage`.
        spec: of the images that the model will see.
        name: the latent's.

    Raises:
        ValueError: the run has seen other images or classes, is told what is no label, or has no such latent.
    """
    found = first.spec
    if (found.image_shape, found.levels) != (tuple(spec.image_shape), spec.levels):
        raise ValueError(
            f"{who}.first_stage: expected a run of images of shape {tuple(spec.image_shape)} with {spec.levels} "
            f"levels, got one of {found.image_shape} with {found.levels}: choose another."
        )
    if "label" in first.needs and found.classes != spec.classes:
        raise ValueError(f"{who}.first_stage: expected a run of the classes {spec.classes}, got {found.classes}.")
    blank = {"image": torch.zeros(1, *spec.image_shape)}
    if others := set(first.needs) - {"label"}:
        raise ValueError(f"{who}.first_stage: expected one that is told no {min(others)}, got one that is.")
    if "label" in first.needs:
        blank["label"] = torch.zeros(1, dtype=torch.long)
    with torch.no_grad(), seeded(None):
        sites = first.model.trace(blank).sites
    if name not in sites:
        raise ValueError(
            f"{who}.site: expected a latent of the run, {', '.join(sites)}, got {name!r}: choose one by the setting "
            "`site`."
        )
    return sites[name]


def frozen_posterior(first: Frozen, given: Batch, name: str) -> Distribution:
    """q of a latent of a run's story given images, batch_shape (B,), and the centres of the latents before it."""
    path = Recorded(PosteriorMean())
    told_until(first.about(given), path, name)
    return path.sites[name].q


class SecondStage(LatentModel):
    """A frozen run's story with another prior at one of its sites, which is fitted to the posteriors' draws by
    `SiteNLL`: min over p of -E_q log p(z), which is least at the aggregate posterior (Dai & Wipf 2019; Ghosh et al.
    2020). Of a VAE it has the bound with the new prior; of an autoencoder, whose codes are points and
    follow no prior of its own, it makes a model that can be sampled.

    Args:
        spec: of the images, as the run has them.
        first_stage: the run, of an autoencoder or a VAE.
        prior: (latent_shape, spec) -> p(z), in the place of the run's. Where it asks for an encoder (`VampPrior`) that
            is the run's.
        site: the latent's name.

    Raises:
        ValueError: the run has seen other images or classes, has no such latent, or has a prior there that hangs on
            what the new one is not told.
    """

    def __init__(self, spec: Spec, first_stage: Frozen, prior: PriorFactory = SplineFlowPrior, site: str = "z") -> None:
        super().__init__()
        self.first_stage, self.site = first_stage, site
        latent = frozen_latent("SecondStage", first_stage, spec, site)
        self.prior = prior(tuple(latent.q.event_shape), spec)
        self.prior.attach(_Encoder(first_stage, site, spec.levels))
        if latent.p.batch_shape and not self.prior.needs:
            raise ValueError(
                f"SecondStage.prior: expected one that is told what the run's own p({site}) hangs on, a label or the "
                f"latents before it, got {type(self.prior).__name__}: choose LabelledGaussian for labels, or the "
                "story's first latent for --model.latent_model.site."
            )

    def about(self, given: Batch) -> Story:
        first, prior = self.first_stage.about(given), self.prior.told(None, given)

        def story(draw: Draw) -> Distribution:
            def drawn(name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
                return draw(name, prior if name == self.site else p, q)

            return first(drawn)

        return story

    def generates(self, trace: Trace) -> bool:
        """Where the other latents have a rate: the prior is fitted to the codes, be they points."""
        return all(site.name == self.site for site in trace.points)

    @property
    def is_conditional(self) -> bool:
        return bool(self.prior.needs) or self.first_stage.is_conditional

    @property
    def generates_by_class(self) -> bool:
        return super().generates_by_class or self.first_stage.generates_by_class

    @torch.no_grad()
    def init_from_data(self, batch: Batch) -> None:
        """Begins the prior at the training images' codes, one draw an image, (N, *event)."""
        self.prior.init_from_data(batch["image"])
        parts = [rows(batch, slice(i, i + CHUNK)) for i in range(0, len(batch["image"]), CHUNK)]
        found = [self.first_stage.trace(part, until=self.site).sites[self.site].z for part in parts]
        self.prior.init_from_codes(torch.cat(found))


class _Encoder(Conditional):
    """q of a site of a frozen run given the image scaled to [0, 1], as a VAE's encoder is told it."""

    def __init__(self, model: Frozen, site: str, levels: int) -> None:
        super().__init__()
        self.model, self.site, self.top = model, site, levels - 1
        self.needs = model.needs

    def forward(self, context: Tensor) -> Distribution:
        return frozen_posterior(self.model, {"image": self.top * context}, self.site)
