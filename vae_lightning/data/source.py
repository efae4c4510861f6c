"""Where images come from: each source yields uint8 tensors and knows its shape and levels before it reads anything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Images:
    """image: (N, C, H, W) uint8 holding 0..levels-1; label: (N,) int64, or None where there are no classes."""

    image: Tensor
    label: Tensor | None = None

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: Tensor) -> Images:
        return Images(self.image[index], None if self.label is None else self.label[index])

    def to(self, device: torch.device) -> Images:
        """The images on a device; the same ones where they are there already."""
        return Images(self.image.to(device), None if self.label is None else self.label.to(device))


@dataclass(frozen=True)
class Splits:
    """Training, test and, where the data set comes with one, validation images."""

    train: Images
    test: Images
    val: Images | None = None


class ImageSource(ABC):
    """A data set of images."""

    def find(self, root: Path) -> None:
        """Told once, before all else, which folder holds the data sets; for a source whose shape lies in its files."""
        return

    @property
    @abstractmethod
    def image_shape(self) -> Shape:
        """(C, H, W)."""

    @property
    @abstractmethod
    def levels(self) -> int:
        """How many values a pixel can take: images hold the integers 0..levels-1."""

    @abstractmethod
    def load(self, root: Path, download: bool) -> Splits:
        """Reads the images found under `root`, downloading them first where they are missing and `download` is set.

        Raises:
            FileNotFoundError: not there, and not to be had; says where they were looked for.
            ValueError: there, but damaged; names the file.
        """


def not_found(what: str, expected: Path, reason: str) -> FileNotFoundError:
    """The one sentence for data that is not there."""
    return FileNotFoundError(
        f"{what}: expected {expected}, which is not there, and {reason}. Put the files there, or say where they are "
        "with --data.root or the environment variable VAE_LIGHTNING_DATA."
    )


def damaged(path: Path, found: str) -> ValueError:
    """The one sentence for data that is there and wrong."""
    return ValueError(f"{path} is damaged ({found}): delete it and fetch it again.")
