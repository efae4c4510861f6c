"""Sources that are read item by item."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_lightning.data.reading.clipping import Clipping
from vae_lightning.data.reading.decode import Reading
from vae_lightning.data.reading.items import Axes, label_of, parted, values_of
from vae_lightning.data.reading.levels import LEVELS, RangeError, Span, check_depth, tensor_of, to_levels
from vae_lightning.data.reading.native import RefusedError, Seen
from vae_lightning.data.reading.tell import LOOKED, tell_seen
from vae_lightning.data.say import say
from vae_lightning.data.source import Images, ImageSource, Shape, Splits
from vae_lightning.data.splits import Split


class ItemSource(ImageSource):
    """Images of data sets that give one item at a time, read into memory once.

    Args:
        reading: how pictures (PIL) become integers, and the levels and window of arrays and tensors.
        test_fraction: share of the images for test where there are none for it.
        use_labels: whether labels are classes; false leaves them out.
        axes: the order of the axes of arrays and tensors; None for that of their kind.
    """

    def __init__(
        self, reading: Reading, test_fraction: float, use_labels: bool = True, axes: Axes | None = None
    ) -> None:
        check_depth(type(self).__name__, reading.levels, reading.window)
        if not 0 < test_fraction < 1:
            raise ValueError(
                f"{type(self).__name__}.test_fraction: expected a share between 0 and 1, got {test_fraction}."
            )
        self._reading, self.test_fraction, self.use_labels, self.axes = reading, test_fraction, use_labels, axes

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
        try:
            item = self.parts[part][index]
        except Exception as error:  # a user's own code
            said = " ".join(str(error).split())[:200]
            got = f"{type(error).__name__}{f': {said}' if said else ''}"
            raise ValueError(
                f"{self.name}: expected an item, got an error from {part} item {index} ({got}): mend the data set."
            ) from error
        try:
            return parted(item, self.columns)
        except ValueError as error:
            raise ValueError(f"{self._place(part, index)}: {error}.") from None

    def _place(self, part: Split, index: int) -> str:
        return f"{self.name}, {part} image {index}"

    def _pixels(self, part: Split, index: int, image: Any, clipping: Clipping) -> tuple[np.ndarray, Seen]:
        """(C, H, W) of levels, and what a picture was."""
        where = self._place(part, index)
        try:
            values, seen = self._values(image, where)
            clipping.add(values[None])
            return to_levels(values, self.reading.levels, self.reading.window), seen
        except RangeError as error:
            raise error.at(where, self._span(part, error.own)) from None
        except RefusedError:
            raise
        except ValueError as error:
            raise ValueError(f"{where}: {error}.") from None

    def _values(self, image: Any, where: str) -> tuple[np.ndarray, Seen]:
        """(C, H, W) in their own unit."""
        if isinstance(image, Image.Image):
            found = self.reading.picture(image, where)
            return found.values.transpose(2, 0, 1), found.seen
        return values_of(image, self.axes), Seen(0)

    def _span(self, part: Split, besides: Span) -> Span:
        """The range of some items' values, evenly over all, and of one item's that is not to be left out."""
        count, found = len(self.parts[part]), list[np.ndarray]()
        for index in range(0, count, -(-count // LOOKED)):
            with suppress(ValueError):  # said where all are read
                image = self._item(part, index)[0]
                found.append(np.asarray(image) if isinstance(image, Image.Image) else values_of(image, self.axes))
        span = Span.over(found, count)
        return span._replace(low=min(span.low, besides.low), high=max(span.high, besides.high))

    @cached_property
    def image_shape(self) -> Shape:
        if not len(self.parts["train"]):
            raise ValueError(f"{self.name}: expected training images, got none.")
        return self._pixels("train", 0, self._item("train", 0)[0], Clipping(None, None))[0].shape

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
        seen, clipping = np.zeros(count, np.uint8), Clipping(self.reading.levels, self.reading.window)
        for index in range(count):
            image, label = self._item(part, index)
            found, seen[index] = self._pixels(part, index, image, clipping)
            if found.shape != pixels.shape[1:]:
                raise ValueError(
                    f"{self._place(part, index)}: expected the shape of the first one, {self.image_shape}, got "
                    f"{found.shape}: bring them to one size (--data.source.size [H,W] of pictures, or a transform of "
                    "the data set)."
                )
            pixels[index] = found
            try:
                labels.append(label_of(label) if self.use_labels else None)
            except ValueError as error:
                raise ValueError(f"{self._place(part, index)}: {error}.") from None
        if None in labels and (known := len(labels) - labels.count(None)):
            raise ValueError(
                f"{self._place(part, labels.index(None))}: expected a label, as {known} of {count} have one, got none: "
                "give it one, or leave labels out with --data.source.use_labels false."
            )
        tell_seen(self.reading, f"{self.name}, {part}", [f"item {index}" for index in range(count)], seen)
        if line := clipping.said(f"{part} images"):
            say(f"{self.name}: {line}")
        return tensor_of(pixels), labels

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        if not self.use_labels:
            return None
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
        bare = [name for name, images in splits.items() if self.classes and images.label is None]
        if "test" not in splits:
            order = torch.randperm(len(splits["train"]), generator=torch.Generator().manual_seed(0))
            count = max(1, round(self.test_fraction * len(order)))
            rest, test = order[count:].sort().values, order[:count].sort().values
            splits |= {"test": splits["train"][test], "train": splits["train"][rest]}
        sizes = ", ".join(f"{len(images)} images for {name}" for name, images in splits.items())
        without = f" (those of {' and '.join(bare)} without)" if bare else ""
        say(f"{self.name}: {sizes}; {len(self.classes or ()) or 'no'} classes{without}.")
        return Splits(**splits)

    def _numbers(self, part: Split, labels: list[Any]) -> Tensor | None:
        if None in labels:
            return None
        known, leave = self.classes or (), "or leave labels out with --data.source.use_labels false"
        if self.class_names is not None and all(isinstance(it, int) for it in labels):
            if beyond := sorted({it for it in labels if not 0 <= it < len(known)}):
                raise ValueError(
                    f"{self.name}: expected {part} labels 0..{len(known) - 1}, the numbers of the data set's classes "
                    f"({', '.join(known[:5])}), got {beyond[0]}: name all classes, {leave}."
                )
            return torch.tensor(labels, dtype=torch.int64)
        numbers = {name: i for i, name in enumerate(known)}
        if unknown := sorted({str(it) for it in labels} - set(numbers)):
            some = ", ".join(unknown[:5])
            raise ValueError(
                f"{self.name}: expected {part} labels that training has, too, got {some}: call them so, {leave}."
            )
        return torch.tensor([numbers[str(it)] for it in labels], dtype=torch.int64)
