"""Sources that are read item by item: any map-style torch data set."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vae_lightning.data.reading.decode import Reading
from vae_lightning.data.reading.levels import LEVELS, check_depth, tensor_of, to_levels
from vae_lightning.data.reading.native import GREY
from vae_lightning.data.say import say
from vae_lightning.data.source import Images, ImageSource, Shape, Splits
from vae_lightning.data.splits import Split

IMAGES, LABELS = ("image", "img", "images", "x", "pixel_values"), ("label", "labels", "y", "target", "fine_label")
"""What an item that is a mapping may call them, the first that is there."""


class ItemSource(ImageSource):
    """Images of data sets that give one item at a time, read into memory once.

    Args:
        reading: how pictures (PIL) become integers, and the levels and window of arrays and tensors.
        test_fraction: share of the images for test where there are none for it.
    """

    def __init__(self, reading: Reading, test_fraction: float) -> None:
        check_depth(type(self).__name__, reading.levels, reading.window)
        if not 0 < test_fraction < 1:
            raise ValueError(f"{type(self).__name__}.test_fraction: expected a share between 0 and 1: {test_fraction}.")
        self._reading, self.test_fraction = reading, test_fraction

    @property
    def reading(self) -> Reading:
        return self._reading

    @property
    @abstractmethod
    def parts(self) -> Mapping[Split, Any]:
        """The data set of each split; what has a length and items by number."""

    @property
    def class_names(self) -> Sequence[str] | None:
        """The classes' names by number, where the data set has them."""
        return None

    @property
    def columns(self) -> tuple[str | None, str | None]:
        """What image and label are called in items; None to find out."""
        return None, None

    def _item(self, part: Split, index: int) -> tuple[Any, Any]:
        """Image and label of an item; None where there is no label."""
        item = self.parts[part][index]
        if isinstance(item, Mapping):
            named = [
                self._column(item, name, known) for name, known in zip(self.columns, (IMAGES, LABELS), strict=True)
            ]
            if named[0] is None:
                raise ValueError(
                    f"{self.name}: expected items with {' or '.join(IMAGES)}, got {', '.join(map(str, item))}."
                )
            return item[named[0]], None if named[1] is None else item[named[1]]
        if isinstance(item, (tuple, list)):
            return item[0], item[1] if len(item) > 1 else None
        return item, None

    def _column(self, item: Mapping[str, Any], name: str | None, known: tuple[str, ...]) -> str | None:
        if name is not None and name not in item:
            raise ValueError(f"{self.name}: expected a column of the data set, {', '.join(item)}, got {name}.")
        return name or next((it for it in known if it in item), None)

    def _pixels(self, image: Any, where: str) -> np.ndarray:
        """(C, H, W) of levels: of a picture or an array channels last, of a tensor channels first."""
        try:
            if isinstance(image, Image.Image):
                return self.reading.picture(image, where)
            values = image.numpy() if isinstance(image, Tensor) else np.asarray(image)
            if values.ndim == 2:
                values = values[None]
            elif values.ndim == 3 and not isinstance(image, Tensor):
                values = values.transpose(2, 0, 1)
            if values.ndim != 3:
                raise ValueError(f"expected an image (C, H, W), or (H, W, C) of NumPy, got the shape {values.shape}")
            return to_levels(values, self.reading.levels, self.reading.window)
        except ValueError as error:
            raise ValueError(f"{where}: {str(error).rstrip('.')}.") from None

    @cached_property
    def image_shape(self) -> Shape:
        if not len(self.parts["train"]):
            raise ValueError(f"{self.name}: expected training images, got none.")
        return self._pixels(self._item("train", 0)[0], f"{self.name}, image 0").shape

    @property
    def levels(self) -> int:
        return self.reading.levels or LEVELS

    @cached_property
    def _read(self) -> dict[Split, tuple[Tensor, list[Any]]]:
        return {part: self._read_part(part) for part in self.parts}

    def _read_part(self, part: Split) -> tuple[Tensor, list[Any]]:
        count = len(self.parts[part])
        dtype = np.uint8 if self.levels <= LEVELS else np.uint16
        pixels, labels = np.empty((count, *self.image_shape), dtype), list[Any]()
        for index in range(count):
            image, label = self._item(part, index)
            found = self._pixels(image, where := f"{self.name}, {part} image {index}")
            if found.shape != pixels.shape[1:]:
                raise ValueError(
                    f"{where}: expected the shape of the first one, {self.image_shape}, got {found.shape}: bring them "
                    "to one size (--data.source.size [H,W] of pictures, or a transform of the data set)."
                )
            pixels[index] = found
            label = label.item() if isinstance(label, (Tensor, np.generic)) and np.ndim(label) == 0 else label
            labels.append(label if isinstance(label, (int, str)) else None)
        return tensor_of(pixels), labels

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        if self.class_names is not None:
            return tuple(map(str, self.class_names))
        labels = self._read["train"][1]
        if None in labels:
            return None
        return tuple(map(str, sorted(set(labels), key=lambda it: (isinstance(it, str), it))))

    def load(self, root: Path, download: bool) -> Splits:
        splits: dict[str, Images] = {}
        for part, (pixels, labels) in self._read.items():
            splits[part] = Images(pixels, None if self.classes is None else self._numbers(part, labels))
        if "test" not in splits:
            order = torch.randperm(len(splits["train"]), generator=torch.Generator().manual_seed(0))
            count = max(1, round(self.test_fraction * len(order)))
            rest, test = order[count:].sort().values, order[:count].sort().values
            splits |= {"test": splits["train"][test], "train": splits["train"][rest]}
        sizes = ", ".join(f"{len(images)} images for {name}" for name, images in splits.items())
        say(f"{self.name}: {sizes}; {len(self.classes or ()) or 'no'} classes.")
        return Splits(**splits)

    def _numbers(self, part: Split, labels: list[Any]) -> Tensor | None:
        if None in labels:
            return None
        if self.class_names is not None and all(isinstance(it, int) for it in labels):
            return torch.tensor(labels, dtype=torch.int64)
        known = {name: i for i, name in enumerate(self.classes or ())}
        if unknown := sorted({str(it) for it in labels} - set(known)):
            some = ", ".join(unknown[:5])
            raise ValueError(f"{self.name}: expected {part} labels that training has, too, got {some}.")
        return torch.tensor([known[str(it)] for it in labels], dtype=torch.int64)


def _first_mode(data: Any) -> str | None:
    """Of the first picture of a data set; None where it holds no pictures."""
    item = data[0] if len(data) else None
    values = item.values() if isinstance(item, Mapping) else item if isinstance(item, (tuple, list)) else (item,)
    return next((it.mode for it in values if isinstance(it, Image.Image)), None)


class MapDataset(ItemSource):
    """Any map-style torch data set, a user's own or torchvision's: items are an image, (image, label), or a mapping.

    An image is a picture (PIL), an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W).

    Args:
        train: the data set of the training images.
        test: that of the test images; null splits some off.
        val: that of the validation images; null lets `data.val_size` split some off.
        levels: how many levels images have, where it is not 256; real numbers in [0, 1] are rounded to so many.
        window: [low, high], in the images' own unit: low and below become 0, high and above the highest level.
        size: (height, width) to bring pictures to.
        channels: of pictures, 1, 3 or 4; null takes those of the first.
        background: grey level that transparent pictures are laid upon.
        test_fraction: share of the images for test where there is no `test`.
    """

    def __init__(
        self,
        train: Dataset,
        test: Dataset | None = None,
        val: Dataset | None = None,
        levels: int | None = None,
        window: tuple[float, float] | None = None,
        size: tuple[int, int] | None = None,
        channels: int | None = None,
        background: int | None = 255,
        test_fraction: float = 0.1,
    ) -> None:
        found = {"train": train, "val": val, "test": test}
        self._parts = {name: it for name, it in found.items() if it is not None}
        for name, it in self._parts.items():
            if not (hasattr(it, "__len__") and hasattr(it, "__getitem__")):
                raise ValueError(
                    f"MapDataset.{name}: expected a data set with a length and items, got {type(it).__name__}."
                )
        if channels is None:
            channels = 1 if _first_mode(train) in GREY else 3
        super().__init__(Reading(channels, size, background=background, window=window, levels=levels), test_fraction)

    @property
    def name(self) -> str:
        return f"{type(self).__name__}-{type(self._parts['train']).__name__}"

    @property
    def parts(self) -> Mapping[Split, Any]:
        return cast(Mapping[Split, Any], self._parts)

    @property
    def class_names(self) -> Sequence[str] | None:
        names = getattr(self._parts["train"], "classes", None)
        return names if isinstance(names, (list, tuple)) and all(isinstance(it, str) for it in names) else None
