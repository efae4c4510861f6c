"""Batches without a model: the project's loader beside a DataLoader of single items, from memory and from a folder.

python -m benchmarks.data
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import arguments, compare, seconds
from benchmarks.images import BinaryMNIST
from vae_lightning.data import ImageData, ImageFolder


class Grey(BinaryMNIST):
    """The same number of images in 256 levels."""

    @property
    def levels(self) -> int:
        return 256

    def load(self, root: Path, download: bool) -> Any:
        splits = super().load(root, download)
        for part in (splits.train, splits.test):
            part.image.mul_(200)
        return splits


class Training:
    """Stands for a Trainer, so that the batches are those of training."""

    training, current_epoch, world_size, global_rank = True, 0, 1, 0

    class strategy:  # noqa: N801
        root_device = torch.device("cpu")


def epoch(data: ImageData) -> float:
    """Every training batch, cast and binarised."""

    def work() -> None:
        for batch in data.loader("train", shuffle=True):
            data.on_after_batch_transfer(batch, 0)

    return seconds(work)


def item_by_item(image: Tensor) -> float:
    """What most projects do, with the decoding left out."""
    loader = DataLoader(TensorDataset(image), batch_size=128, shuffle=True)
    return seconds(lambda: [batch.float() for (batch,) in loader])


def memory(rounds: int) -> None:
    static, dynamic = ImageData(BinaryMNIST()), ImageData(Grey(), dynamic_binarization=True)
    for data in (static, dynamic):
        data.setup()
        data.trainer = Training()  # type: ignore[assignment]
    image = static.splits["train"].image
    compare(
        "data",
        {
            "item by item": lambda: item_by_item(image),
            "vae_lightning": lambda: epoch(static),
            "vae_lightning, binarised at each visit": lambda: epoch(dynamic),
        },
        "item by item",
        rounds,
        per=("images", len(image)),
    )


def paint(folder: Path, count: int) -> None:
    """JPEG files of 32x32 in two classes."""
    rng = np.random.default_rng(0)
    for i in range(count):
        (folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC).save(folder / str(i % 2) / f"{i}.jpg")


def folder(rounds: int, count: int = 10_000) -> None:
    """Seconds of one epoch; those of a start with and without the decoded images there are noted beside it."""
    from torchvision import datasets, transforms

    with tempfile.TemporaryDirectory() as place:
        paint(Path(place) / "images", count)

        def start() -> ImageData:
            data = ImageData(ImageFolder(f"{place}/images", test_fraction=1e-9), root=place, val_size=1)
            data.setup()
            data.trainer = Training()  # type: ignore[assignment]
            return data

        first, second = seconds(start), seconds(start)
        print(f"a first start, which decodes {count} images: {first:.2f} s; a second: {second:.2f} s")
        data = start()
        items = datasets.ImageFolder(f"{place}/images", transforms.PILToTensor())
        loader = DataLoader(items, batch_size=128, shuffle=True)
        compare(
            "data_folder",
            {
                "decoded item by item": lambda: seconds(lambda: [batch.float() for batch, _ in loader]),
                "vae_lightning, mapped": lambda: epoch(data),
            },
            "decoded item by item",
            rounds,
            per=("images", count),
            notes={"first start": first, "second start": second},
        )


if __name__ == "__main__":
    given = arguments(__doc__, 5).parse_args()
    memory(given.rounds)
    folder(given.rounds)
