"""The checks of the data themselves."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vae_lightning.core import image_of
from vae_lightning.data import ImageData
from vae_lightning.doctor.findings import Case, Finding, finding
from vae_lightning.train.module import Experiment


def look_at_data(experiment: Experiment, data: ImageData) -> Iterator[Finding]:
    try:
        data.setup()
    except (ValueError, OSError) as error:  # what the door of the data refuses, as `fit` does
        yield finding(
            False, f"{str(error).rstrip('.')}.", "mend that first: fit says the same of --data and its settings."
        )
        return
    data.check_matches(experiment.spec, experiment.latent_model.needs)
    sizes, shape = ", ".join(f"{len(images)} {name}" for name, images in data.splits.items()), tuple(data.image_shape)
    empty = min(map(len, data.splits.values())) == 0
    yield finding(not empty, f"there are {sizes} images of shape {shape}.", "keep some of each: --data.val_size.")


def content(case: Case) -> Iterator[Finding]:
    x, levels, data = image_of(case.some), case.data.levels, case.data
    low, high = x.min().item(), x.max().item()
    used = int((torch.histc(x, levels, -0.5, levels - 0.5) > 0).sum())
    binary = "--data.dynamic_binarization true" if (used, low, high) == (2, 0, levels - 1) else "--data.source"
    yield finding(
        used >= max(2, min(levels, x.numel()) / 4),
        f"{used} of the {levels} declared levels occur in {len(x)} training images, between {low:g} and {high:g}.",
        f"declare those that there are ({binary}): the likelihood has to learn that the others never come.",
    )
    constant = (x == x[0]).all(0).double().mean().item()
    said = f"{constant:.1%} of the pixels are the same in all of {len(x)} training images."
    yield finding(constant <= 0.5, said, "crop the images of --data.source: such pixels flatter every number.")
    count, total = data.copies["test", "train"], len(data.splits["test"])
    said = f"{count} of {total} test images are among {len(data.splits['train'])} training images, too."
    yield finding(count <= total / 1000, said, "take them out of --data.source: they measure memory.")
