"""Images in an array's file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vae_lightning.data.array_files import LABELS, Part, first, flat, named, no_images, open_arrays
from vae_lightning.data.reading.clipping import Clipping
from vae_lightning.data.reading.decode import Reading
from vae_lightning.data.reading.levels import (
    LEVELS,
    NOT_FINITE,
    RangeError,
    Span,
    Window,
    check_depth,
    percentile_window,
    tensor_of,
    to_levels,
)
from vae_lightning.data.say import say
from vae_lightning.data.source import Images, ImageSource, Shape, Splits

Axes = Literal["NHW", "NHWC", "NCHW"]
CHANNELS = (1, 3, 4)
SAMPLED_VALUES, CHUNK_VALUES = 2**22, 2**24


class Arrays(ImageSource):
    """Images of one .npy, .npz or .pt file: (N, H, W), (N, H, W, C) or (N, C, H, W); a .npy is mapped, not read.

    A .npz or .pt may hold labels as well (`images` and `labels`, or `x` and `y`), and splits (`x_train`, `y_train`,
    `x_test`, ..., or `train_images`, ...). Where it holds no test images, a part is split off by a fixed seed.

    Integers 0..255 are levels as they are; values of another kind need `levels`, `window` or `percentiles`.

    Args:
        path: the file, as it stands or below the folder of the data sets.
        labels: file of the labels, .npy, .npz or .pt, (N,) integers or words; null for those beside the images in a
            .npz or .pt, or none.
        axes: the order of the images' axes; null finds out where there is one way.
        levels: how many levels images have: of integers as many as they have, of real numbers in [0, 1] or with a
            window as many as they are rounded to; null for 256, or 2 of booleans.
        window: [low, high], in the array's own unit: low and below become 0, high and above the highest level.
        percentiles: [low, high] of the training images' values (validation images that are split off among them),
            in the place of a window; the checkpoint keeps the window that they give.
        test_fraction: share of the images for test where the file holds none for it.
    """

    def __init__(
        self,
        path: str,
        labels: str | None = None,
        axes: Axes | None = None,
        levels: int | None = None,
        window: tuple[float, float] | None = None,
        percentiles: tuple[float, float] | None = None,
        test_fraction: float = 0.1,
    ) -> None:
        check_depth("Arrays", levels, window, percentiles)
        if not 0 < test_fraction < 1:
            raise ValueError(f"Arrays.test_fraction: expected a share between 0 and 1, got {test_fraction}.")
        self.path, self.labels = Path(path).expanduser(), None if labels is None else Path(labels).expanduser()
        self.axes, self._levels, self.percentiles, self.test_fraction = axes, levels, percentiles, test_fraction
        self.window: Window | None = None if window is None else (window[0], window[1])

    @property
    def name(self) -> str:
        return f"{type(self).__name__}-{self.path.stem}"

    def find(self, root: Path) -> None:
        if not self.path.exists() and (root / self.path).exists():
            self.path = root / self.path
        if self.labels is not None and not self.labels.exists() and (root / self.labels).exists():
            self.labels = root / self.labels

    @cached_property
    def _parts(self) -> dict[str, Part]:
        """Every split, as it is stored."""
        found = open_arrays(self.path)
        parts = named(self.path, found) if isinstance(found, Mapping) else {"train": Part(found)}
        if self.labels is not None:
            if len(parts) > 1:
                raise ValueError(f"{self.path} holds splits with labels of their own: leave --data.source.labels out.")
            label = open_arrays(self.labels)
            label = first(self.labels, label, LABELS) if isinstance(label, Mapping) else label
            parts["train"] = Part(parts["train"].pixels, label)
        for name, (pixels, label, _) in parts.items():
            if pixels.ndim < 3 or not len(pixels):
                raise ValueError(f"{self.path}: expected {name} images {no_images(pixels.shape)}.")
            if label is not None and len(label) != len(pixels):
                got = f"{len(pixels)}, got {len(label)}"
                raise ValueError(f"{self.path}: expected as many {name} labels as images, {got}: leave out the others.")
            parts[name] = Part(pixels, None if label is None else flat(self.path, label))
        if "test" not in parts:
            pixels, label, _ = parts["train"]
            if len(pixels) < 2:
                raise ValueError(f"{self.path}: expected at least two images, got one: give more.")
            order = np.random.default_rng(0).permutation(len(pixels))
            count = max(1, round(self.test_fraction * len(order)))
            for name, rows in (("test", np.sort(order[:count])), ("train", np.sort(order[count:]))):
                parts[name] = Part(pixels, None if label is None else label[rows], rows)
        return parts

    @cached_property
    def _order(self) -> Axes:
        shape = self._parts["train"].pixels.shape
        expected = "(N, H, W), (N, H, W, C) or (N, C, H, W), C being 1, 3 or 4"
        fit: list[Axes] = ["NHW"] if len(shape) == 3 else []
        if len(shape) == 4:
            fit += ["NHWC"] if shape[3] in CHANNELS else []
            fit += ["NCHW"] if shape[1] in CHANNELS else []
        if self.axes is not None:
            if len(self.axes) != len(shape) or 0 in shape:
                raise ValueError(f"{self.path}: expected {len(self.axes)} axes {self.axes}, got the shape {shape}.")
            return self.axes
        if not fit or 0 in shape:
            raise ValueError(f"{self.path}: expected images {expected}, got the shape {shape}: bring them to it.")
        if len(shape) == 3 and shape[0] == shape[1] < shape[2] / 4:
            raise ValueError(
                f"{self.path}: expected images (N, H, W), got the shape {shape}, which seems to be (H, W, N): save "
                "x.transpose(2, 0, 1), or say that it is as it should be by --data.source.axes NHW."
            )
        if len(fit) > 1:
            raise ValueError(
                f"{self.path}: expected one way to read the shape {shape}, got {' and '.join(fit)}: say which, "
                "--data.source.axes NHWC (channels last) or NCHW."
            )
        return fit[0]

    def _channels_first(self, pixels: np.ndarray) -> np.ndarray:
        """(N, C, H, W), a view."""
        if self._order == "NHW":
            return pixels[:, None]
        return pixels.transpose(0, 3, 1, 2) if self._order == "NHWC" else pixels

    @property
    def image_shape(self) -> Shape:
        return tuple(int(side) for side in self._channels_first(self._parts["train"].pixels).shape[1:])

    @property
    def levels(self) -> int:
        is_bool = self._parts["train"].pixels.dtype.kind == "b" and self.window is None
        return self._levels or (2 if is_bool else LEVELS)

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        label = self._parts["train"].label
        return None if label is None else tuple(str(it) for it in np.unique(label).tolist())

    @property
    def reading(self) -> Reading | None:
        if self.window is None and self._levels is None:
            return None
        return Reading(self.image_shape[0], window=self.window, levels=self._levels)

    @cached_property
    def found(self) -> dict[str, Any]:
        if self.percentiles is None or self.window is not None:
            return {}
        pixels, _, rows = self._parts["train"]
        rows = np.arange(len(pixels)) if rows is None else rows
        every = -(-len(rows) * pixels[0].size // SAMPLED_VALUES)
        values = [pixels[row].ravel()[::every] for row in rows]
        if (odd := next((row for row, it in zip(rows, values, strict=True) if not _finite(it)), None)) is not None:
            raise ValueError(f"{self.path}, image {odd}: {NOT_FINITE}.")
        window = percentile_window(values, self.percentiles)
        return {"window": window, "percentiles": None}

    def load(self, root: Path, download: bool) -> Splits:
        if self.window is None and self.percentiles is not None:
            self.window = self.found["window"]
        dtype = self._parts["train"].pixels.dtype
        meant = f"{self.levels} levels"
        if self.window is not None:
            meant = f"values from {self.window[0]:g} to {self.window[1]:g} as {meant}"
        elif dtype.kind == "f":
            meant = f"values in [0, 1] rounded to {meant}"
        whole, splits = dict[int, Tensor](), dict[str, Any]()
        for name, (pixels, label, rows) in self._parts.items():
            if id(pixels) not in whole:
                whole[id(pixels)] = self._integers(name, pixels)
            index = None if rows is None else torch.from_numpy(rows)
            splits[name] = Images(whole[id(pixels)], None if label is None else self._numbers(name, label), index)
        sizes = ", ".join(f"{len(images)} for {name}" for name, images in splits.items())
        say(f"{self.path}: {dtype} {self._order}, {meant}; {sizes}; {len(self.classes or ()) or 'no'} classes.")
        return Splits(**splits)

    def _integers(self, name: str, pixels: np.ndarray) -> Tensor:
        """(N, C, H, W) of levels: a view of a mapped file, where it holds them already."""
        if pixels.shape[1:] != self._parts["train"].pixels.shape[1:]:
            raise ValueError(
                f"{self.path}: expected {name} images of the training images' shape, got {pixels.shape}: bring them "
                "to it."
            )
        stored = self._channels_first(pixels)
        step = max(1, CHUNK_VALUES // max(1, stored[0].size))
        parts, clipped = [stored[i : i + step] for i in range(0, len(stored), step)], Clipping(self.levels, self.window)
        try:
            if stored.dtype != np.uint8 or self.window is not None or self.levels > LEVELS:
                found = [to_levels(it, self._levels, self.window) for it in parts]
                for part in parts:
                    clipped.add(part)
                if line := clipped.said(f"{name} images"):
                    say(f"{self.path}: {line}")
                return tensor_of(np.concatenate(found))
            most = max(int(it.max()) for it in parts)
            if most >= self.levels:
                raise RangeError(f"0..{self.levels - 1}", Span(min(float(it.min()) for it in parts), most, real=False))
        except RangeError as error:
            every = Span.over(parts, len(parts))
            raise RangeError(error.expected, every, error.kind, str(self.path), percentiles=True) from None
        except ValueError as error:
            rows = (i for i, row in enumerate(stored) if not _finite(row))
            first = next(rows, None)
            where = "" if first is None else f", {name} image {first}"
            raise ValueError(f"{self.path}{where}: {error}.") from None
        if self._levels is None and most <= 1:
            raise ValueError(
                f"{self.path}: expected 0..255, got none above {most}: say that the images are binary with "
                "--data.source.levels 2, or scale them."
            )
        return _shared(stored)

    def _numbers(self, name: str, label: np.ndarray) -> Tensor:
        """(N,) words or integers -> the numbers of the training images' classes."""
        known = {it: i for i, it in enumerate(self.classes or ())}
        if unknown := sorted({str(it) for it in np.unique(label).tolist()} - set(known)):
            some = ", ".join(unknown[:5])
            raise ValueError(f"{self.path}: expected {name} labels that training has, too, got {some}.")
        return torch.tensor([known[str(it)] for it in label.tolist()], dtype=torch.int64)


def _finite(values: np.ndarray) -> bool:
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _shared(array: np.ndarray) -> Tensor:
    """The array as a tensor on its very memory, though it may be read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*not writable.*")
        return torch.from_numpy(array)
