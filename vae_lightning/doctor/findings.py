"""What the checks of `doctor` look at, and what they say."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from vae_lightning.core import Batch, LatentModel, Model, Objective, image_of
from vae_lightning.data import ImageData
from vae_lightning.train.groups import parameter_groups
from vae_lightning.train.module import INIT_IMAGES, Experiment


@dataclass(frozen=True)
class Finding:
    """One plain sentence, and which flag to turn where it is not ok."""

    ok: bool
    what: str
    remedy: str = ""


def finding(ok: bool, what: str, remedy: str) -> Finding:
    return Finding(ok, what, "" if ok else remedy)


@dataclass(frozen=True)
class Case:
    """What is looked at, with a copy of the model in evaluation mode, its biases set from the data as `fit` does."""

    experiment: Experiment
    data: ImageData
    model: Model
    some: Batch  # training images in random order, as training sees them
    epochs: int | None  # None for a training without end
    clip: float | None
    steps: int = -1  # the limit of the optimiser's steps, -1 for none

    @property
    def teller(self) -> LatentModel:
        """The model, for checks of a story."""
        if not isinstance(self.model, LatentModel):
            raise ValueError(f"expected a model with latents, got {type(self.model).__name__}.")
        return self.model

    def take(self, count: int) -> Batch:
        """The first training images of the sample, over again where it is smaller."""
        index = torch.arange(count, device=image_of(self.some).device) % len(image_of(self.some))
        return cast(Batch, {name: value[index] for name, value in self.some.items()})

    def training(self, batch: Batch, lr: float | None = None) -> tuple[Callable[[], float], nn.Module, Any]:
        """A step on this batch that returns the loss before it, with schedules at their end; what it trains, and by
        which optimiser."""
        parts = self.parts()
        groups = parameter_groups(cast(LatentModel, parts["latent_model"]), cast(Objective, parts["objective"]))
        weights = [p for group in groups for p in group["params"]]
        optimizer: Any = self.experiment.optimizer(groups)
        for group in optimizer.param_groups:
            group["lr"] = lr or group["lr"]

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(parts, batch)
            loss.backward()
            if self.clip:
                nn.utils.clip_grad_norm_(weights, self.clip)
            return loss.detach()

        return lambda: float(optimizer.step(closure)), parts, optimizer

    def parts(self) -> nn.ModuleDict:
        """A copy of the model and the objective, in training mode."""
        parts = {"latent_model": self.model, "objective": self.experiment.objective}
        return nn.ModuleDict(copy.deepcopy(parts)).train()

    def loss(self, parts: nn.ModuleDict, batch: Batch) -> Tensor:
        objective: Any = parts["objective"]
        return cast(Tensor, objective(parts["latent_model"], batch, 1.0).value)

    @property
    def epoch_steps(self) -> int:
        return self.data.epoch_steps or math.ceil(len(self.data.splits["train"]) / self.data.batch_size)

    @property
    def planned(self) -> int | None:
        """Of the whole training; None where its length is given otherwise, such as in minutes."""
        limits = [self.steps] if self.steps > 0 else []
        return min(limits + ([] if self.epochs is None else [self.epochs * self.epoch_steps]), default=None)


def first_names(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def spread(stored: Tensor, count: int) -> Tensor:
    """Evenly spaced rows of `count`, a quarter of a gigabyte of bytes at most."""
    return torch.arange(0, count, math.ceil(count / min(INIT_IMAGES, max(64, 2**28 // stored[0].numel()))))
