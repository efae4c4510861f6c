"""What is measured of a model in validation and test: a slot, as an objective is."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor

from vae_lightning.core import Batch, Classifier, LatentModel, Model, PosteriorMean, Spec, Trace, rows
from vae_lightning.metrics.base import Evaluation, Headline
from vae_lightning.metrics.estimators.gap import OF_THE_BOUND, bound_beside
from vae_lightning.metrics.estimators.importance import importance
from vae_lightning.metrics.estimators.pareto import FEWEST, TOO_HEAVY, tail_length
from vae_lightning.metrics.estimators.refinement import refined
from vae_lightning.metrics.text2image.attributes import Attributes
from vae_lightning.nets import Corruption

ELBO, IWAE = "elbo", "iwae"
"""What the bounds are called that validation judges by."""
SMALLEST_SSIM = 11
"""Side of the window that structural similarity is taken over (Wang et al. 2004)."""


def sample_counts(num_samples: int) -> list[int]:
    """The K at which -log p(x) is shown on its way to `num_samples`: 1, 10, 100, ... and the last."""
    return [*itertools.takewhile(lambda k: k < num_samples, (10**i for i in itertools.count())), num_samples]


class ImageEvaluation(Evaluation):
    """What a latent model's images cost, and how well they come back.

    Args:
        samples: importance samples per image of the test's -log p(x); 0, or a quantiser's codes, leave it out.
        refinement: gradient steps (50 do) by which the test improves each image's posterior, which it then widens and
            draws its importance samples from; 0 for the encoder's own, from which published figures are.
        studies: let the test also study whole sets: what the latents carry, log p(x) by other estimators, samples,
            sharpness, representation (docs/measuring.md); false for the one pass alone.
        corruption: noise on images in [0, 1], from which the test also measures how well the clean image comes back.
    """

    def __init__(
        self, samples: int = 1000, refinement: int = 0, studies: bool = True, corruption: Corruption | None = None
    ) -> None:
        for name, count in (("samples", samples), ("refinement", refinement)):
            if count < 0:
                raise ValueError(f"model.evaluation.{name}: expected at least 0, got {count}.")
        self.samples, self.refinement, self.studies, self.corruption = samples, refinement, studies, corruption
        self.latent_size = 0  # latents an image, as the last batch had them
        super().__init__()

    def headline(self, model: Model, batch: Batch) -> Headline:
        """The ELBO, or where training maximises the importance-weighted bound that bound, of as many samples; of an
        autoencoder, which has none, the distortion, or -log p(z) of its codes where a prior is fitted to them."""
        model = self._latent(model)
        trace = model.trace(rows(batch, slice(0, 2)))
        if trace.has_rate:
            return Headline(IWAE if self.bound_samples > 1 else ELBO, "max")
        return Headline(f"nll_{trace.points[0].name}" if model.generates(trace) else "distortion", "min")

    def update(self, model: Model, spec: Spec, batch: Batch, stage: Literal["val", "test"]) -> None:
        model = self._latent(model)
        trace = model.trace(batch)
        self._bound(batch, trace)
        self._codes(model, trace)
        if isinstance(model, Classifier) and "label" in batch:
            wrong = model.class_log_prob(batch).argmax(1) != batch["label"]
            self.add("error", 100.0 * wrong)  # %
        if stage == "val" and self.bound_samples > 1:
            self.add(IWAE, importance(model, batch, [self.bound_samples]).log_prob[0])
        if stage == "test":
            self._reconstruction(model, spec, batch, trace)
            if self.samples and trace.has_rate and trace.is_random:
                self._likelihood(model, batch, trace)
            if self.corruption is not None:
                self._denoising(model, spec, batch)

    @staticmethod
    def _latent(model: Model) -> LatentModel:
        if not isinstance(model, LatentModel):
            raise ValueError(
                f"ImageEvaluation: expected a model with latents, got {type(model).__name__}: give its own "
                "--model.evaluation."
            )
        return model

    def _bound(self, batch: Batch, trace: Trace) -> None:
        """ELBO, rate and distortion by one posterior sample an image, nats; bits/dim where images are discrete."""
        self.latent_size = trace.latent_size
        self.count_codes(trace)
        scores = trace.scores()
        for name, value in scores.items():
            self.add(name, value)
        for site in trace.sites.values() if len(trace.sites) > 1 and trace.has_rate else ():
            self.add(f"rate_{site.name}", site.kl())
        if trace.has_rate and trace.is_discrete:
            self.add("bits_per_dim", -scores["elbo"] / nats_per_bit_per_dim(batch["image"]))

    def _codes(self, model: LatentModel, trace: Trace) -> None:
        """-log p(z) of codes that are points, nats, where a prior is fitted to them: a density's, and no rate."""
        for site in trace.points if model.generates(trace) else ():
            self.add(f"nll_{site.name}", -site.p.log_prob(site.z))

    def _likelihood(self, model: LatentModel, batch: Batch, trace: Trace) -> None:
        """-log p(x) by `samples` importance samples an image and by fewer on the way; the gap to the ELBO, without the
        noise that both share or, with refinement, without the encoder's; and what the estimate tells of itself: its
        variance over the samples' noise, its effective sample size, and from some 25 samples on whether the weights'
        tail is so heavy that neither means anything, in % of the images."""
        ks = sample_counts(self.samples)
        own = refined(model, batch, self.refinement) if self.refinement else None
        found = importance(model, batch, ks, proposal=own.widened() if own else None)
        nll = -found.log_prob
        self.add("nll", nll[-1])
        if trace.is_discrete:
            self.add("nll_bits_per_dim", nll[-1] / nats_per_bit_per_dim(batch["image"]))
        bound = bound_beside(own, model, batch, min(self.samples, OF_THE_BOUND)) if own else found.bound[-1]
        self.add("gap", found.log_prob[-1] - bound)
        for k, values in zip(ks[:-1], nll, strict=False):
            self.add(f"nll_{k}", values)
        self.add("estimator_variance", found.variance(ks)[-1])
        self.add("effective_samples", found.effective[-1])
        if tail_length(self.samples) >= FEWEST:
            shape = found.pareto_k()
            self.keep_each("pareto_k", shape)
            self.add("pareto_high", 100.0 * ~(shape <= TOO_HEAVY))

    def _reconstruction(self, model: LatentModel, spec: Spec, batch: Batch, trace: Trace) -> None:
        """How an image comes back from the posterior's mean (a flow's centre), images in [0, 1]: squared error, summed
        over the image; peak signal-to-noise ratio, dB; structural similarity (Wang et al. 2004), where images are large
        enough. And the squared error from the sample that the rate paid for."""
        top = spec.levels - 1
        if trace.has_rate:
            self.add("sampled_squared_error", squared_error(trace.px.mean, batch["image"], top))
        mean = model(PosteriorMean(), batch).mean
        error = squared_error(mean, batch["image"], top)
        self.add("squared_error", error)
        self.add("psnr", -10 * torch.log10(error.clamp_min(1e-10) / mean[0].numel()))
        if min(mean.shape[-2:]) >= SMALLEST_SSIM:
            from torchmetrics.functional.image import structural_similarity_index_measure as ssim

            similarity = ssim((mean / top).clamp(0, 1), batch["image"] / top, reduction="none", data_range=1.0)
            self.add("ssim", torch.as_tensor(similarity))

    def _denoising(self, model: LatentModel, spec: Spec, batch: Batch) -> None:
        """The same from a noisy image to the clean one, beside the error of the noisy image itself."""
        assert self.corruption is not None
        top = spec.levels - 1
        noisy = self.corruption(batch["image"] / top) * top
        back = model(PosteriorMean(), {**batch, "image": noisy}).mean
        self.add("noisy_squared_error", squared_error(noisy, batch["image"], top))
        self.add("denoised_squared_error", squared_error(back, batch["image"], top))


def squared_error(image: Tensor, target: Tensor, top: int) -> Tensor:
    """Of images (B, C, H, W) in 0..top brought to [0, 1], summed over each image, (B,)."""
    return ((image - target) / top).square().flatten(1).sum(1)


def nats_per_bit_per_dim(image: Tensor) -> float:
    """How many nats an image (B, C, H, W) are one bit a dimension: C H W log 2."""
    return image[0].numel() * math.log(2)


class SiteEvaluation(Evaluation):
    """-log p(value | what comes before it) at sites of a story, nats, for draws of the sites' posteriors: `nll_<site>`,
    exact or a bound, as the site's density has it.

    Args:
        sites: their names, in the story's order; checkpoints follow the last one's.
        generated: images that the test of a text-to-image model generates, as many of each caption as its test images
            have, and studies; 0 for none, 10000 for figures that are to be told.
        attributes: what a text-to-image model's captions say, for judges of these attributes in the test; null for
            none.
    """

    def __init__(self, sites: list[str], generated: int = 2000, attributes: Attributes | None = None) -> None:
        if not sites:
            raise ValueError("SiteEvaluation.sites: expected at least one site's name, got none.")
        if generated < 0:
            raise ValueError(f"SiteEvaluation.generated: expected at least 0, got {generated}.")
        self.sites, self.generated, self.attributes = list(sites), generated, attributes
        super().__init__()

    def headline(self, model: Model, batch: Batch) -> Headline:
        return Headline(f"nll_{self.sites[-1]}", "min")

    def update(self, model: Model, spec: Spec, batch: Batch, stage: Literal["val", "test"]) -> None:
        if not isinstance(model, LatentModel):
            raise ValueError(f"SiteEvaluation: expected a model with latents, got {type(model).__name__}.")
        found = model.trace(batch, until=self.sites[-1]).sites
        for name in self.sites:
            self.add(f"nll_{name}", -found[name].p.log_prob(found[name].z))
