"""One pass over a split: what a model's images cost, and how well they come back."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from vae_lightning.core import Batch, LatentModel, PosteriorMean, Trace
from vae_lightning.metrics.estimators.importance import importance
from vae_lightning.metrics.estimators.pareto import FEWEST, TOO_HEAVY, tail_length
from vae_lightning.metrics.estimators.refinement import refined
from vae_lightning.metrics.mean import MeanWithError, from_all_processes

SMALLEST_SSIM = 11
"""Side of the window that structural similarity is taken over (Wang et al. 2004)."""


def sample_counts(num_samples: int) -> list[int]:
    """The K at which -log p(x) is shown on its way to `num_samples`: 1, 10, 100, ... and the last."""
    below = itertools.takewhile(lambda k: k < num_samples, (10**i for i in itertools.count()))
    return [*below, num_samples]


class Evaluation:
    """Means over the images of a pass, each with its standard error, always of the plain bound (beta = 1).

    Args:
        model: in evaluation mode.
        levels: how many grey levels a value of its images can take.
        device: where the sums are kept.
        keep: keep what belongs to each image, too: `per_image`.
    """

    def __init__(self, model: LatentModel, levels: int, device: torch.device, keep: bool = False) -> None:
        self.model, self.levels, self.device, self.keep = model, levels, device, keep
        self.latent_size = 0  # latents an image, as the last batch had them
        self.images = 0  # how many were measured, over all processes; known once `results` has gathered them
        self._means: dict[str, MeanWithError] = {}
        self._kept: dict[str, list[Tensor]] = {}

    def results(self) -> dict[str, tuple[float, float]]:
        """Name -> (mean, standard error over images), over all processes."""
        estimates = {name: metric.compute() for name, metric in self._means.items()}
        self.images = max((int(estimate.images) for estimate in estimates.values()), default=0)
        if self.keep:
            self._kept = {name: [values] for name, values in from_all_processes(self.per_image).items()}
        return {name: (e.mean.item(), e.standard_error.item()) for name, e in estimates.items()}

    @property
    def per_image(self) -> dict[str, Tensor]:
        """Name -> (N,), in the order of the images: of those that came to this process, or once `results` has gathered
        them, of all; empty unless they were to be kept."""
        return {name: torch.cat(parts) for name, parts in self._kept.items()}

    def bound(self, batch: Batch) -> Trace:
        """ELBO, rate and distortion by one posterior sample an image, nats; bits/dim where images are discrete. An
        autoencoder's point mass has no rate, and so no ELBO."""
        x = batch["image"]
        trace = self.model.trace(batch)
        self.latent_size = sum(site.z[0].numel() for site in trace.sites)
        rate, distortion = trace.kl(), -trace.log_likelihood(x)
        self._add("distortion", distortion)
        if not trace.is_point_mass:
            self._add("rate", rate)
            self._add("elbo", -(rate + distortion))
            if trace.is_discrete:
                self._add("bits_per_dim", (rate + distortion) / nats_per_bit_per_dim(x))
        return trace

    def likelihood(self, batch: Batch, trace: Trace, num_samples: int, refinement: int = 0) -> None:
        """-log p(x) by `num_samples` importance samples an image and by fewer on the way, with what the estimate tells
        of itself: its variance over the samples' noise, its effective sample size, and from some 25 samples on whether
        the weights' tail is so heavy that neither means anything, in % of the images. Nothing for an autoencoder.

        Args:
            batch: of images.
            trace: of the batch.
            num_samples: an image.
            refinement: gradient steps to a proposal of each image's own, see `refined`; 0 for the encoder's posterior.
        """
        if trace.is_point_mass:
            return
        ks = sample_counts(num_samples)
        proposal = refined(self.model, batch, refinement).widened() if refinement else None
        found = importance(self.model, batch, ks, proposal=proposal)
        nll = -found.log_prob
        self._add("nll", nll[-1])
        if trace.is_discrete:
            self._add("nll_bits_per_dim", nll[-1] / nats_per_bit_per_dim(batch["image"]))
        for k, values in zip(ks[:-1], nll, strict=False):
            self._add(f"nll_{k}", values)
        self._add("estimator_variance", found.variance(ks)[-1])
        self._add("effective_samples", found.effective[-1])
        if tail_length(num_samples) >= FEWEST:
            shape = found.pareto_k()
            self._keep("pareto_k", shape)
            self._add("pareto_high", 100.0 * ~(shape <= TOO_HEAVY))

    def reconstruction(self, batch: Batch, trace: Trace) -> None:
        """How an image comes back from the posterior's mean, images in [0, 1]: squared error, summed over the image;
        peak signal-to-noise ratio, dB; structural similarity (Wang et al. 2004), where images are large enough. And the
        squared error from the sample that the rate paid for."""
        if not trace.is_point_mass:
            self._add("sampled_squared_error", self._squared_error(trace.px.mean, batch))
        mean = self._reconstruct(batch)
        error = self._squared_error(mean, batch)
        self._add("squared_error", error)
        self._add("psnr", -10 * torch.log10(error.clamp_min(1e-10) / mean[0].numel()))
        if min(mean.shape[-2:]) >= SMALLEST_SSIM:
            from torchmetrics.functional.image import structural_similarity_index_measure as ssim

            target = batch["image"] / (self.levels - 1)
            similarity = ssim((mean / (self.levels - 1)).clamp(0, 1), target, reduction="none", data_range=1.0)
            self._add("ssim", torch.as_tensor(similarity))

    def denoising(self, batch: Batch, corruption: nn.Module) -> None:
        """The same from a noisy image to the clean one, beside the error of the noisy image itself.

        Args:
            batch: clean images.
            corruption: noise on images in [0, 1].
        """
        noisy = corruption(batch["image"] / (self.levels - 1)) * (self.levels - 1)
        self._add("noisy_squared_error", self._squared_error(noisy, batch))
        self._add("denoised_squared_error", self._squared_error(self._reconstruct({"image": noisy}), batch))

    def _reconstruct(self, given: Batch) -> Tensor:
        return self.model(PosteriorMean(), given).mean

    def _squared_error(self, image: Tensor, target: Batch) -> Tensor:
        return ((image - target["image"]) / (self.levels - 1)).square().flatten(1).sum(1)

    def _add(self, name: str, value: Tensor) -> None:
        if name not in self._means:
            self._means[name] = MeanWithError().to(self.device)
        self._means[name].update(value)
        self._keep(name, value)

    def _keep(self, name: str, value: Tensor) -> None:
        if self.keep:
            self._kept.setdefault(name, []).append(value.detach().float().cpu())


def nats_per_bit_per_dim(image: Tensor) -> float:
    """How many nats an image (B, C, H, W) are one bit a dimension: C H W log 2."""
    return image[0].numel() * math.log(2)
