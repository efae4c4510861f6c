"""A trained model for any script: rebuilt from a checkpoint alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lightning import conditionals, models, nets  # noqa: F401 (their classes, which a record names by the last word)
from vae_lightning.checkpoint import RECORD, find_checkpoint, load_weights, read_checkpoint
from vae_lightning.core import Batch, Given, LatentModel, PosteriorMean, Shape, Trace
from vae_lightning.metrics import log_prob
from vae_lightning.metrics.estimators.refinement import refined


def build(record: dict[str, Any]) -> LatentModel:
    """The latent model of a checkpoint's record, plain data, through jsonargparse as the command line.

    Raises:
        ValueError: the configuration names a class or a key that does not exist.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--latent_model", type=Callable[[Shape, int], LatentModel])
    try:
        parsed = parser.parse_object({"latent_model": record["config"]["model"]["latent_model"]})
    except ArgumentError as error:
        raise ValueError(f"the model's configuration does not fit this version of vae_lightning: {error}") from error
    model: LatentModel = parser.instantiate(parsed).latent_model(tuple(record["image_shape"]), record["levels"])
    layout = torch.channels_last if record["config"]["model"].get("channels_last") else torch.contiguous_format
    return model.to(memory_format=layout)  # as in training: another layout sums in another order


class TrainedModel(nn.Module):
    """A trained model for any script. Images are integers 0..levels-1, (B, C, H, W), of any dtype; densities are in
    nats per image.

    The methods compute no gradients; `latent_model` is the module itself for those who want them.
    """

    def __init__(self, latent_model: LatentModel, image_shape: Shape, levels: int) -> None:
        super().__init__()
        self.latent_model, self.image_shape, self.levels = latent_model, tuple(image_shape), levels

    def _given(self, x: Tensor) -> Batch:
        """Raises ValueError for images of another shape or range."""
        if tuple(x.shape[1:]) != self.image_shape or not len(x):
            raise ValueError(
                f"expected images of shape (B, {', '.join(map(str, self.image_shape))}), got {tuple(x.shape)}."
            )
        x = x.to(self.device)
        whole = x.to(torch.uint8)  # a comparison with this finds fractions, nan, and what is below 0 or above 255
        if (x.dtype != torch.uint8 and not torch.equal(x, whole.to(x.dtype))) or whole.max() > self.levels - 1:
            raise ValueError(
                f"expected images that hold the integers 0..{self.levels - 1}, got values between {x.min().item():g} "
                f"and {x.max().item():g}: scale them to that range and round."
            )
        return {"image": x.to(self._dtype)}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def _dtype(self) -> torch.dtype:
        dtype = next(self.parameters()).dtype
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"expected weights of float32 or float64, got {dtype}: use torch.autocast in its place.")
        return dtype

    @torch.no_grad()
    def encode(self, x: Tensor) -> Distribution:
        """q(z|x), batch_shape (B,)."""
        return self.latent_model.trace(self._given(x)).sites[0].q

    @torch.no_grad()
    def decode(self, z: Tensor) -> Distribution:
        """p(x|z) for z (*S, d): batch_shape S, over integer images. Where a story has several latents, z is the first
        of them, and the others are drawn from their priors."""
        return self.latent_model(Given({self._first_latent: z.to(self.device, self._dtype)}), {})

    @torch.no_grad()
    def sample(self, num_samples: int) -> Distribution:
        """p(x|z) for z from the prior, batch_shape (num_samples,): `.mean` the expected image, `.sample()` draws one.

        Raises:
            ValueError: the model is an autoencoder, whose codes follow no prior.
        """
        if num_samples < 1:
            raise ValueError(f"num_samples: expected at least 1, got {num_samples}.")
        if self.is_autoencoder:
            raise ValueError(
                "expected a model with a prior that its codes follow, got an autoencoder (point-mass posterior), which "
                "cannot be sampled: train a VAE (encoder GaussianPosterior, objective ELBO)."
            )
        return self.latent_model.sample({}, num_samples)

    @cached_property
    def is_autoencoder(self) -> bool:
        """Whether the posterior is a point mass."""
        return self._blank_story().is_point_mass

    @cached_property
    def _first_latent(self) -> str:
        return self._blank_story().sites[0].name

    @torch.no_grad()
    def _blank_story(self) -> Trace:
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            blank = torch.zeros(1, *self.image_shape, device=self.device, dtype=self._dtype)
            return self.latent_model.trace({"image": blank})

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Distribution:
        """p(x|z) at the posterior's mean, batch_shape (B,)."""
        return self.latent_model(PosteriorMean(), self._given(x))

    @torch.no_grad()
    def elbo(self, x: Tensor) -> Tensor:
        """The evidence lower bound of each image by one posterior sample, (B,); -inf for an autoencoder."""
        given = self._given(x)
        trace = self.latent_model.trace(given)
        return trace.log_likelihood(given["image"]) - trace.kl()

    @torch.no_grad()
    def log_prob(self, x: Tensor, num_samples: int = 1000, refinement: int = 0) -> Tensor:
        """log p(x) of each image by `num_samples` importance samples, (B,), from the encoder's posterior or, with 50 or
        so gradient steps of `refinement`, from one of the image's own."""
        if refinement < 0:
            raise ValueError(f"refinement: expected a number of steps, or 0 for none, got {refinement}.")
        given = self._given(x)
        proposal = refined(self.latent_model, given, refinement).widened() if refinement else None
        return log_prob(self.latent_model, given, num_samples, proposal=proposal)


def load_model(path: str, device: str = "cpu") -> TrainedModel:
    """The trained model of a checkpoint file or a run's folder, in evaluation mode. The checkpoint alone is enough.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: the file is no checkpoint of this project, or is damaged.
    """
    file = find_checkpoint(path)
    content = read_checkpoint(file)
    record = content[RECORD]
    latent_model, name = build(record), "latent_model."
    weights = {key.removeprefix(name): value for key, value in content["state_dict"].items() if key.startswith(name)}
    load_weights(latent_model, weights, file)
    return TrainedModel(latent_model, tuple(record["image_shape"]), record["levels"]).eval().to(device)
