"""Batches of MNIST without a model: the project's loader beside a DataLoader of single items.

python -m benchmarks.data
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import compare, seconds
from benchmarks.images import BinaryMNIST
from vae_lightning.data import ImageData


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


def memory() -> None:
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
        per=("images", len(image)),
    )


if __name__ == "__main__":
    memory()
