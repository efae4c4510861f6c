"""Checkpoint files: finding them, reading them safely, and rebuilding a model from one alone."""

from __future__ import annotations

import pickle
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lightning.core import Batch, Given, LatentModel, PosteriorMean, Shape, Trace
from vae_lightning.experiment.files import age
from vae_lightning.experiment.module import RECORD, Experiment
from vae_lightning.metrics import log_prob
from vae_lightning.metrics.refinement import refined

REQUIRED = {"config", "image_shape", "levels"}
SECTIONS = {"seed_everything", "model", "data", "trainer", "checkpoint", "run"}


def find_checkpoint(path: str | Path, prefer: str = "best") -> Path:
    """The checkpoint file that a path means: a file itself, the best (or last) of a run's folder, or that of the newest
    run in an experiment's folder.

    Raises:
        FileNotFoundError: nothing there, or a folder without checkpoints.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected a checkpoint file or the folder of a run, got nothing there.")
    run = path if (path / "checkpoints").is_dir() else max(path.glob("*/"), key=age, default=path)
    files = sorted((run / "checkpoints").glob("*.ckpt"), key=lambda file: (file.stat().st_mtime, file.name))
    if not files:
        raise FileNotFoundError(f"{path}: expected checkpoints/*.ckpt in it or in a run below it, got none.")
    last = [file for file in files if file.stem.startswith("last")]
    best = [file for file in files if file not in last]
    if prefer == "best" and len(best) > 1 and last:
        best = [file for file in best if file.name == best_name(last[-1])] or best
    first, second = (best, last) if prefer == "best" else (last, best)
    return (first or second)[-1]


def best_name(last: Path) -> str | None:
    """What the checkpoint callback, whose state the last checkpoint holds, calls the best one."""
    states = [state for state in read_checkpoint(last)["callbacks"].values() if state.get("monitor") is not None]
    return Path(states[0]["best_model_path"]).name if states else None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint's content, on the CPU, by torch's safe loading only.

    Raises:
        ValueError: not a checkpoint, damaged, or not one of this project.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (broken := archive.testzip()) is not None:  # torch does not look at the checksums
                raise zipfile.BadZipFile(f"{broken} has not the checksum it was written with")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path}: expected a checkpoint that torch can load safely, got a file that is none, is damaged or holds "
            f"more than plain data ({first}): give a checkpoint that `vae-lightning fit` wrote."
        ) from error
    if not isinstance(content, dict) or RECORD not in content or "state_dict" not in content:
        raise ValueError(
            f"{path}: expected a checkpoint that `vae-lightning fit` wrote, got a file of another program."
        )
    if not isinstance(content[RECORD], dict) or not content[RECORD].keys() >= REQUIRED:
        raise ValueError(
            f"{path}: expected the record {sorted(REQUIRED)} in the checkpoint, got another: train it anew."
        )
    if content[RECORD]["config"] is None:
        raise ValueError(
            f"{path}: expected a checkpoint that holds its configuration, got one of an Experiment built in Python: "
            "rebuild it there and use load_weights, or train it from a configuration file."
        )
    if not isinstance(content[RECORD]["config"], dict) or not content[RECORD]["config"].keys() >= SECTIONS:
        raise ValueError(f"{path}: expected a configuration with {sorted(SECTIONS)} in the checkpoint, got another.")
    return content


def load_weights(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Loads a checkpoint's weights; raises ValueError where they are another model's."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise ValueError(
            f"{path}: expected weights of the model configured here, got those of another one ({detail}): leave "
            "the model's settings to the checkpoint, or give the checkpoint of this model."
        ) from error


def build(config: dict[str, Any]) -> Experiment:
    """An Experiment from the `model` part of a configuration, plain data, through jsonargparse as the command line.

    Raises:
        ValueError: the configuration names a class or a key that does not exist.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Experiment, "model")
    try:
        parsed = parser.parse_object({"model": config})
    except ArgumentError as error:
        raise ValueError(f"the model's configuration does not fit this version of vae_lightning: {error}") from error
    experiment: Experiment = parser.instantiate(parsed).model
    return experiment


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
    experiment = build(record["config"]["model"])
    load_weights(experiment, content["state_dict"], file)
    model = TrainedModel(experiment.latent_model, tuple(record["image_shape"]), record["levels"])
    return model.eval().to(device)
