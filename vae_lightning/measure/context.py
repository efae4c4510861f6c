"""What a study of a test looks at: a model in evaluation mode, its data, and where both are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from vae_lightning.core import UNKNOWN, Batch, Given, LatentModel, PosteriorMean, Recorded, centre
from vae_lightning.data import ImageData, Images
from vae_lightning.data.source import CHUNK_VALUES
from vae_lightning.metrics.estimators.annealing import annealed_log_prob

HELD_VALUES = 2**28
"""Values of images that a study holds at most: 1 GiB in float32."""
CHECKED = 50
"""Test images on which the costly checks of log p(x) are made."""
TEMPERATURES, LEAPFROG_STEPS = 50, 5
"""Of annealed importance sampling: a minute for a small net, and some tenths of a nat of standard error an image."""


@dataclass(frozen=True)
class ModelAndData:
    """Args:
    model: in evaluation mode.
    data: its images.
    device: where both are.
    folder: of the run, for pictures.
    per_image: name -> (test images,), what studies found of each; nan where they did not look. They add to it.
    """

    model: LatentModel
    data: ImageData
    device: torch.device
    folder: Path
    per_image: dict[str, Tensor] = field(default_factory=dict)

    @property
    def test(self) -> Images:
        return self.data.fixed("test")

    def train(self, count: int) -> Images:
        """At most `count` training images, and as many as may be held, evenly over all of them."""
        train = self.data.fixed("train")
        return train.some(train.at_most(count, HELD_VALUES))

    def test_rows(self, count: int) -> Tensor:
        """The same of test images, as their numbers."""
        return self.test.some_rows(self.test.at_most(count, HELD_VALUES))

    def mixed(self) -> Iterator[Batch]:
        """All test images in an order of their own, the same each time, so that neighbours are not of one class."""
        return self.batches(self.test, torch.randperm(len(self.test), generator=torch.Generator().manual_seed(0)))

    def batches(self, images: Images, order: Tensor | None = None) -> Iterator[Batch]:
        """Whole batches of images, on the device, 500 at a time."""
        for batch in images.batches(images.at_most(500, CHUNK_VALUES), order):
            yield {name: value.to(self.device) for name, value in batch.items()}

    @cached_property
    def annealed(self) -> tuple[Batch, Tensor]:
        """Some test images, and their log p(x) by annealed importance sampling, (B,)."""
        given = next(self.batches(self.test[self.test_rows(CHECKED)]))
        return given, annealed_log_prob(self.model, given, 16, TEMPERATURES, LEAPFROG_STEPS, steepness=0.0).log_prob

    @property
    def prior_knows_labels(self) -> bool:
        """Whether a latent's prior, given those before it, is another one for another label: p(z|y)."""
        if "label" not in self.model.needs:
            return False
        given = next(self.batches(self.test[torch.arange(1)]))
        sites = self.model.trace(given).sites
        known = {name: site.z for name, site in sites.items()}
        for label in range(len(self.data.spec.classes or ())):
            told = Recorded(Given(known))
            self.model(told, {**given, "label": torch.full_like(given["label"], label)})
            if any(told.sites[name].p.log_prob(z).ne(sites[name].p.log_prob(z)).any() for name, z in known.items()):
                return True
        return False

    def codes(self, images: Images) -> Tensor:
        """The centres of all latents' posteriors, side by side, (N, d), on the CPU."""
        found = []
        for batch in self.batches(images):
            posteriors = self.model.posteriors(batch).values()
            found.append(torch.cat([centre(q).reshape(*q.batch_shape, -1).cpu() for q in posteriors], 1))
        return torch.cat(found)

    def reconstructions(self, rows: Tensor) -> Tensor:
        """E[x|z] at the posterior's mean of the test images of these numbers, (N, C, H, W), on the CPU."""
        return torch.cat([self.model(PosteriorMean(), batch).mean.cpu() for batch in self.batches(self.test, rows)])

    def unit(self, image: Tensor) -> Tensor:
        """Integers to [0, 1]."""
        return image.float() / (self.data.levels - 1)

    def sampled_labels(self, count: int) -> Tensor | None:
        """The classes (count,) of what is sampled, as they come in training; None of a model that takes none."""
        label = self.data.fixed("train").label
        if label is None or not self.model.generates_by_class:
            return None
        label = label.cpu()[label.cpu() != UNKNOWN]
        return label[torch.randint(len(label), (count,), generator=torch.Generator().manual_seed(0))]

    def samples(self, count: int, mean: bool = False, aggregate: bool = False) -> Tensor:
        """(count, C, H, W) in 0..levels-1, on the CPU.

        Args:
            count: how many.
            mean: E[x|z], in place of a draw from p(x|z).
            aggregate: latents of the aggregate posterior, of training images chosen at random, in place of the prior's:
                what a prior that was learned to perfection would yield.
        """
        train = self.data.fixed("train")
        if aggregate:
            stories = (self.model.trace(batch).px for batch in self.batches(train, torch.randint(len(train), (count,))))
        elif (labels := self.sampled_labels(count)) is None:
            stories = (self.model.sample({}, min(500, count - done)) for done in range(0, count, 500))
        else:
            stories = (self.model.sample({"label": part}) for part in labels.to(self.device).split(500))
        parts = [px.mean if mean else px.sample().round() for px in stories]
        return torch.cat([part.clamp(0, self.data.levels - 1).cpu() for part in parts])


def percent(value: tuple[float, float]) -> tuple[float, float]:
    return 100 * value[0], 100 * value[1]
