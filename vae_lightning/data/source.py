"""Where images come from: each source yields uint8 tensors and knows its shape and levels before it reads anything."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae_lightning.core import Spec
from vae_lightning.data.captions import Captions
from vae_lightning.data.reading.decode import Reading

Shape = tuple[int, ...]
CHUNK_VALUES = 2**24
"""Values of images that are looked at together at most."""


def find_root(root: str | None) -> Path:
    """--data.root, else the environment variable VAE_LIGHTNING_DATA, else data/."""
    return Path(root or os.environ.get("VAE_LIGHTNING_DATA") or "data").expanduser()


@dataclass(frozen=True)
class Images:
    """Images, in memory or in a memory-mapped file that may be larger than it.

    Args:
        stored: (M, C, H, W) holding 0..levels-1: uint8, or where there are more than 256 levels uint16 or int32.
        label: (N,) int64, or None where there are no classes.
        rows: (N,) int64, which of the stored images these are, where `stored` is a file and not to be copied; None
            for all of them in their order.
        captions: what is said of them, or None.
        columns: what a batch holds beside the images, of what there is: "label", "text", "meaning", "held_out".
        embedding: (N, E) of a frozen tower, which a batch then holds, too; None as long as nobody has worked it out.
        names: (N,) str, of their files below the folder; None where they have none.
    """

    stored: Tensor
    label: Tensor | None = None
    rows: Tensor | None = None
    captions: Captions | None = None
    columns: tuple[str, ...] = ("label", "text")
    embedding: Tensor | None = None
    names: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.stored if self.rows is None else self.rows)

    def __getitem__(self, index: Tensor) -> Images:
        """Those at an index: a copy in memory, or other rows of the same file."""
        chosen = replace(
            self,
            label=None if self.label is None else self.label[index],
            captions=None if self.captions is None else self.captions[index],
            embedding=None if self.embedding is None else self.embedding[index],
            names=None if self.names is None else self.names[index.cpu().numpy()],
        )
        if self.rows is None:
            return replace(chosen, stored=self.stored[index])
        return replace(chosen, rows=self.rows[index])

    def take(self, index: Tensor) -> Tensor:
        """(B,) int64 -> (B, C, H, W) uint8, or int32 of more than 256 levels, on the device where the images are."""
        return _usable(self.stored.index_select(0, index if self.rows is None else self.rows.index_select(0, index)))

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """(B,) int64 -> {"image": (B, C, H, W) as `take`, and of `columns` what there is}, where the images are."""
        batch = {"image": self.take(index)}
        if self.label is not None:
            batch["label"] = self.label.index_select(0, index)
        if self.captions is not None:
            batch |= self.captions.batch(index)
        if self.embedding is not None:
            batch["embedding"] = self.embedding.index_select(0, index)
        return {name: value for name, value in batch.items() if name in ("image", "embedding", *self.columns)}

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[dict[str, Tensor]]:
        """All of them in order, or in that of `order`, `size` at a time, images as float32."""
        order = torch.arange(len(self), device=self.stored.device) if order is None else order
        for part in order.split(size):
            batch = self.batch(part)
            yield {**batch, "image": batch["image"].float()}

    def chunks(self, size: int = 4096) -> Iterator[Tensor]:
        """All images in order, `size` at a time, or fewer where they are large."""
        rows = torch.arange(len(self), device=self.stored.device)
        return (self.take(part) for part in rows.split(self.at_most(size, CHUNK_VALUES)))

    def at_most(self, count: int, values: int) -> int:
        """How many images of `count` hold no more values than so many: at least one."""
        return min(count, max(1, values // self.stored[0].numel())) if len(self.stored) else count

    def some(self, count: int) -> Images:
        """At most `count` of them, evenly over the whole, so of every class where they lie in the order of classes."""
        return self[self.some_rows(count)]

    def some_rows(self, count: int) -> Tensor:
        """Which ones `some` takes, (min(count, N),) int64, rising."""
        count = min(count, len(self))
        return torch.arange(count, device=self.stored.device) * len(self) // max(count, 1)

    @property
    def image(self) -> Tensor:
        """(N, C, H, W) uint8, or int32 of more than 256 levels, all of them in memory."""
        return _usable(self.stored if self.rows is None else self.stored[self.rows])

    def to(self, device: torch.device) -> Images:
        """The images on a device; the same ones where they are there already, or where a file would take more than
        half of what the device has left."""
        if self.stored.device == device or device.type == "cpu" or (self.rows is not None and not self._fit(device)):
            return self
        return replace(
            self,
            stored=self.image.to(device),
            rows=None,
            label=None if self.label is None else self.label.to(device),
            captions=None if self.captions is None else self.captions.to(device),
            embedding=None if self.embedding is None else self.embedding.to(device),
        )

    def _fit(self, device: torch.device) -> bool:
        needed = len(self) * self.stored[0].numel()
        return device.type != "cuda" or 2 * needed < torch.cuda.mem_get_info(device)[0]


def _usable(pixels: Tensor) -> Tensor:
    """16 bits take half the memory where images are kept, but torch has neither a maximum nor a comparison of them."""
    return pixels.to(torch.int32) if pixels.dtype == torch.uint16 else pixels


@dataclass(frozen=True)
class Splits:
    """Training, test and, where the data set comes with one, validation images."""

    train: Images
    test: Images
    val: Images | None = None


def sha256(images: Images) -> str:
    """The beginning of the digest of all bytes."""
    digest = hashlib.sha256()
    for part in images.chunks():
        digest.update(part.numpy().data)
    return digest.hexdigest()[:16]


class ImageSource(ABC):
    """A data set of images."""

    @property
    def name(self) -> str:
        """What files about it are called after."""
        return type(self).__name__

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

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The classes' names in the order of their labels; None where images have no labels."""
        return None

    @property
    def captioned(self) -> bool:
        """Whether its images come with captions."""
        return False

    @property
    def reading(self) -> Reading | None:
        """How picture files become its images, for commands that take files; None of a source without files."""
        return None

    @property
    def found(self) -> dict[str, Any]:
        """Settings of its own, by name, that are worked out from the training images and kept with the model."""
        return {}

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


def require_match(data: Spec, model: Spec, needs: tuple[str, ...]) -> None:
    """Raises ValueError where data are not such as a model was built for, or where it needs labels or text and theirs
    are others."""
    if (data.image_shape, data.levels) != (model.image_shape, model.levels):
        raise ValueError(
            f"the model was built for images of shape {model.image_shape} with {model.levels} levels, got data of "
            f"shape {data.image_shape} with {data.levels}: choose data like those it was trained on (an image "
            "folder can be resized with --data.source.size), or train a model on these."
        )
    if "label" in needs and data.classes != model.classes:
        raise ValueError(
            f"the model was built for the classes {_some(model.classes)}, got data with {_some(data.classes)}: choose "
            "data of the same classes, or train a model on these."
        )
    if "text" in needs and data.text != model.text:
        raise ValueError(
            "the model was built for captions of the tokens it was trained with, got data "
            f"{'without captions' if data.text is None else 'of other tokens'}: choose captioned data, with "
            "data.columns and data.text as they were."
        )


def _some(classes: tuple[str, ...] | None) -> str:
    """The first names."""
    return "none" if not classes else ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
