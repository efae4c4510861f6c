"""One pass over a split: what a model's images cost, and how well they come back."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vae_lightning.core import Batch, LatentModel, PosteriorMean, Trace
from vae_lightning.metrics.likelihood import log_prob
from vae_lightning.metrics.mean import MeanWithError


class Evaluation:
    """Means over the images of a pass, each with its standard error, always of the plain bound (beta = 1).

    Args:
        model: in evaluation mode.
        levels: how many grey levels a value of its images can take.
        device: where the sums are kept.
    """

    def __init__(self, model: LatentModel, levels: int, device: torch.device) -> None:
        self.model, self.levels, self.device = model, levels, device
        self.latent_size = 0  # latents an image, as the last batch had them
        self.images = 0  # how many were measured, over all processes; known once `results` has gathered them
        self._means: dict[str, MeanWithError] = {}

    def results(self) -> dict[str, tuple[float, float]]:
        """Name -> (mean, standard error over images), over all processes."""
        estimates = {name: metric.compute() for name, metric in self._means.items()}
        self.images = max((int(estimate.images) for estimate in estimates.values()), default=0)
        return {name: (e.mean.item(), e.standard_error.item()) for name, e in estimates.items()}

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

    def likelihood(self, batch: Batch, trace: Trace, num_samples: int) -> None:
        """-log p(x) by `num_samples` importance samples an image; nothing for an autoencoder."""
        if trace.is_point_mass:
            return
        nll = -log_prob(self.model, batch, num_samples)
        self._add("nll", nll)
        if trace.is_discrete:
            self._add("nll_bits_per_dim", nll / nats_per_bit_per_dim(batch["image"]))

    def reconstruction(self, batch: Batch) -> None:
        """Squared error at the posterior's mean, of images in [0, 1], summed over the image."""
        self._add("squared_error", self._squared_error(self._reconstruct(batch), batch))

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


def nats_per_bit_per_dim(image: Tensor) -> float:
    """How many nats an image (B, C, H, W) are one bit a dimension: C H W log 2."""
    return image[0].numel() * math.log(2)
