"""What a study of a test looks at: a model in evaluation mode, its data, and where both are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vae_lightning.core import Batch, FromPrior, LatentModel
from vae_lightning.data import ImageData, Images

HELD_VALUES = 2**28
"""Values of images that a study holds at most: 1 GiB in float32."""


@dataclass(frozen=True)
class Subject:
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

    def mixed(self) -> Iterator[Tensor]:
        """All test images in an order of their own, the same each time, so that neighbours are not of one class."""
        order = torch.randperm(len(self.test), generator=torch.Generator().manual_seed(0))
        return (self.test.take(part).to(self.device) for part in order.split(500))

    def codes(self, images: Images) -> Tensor:
        """The posterior's means, (N, d), on the CPU."""
        parts = [self.model.trace(self.batch(x)).sites[0].q.mean.flatten(1).cpu() for x in images.chunks(500)]
        return torch.cat(parts)

    def batch(self, image: Tensor) -> Batch:
        return {"image": image.to(self.device).float()}

    def unit(self, image: Tensor) -> Tensor:
        """Integers to [0, 1]."""
        return image.float() / (self.data.levels - 1)

    def samples(self, count: int, mean: bool = False, aggregate: bool = False) -> Tensor:
        """(count, C, H, W) in 0..levels-1, on the CPU.

        Args:
            count: how many.
            mean: E[x|z], in place of a draw from p(x|z).
            aggregate: latents of the aggregate posterior, of training images chosen at random, in place of the prior's:
                what a prior that was learned to perfection would yield.
        """
        if aggregate:
            train = self.data.fixed("train")
            images = train[torch.randint(len(train), (count,))]
            stories = (self.model.trace(self.batch(part)).px for part in images.chunks(500))
        else:
            stories = (self.model(FromPrior(min(500, count - done)), {}) for done in range(0, count, 500))
        parts = [px.mean if mean else px.sample().round() for px in stories]
        return torch.cat([part.clamp(0, self.data.levels - 1).cpu() for part in parts])


def mean_error(values: Tensor) -> tuple[float, float]:
    """Mean over images, those that are nan left out, and its standard error."""
    values = values[~values.isnan()].double()
    return values.mean().item(), (values.std() / max(len(values), 1) ** 0.5).item()


def percent(value: tuple[float, float]) -> tuple[float, float]:
    return 100 * value[0], 100 * value[1]
