"""The checks of the data themselves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch

from vae_lightning.core import image_of
from vae_lightning.data import ImageData
from vae_lightning.doctor.findings import Case, Finding, finding, spread
from vae_lightning.train.module import Experiment


def look_at_data(experiment: Experiment, data: ImageData) -> Iterator[Finding]:
    data.setup()
    data.check_matches(experiment.spec, experiment.latent_model.needs)
    sizes, shape = ", ".join(f"{len(images)} {name}" for name, images in data.splits.items()), tuple(data.image_shape)
    empty = min(map(len, data.splits.values())) == 0
    yield finding(not empty, f"there are {sizes} images of shape {shape}.", "keep some of each: --data.val_size.")
    for name, images in data.splits.items():
        levels = data.source.levels if name == "train" else data.levels  # training's are binarised at each visit
        x = images.take(spread(images.stored, len(images)))
        yield finding(
            bool(((x >= 0) & (x <= levels - 1) & (x == x.round())).all()),
            f"{name} images hold values between {x.min():g} and {x.max():g}, and {levels} levels mean 0..{levels - 1}.",
            "let --data.source declare the levels it has, or round and scale its images; grey ones become binary with "
            "--data.dynamic_binarization true. The model is looked at once this is mended.",
        )


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
    test = data.source.load(data.root, False).test if data.dynamic_binarization else data.splits["test"]
    chunks = [islice(images.chunks(), 1 + 2**18 // x[0].numel()) for images in (test, data.splits["train"])]  # a GiB
    rows = [[hash(row.tobytes()) for part in parts for row in part.cpu().flatten(1).numpy()] for parts in chunks]
    count = sum(map(set(rows[1]).__contains__, rows[0]))
    said = f"{count} of {len(rows[0])} test images are among {len(rows[1])} training images, too."
    yield finding(count <= len(rows[0]) / 1000, said, "take them out of --data.source: they measure memory.")
