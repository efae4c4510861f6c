"""What every evaluation is: means over the images of a pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vae_lightning.core import Batch, Coded, Model, Objective, Spec, Trace
from vae_lightning.metrics.codes import CodeUsage, code_rows
from vae_lightning.metrics.mean import MeanWithError, from_all_processes


class Headline(NamedTuple):
    """The number that checkpoints follow, and which way is better."""

    name: str
    mode: Literal["max", "min"]


class Evaluation(ABC):
    """Means over the images of a pass, each with its standard error. `start` begins a pass, `update` takes its batches,
    `results` ends it."""

    def __init__(self) -> None:
        self.start(torch.device("cpu"))

    def start(self, device: torch.device, keep: bool = False) -> None:
        """Forgets what was measured.

        Args:
            device: where the sums are kept.
            keep: keep what belongs to each image, too: `per_image`.
        """
        self.device, self.keep = device, keep
        self.images = 0  # how many were measured, over all processes; known once `results` has gathered them
        self._means: dict[str, MeanWithError] = {}
        self._kept: dict[str, list[Tensor]] = {}
        self._usages: dict[str, CodeUsage] = {}

    bound_samples = 1
    """Importance samples an image of the bound that validation judges by; 1 for the ELBO."""

    def follow(self, objective: Objective) -> None:
        """Takes note of the bound that training maximises, once before all else."""
        self.bound_samples = objective.bound_samples

    @abstractmethod
    def headline(self, model: Model, batch: Batch) -> Headline:
        """Of a model, told a batch of two images or more."""

    @abstractmethod
    def update(self, model: Model, spec: Spec, batch: Batch, stage: Literal["val", "test"]) -> None:
        """Measures a batch, always by the plain bound, whatever training weighs: the model is in evaluation mode."""

    def results(self) -> dict[str, tuple[float, float]]:
        """Name -> (mean, standard error over images), over all processes; the error of what is no mean is nan."""
        estimates = {name: mean.compute() for name, mean in self._means.items()}
        self.images = max((int(estimate.images) for estimate in estimates.values()), default=0)
        if self.keep:
            self._kept = {name: [values] for name, values in from_all_processes(self.per_image).items()}
        means = {name: (e.mean.item(), e.standard_error.item()) for name, e in estimates.items()}
        return means | code_rows(self._usages)

    @property
    def per_image(self) -> dict[str, Tensor]:
        """Name -> (N,), in the order of the images: of those that came to this process, or once `results` has gathered
        them, of all; empty unless they were to be kept."""
        return {name: torch.cat(parts) for name, parts in self._kept.items()}

    def add(self, name: str, value: Tensor) -> None:
        """Takes a quantity of each image, (B,), into the mean of that name."""
        if name not in self._means:
            self._means[name] = MeanWithError().to(self.device)
        self._means[name].update(value)
        self.keep_each(name, value)

    def count_codes(self, trace: Trace) -> None:
        """Counts the codes of a trace's sites, where they are codes."""
        for name, site in trace.sites.items():
            if isinstance(site.q, Coded):
                usage = self._usages.setdefault(name, CodeUsage(site.q.num_codes).to(self.device))
                usage.update(site.q.indices_of(site.z))

    def keep_each(self, name: str, value: Tensor) -> None:
        """Keeps a quantity of each image, (B,), that has no mean."""
        if self.keep:
            self._kept.setdefault(name, []).append(value.detach().float().cpu())
