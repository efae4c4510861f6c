"""The door of the DataModule: all that a source yields is looked at once before anything is trained or measured on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae_lightning.data.say import say
from vae_lightning.data.source import Images, ImageSource, Shape, Splits

NAMES = {"train": "training", "val": "validation", "test": "test"}
MOST_LEVELS = 2**16


def admitted(source: ImageSource, loaded: Any) -> Splits:
    """What a source's `load` returned, as it is.

    Raises:
        ValueError: images of another type, shape or range than the source declares, labels that are not numbers of its
            classes, or no images.
    """
    name, shape, levels = source.name, source.image_shape, source.levels
    if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ValueError(f"{name}.image_shape: expected (channels, height, width), got {tuple(shape)}.")
    if not (isinstance(levels, int) and 2 <= levels <= MOST_LEVELS):
        raise ValueError(f"{name}.levels: expected a whole number from 2 to {MOST_LEVELS}, got {levels}.")
    if not isinstance(loaded, Splits):
        raise ValueError(f"{name}.load: expected Splits of Images, got {_kind(loaded)}: return Splits(train, test).")
    for split, images in vars(loaded).items():
        if split != "val" or images is not None:
            _check(f"{name}: {NAMES[split]} images", images, tuple(shape), levels, source.classes)
    _say_where_narrow(loaded.train, levels)
    return loaded


def _say_where_narrow(train: Images, levels: int) -> None:
    """A sentence where all training images lie in an eighth of the levels: details between two levels are lost."""
    low, high = _extremes(train)
    if low < high < low + levels / 8 - 1:
        say(
            f"the training images take only the levels {low} to {high} of 0..{levels - 1}: what differs by less than "
            "a level is lost. Where a window is too wide for them, narrow it (--data.source.window, or "
            "--data.source.percentiles [0,100]); where there are no other levels, say how many there are "
            "(--data.source.levels)."
        )


def _extremes(images: Images) -> tuple[int, int]:
    """The least and the greatest level of all images."""
    each = torch.tensor([(int(part.min()), int(part.max())) for part in images.chunks()])
    return int(each[:, 0].min()), int(each[:, 1].max())


def _check(what: str, images: Any, shape: Shape, levels: int, classes: tuple[str, ...] | None) -> None:
    if not isinstance(images, Images):
        raise ValueError(f"{what}: expected Images, got {_kind(images)}: wrap the tensor, Images(tensor, label).")
    _check_pixels(what, images.stored, shape, levels)
    if not len(images):
        raise ValueError(f"{what}: expected some, got none: give some.")
    if images.rows is not None:
        _check_numbers(f"{what}, their rows", images.rows, len(images), len(images.stored))
    _check_range(what, images, levels)
    if images.label is not None:
        if not classes:
            raise ValueError(f"{what}: got labels, but the source names no classes: let its `classes` name them.")
        _check_numbers(f"{what}, their labels", images.label, len(images), len(classes))
    for column in ("names", "captions", "embedding"):
        value = getattr(images, column)
        if value is not None and len(value) != len(images):
            raise ValueError(f"{what}: expected as many {column} as images, {len(images)}, got {len(value)}.")


def _check_pixels(what: str, pixels: Any, shape: Shape, levels: int) -> None:
    dtypes = (torch.uint8,) if levels <= 256 else (torch.uint16, torch.int32)
    named = str(dtypes[0]).removeprefix("torch.")
    expected = f"{what}: expected a tensor of {named} (N, {', '.join(map(str, shape))}) holding 0..{levels - 1}"
    if isinstance(pixels, np.ndarray):
        raise ValueError(f"{expected}, got a NumPy array of {pixels.dtype}: torch.from_numpy makes a tensor of one.")
    if not isinstance(pixels, Tensor):
        raise ValueError(f"{expected}, got {_kind(pixels)}.")
    if pixels.dtype not in dtypes:
        span = f" from {pixels.min():g} to {pixels.max():g}" if pixels.numel() and not pixels.is_complex() else ""
        scale = f"where they lie in [0, 1], multiply by {levels - 1}; then " if pixels.is_floating_point() else ""
        raise ValueError(
            f"{expected}, got {str(pixels.dtype).removeprefix('torch.')}{span}: {scale}round to the levels and convert "
            f"with .to(torch.{named})."
        )
    if pixels.dim() != 4 or tuple(pixels.shape[1:]) != shape:
        raise ValueError(
            f"{expected}, got the shape {tuple(pixels.shape)}: let the source's `image_shape` say what its `load` "
            "returns, channels first."
        )


def _check_range(what: str, images: Images, levels: int) -> None:
    if levels == 256 or (levels == MOST_LEVELS and images.stored.dtype == torch.uint16):
        return  # its type can hold no other
    low, high = _extremes(images)
    if low < 0 or high > levels - 1:
        raise ValueError(
            f"{what}: expected the integers 0..{levels - 1} of {levels} levels, got values from {low} to {high}: let "
            "the source's `levels` say how many there are, or bring the images to them."
        )


def _check_numbers(what: str, numbers: Any, count: int, below: int) -> None:
    expected = f"{what}: expected a tensor of int64 ({count},) holding 0..{below - 1}"
    if not isinstance(numbers, Tensor):
        raise ValueError(f"{expected}, got {_kind(numbers)}.")
    if numbers.dtype != torch.int64 or tuple(numbers.shape) != (count,):
        got = str(numbers.dtype).removeprefix("torch.")
        raise ValueError(f"{expected}, got {got} of the shape {tuple(numbers.shape)}.")
    if count and (numbers.min() < 0 or numbers.max() >= below):
        raise ValueError(f"{expected}, got values from {numbers.min()} to {numbers.max()}.")


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")


def look_for_copies(splits: Mapping[str, Images]) -> dict[tuple[str, str], int]:
    """How many images of one split have the very pixels of one of another, by (the one, the other), such as
    ("test", "train"); says what there are.

    Raises:
        ValueError: training images that are all the same.
    """
    marks = {name: _marks(images) for name, images in splits.items()}
    distinct, count = len(np.unique(marks["train"])), len(marks["train"])
    if distinct == 1 < count:
        first = splits["train"].take(torch.zeros(1, dtype=torch.int64))
        shown = f", every value {int(first.max())}" if first.min() == first.max() else ""
        raise ValueError(
            f"expected training images that differ, got {count} that are the same{shown}: look at the files, and "
            "at how they are read (--data.source and its settings)."
        )
    if distinct < count / 2:
        say(f"only {distinct} of {count} training images differ from each other.")
    found = {}
    for one, other in (("val", "train"), ("test", "train"), ("test", "val")):
        found[one, other] = same = int(np.isin(marks[one], marks[other]).sum())
        if same:
            say(
                f"{same} of {len(marks[one])} {NAMES[one]} images have the very pixels of a {NAMES[other]} image: what "
                "is measured on them is memory."
            )
    return found


def count_copies(images: Images, splits: Mapping[str, Images]) -> dict[str, int]:
    """How many images have the very pixels of one of each split, by its name, where there are any."""
    marks = _marks(images)
    found = {NAMES[name]: int(np.isin(marks, _marks(own)).sum()) for name, own in splits.items()}
    return {name: count for name, count in found.items() if count}


def _marks(images: Images) -> np.ndarray:
    """A number for each image, (N,), that is the same for equal pixels and hardly ever for others."""
    rows = (row for part in images.chunks() for row in part.flatten(1).to(torch.int32).numpy())
    return np.fromiter((hash(row.tobytes()) for row in rows), np.int64, len(images))
