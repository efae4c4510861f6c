"""A picture's file as integers, the same way wherever one is read: in training, and by commands that take files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from vae_lightning.core import Shape
from vae_lightning.data.reading.clipping import beyond
from vae_lightning.data.reading.levels import LEVELS, RangeError, Span, Window, tensor_of, to_levels
from vae_lightning.data.reading.native import (
    DICOM,
    GREY,
    MODES,
    UNREADABLE,
    Native,
    RefusedError,
    Seen,
    as_channels,
    composed,
    is_deep,
    read_native,
)


class Decoded(NamedTuple):
    """A picture (C, H, W), uint8 or uint16, and what it was."""

    pixels: Tensor
    seen: Seen = Seen(0)


ORIENTATION = 0x0112
"""The tag by which a camera says how to turn a picture; from 5 on by a quarter."""


@dataclass(frozen=True)
class Reading:
    """How a picture becomes integers.

    Args:
        channels: 1 for grey, 3 for RGB, 4 for RGBA.
        size: (height, width); None takes a picture as it is.
        crop: cover `size` and cut the centre out, or stretch.
        background: grey level, 0 to 255, below what is transparent; None leaves transparency out.
        window: ends of the range that becomes 0..levels-1; see `to_levels`.
        levels: how many, where pictures have more or fewer than 256.
    """

    channels: int = 3
    size: tuple[int, int] | None = None
    crop: bool = True
    background: int | None = 255
    window: Window | None = None
    levels: int | None = None

    @property
    def by_value(self) -> bool:
        """Whether values are read in their own unit, and not as 8 bits."""
        return self.window is not None or self.levels is not None

    @property
    def meaning(self) -> str:
        """What values are taken for, behind a line about a folder; empty of 8 bits."""
        by = f"; values from {self.window[0]:g} to {self.window[1]:g} become" if self.window else "; values of"
        return f"{by} {self.levels or LEVELS} levels" if self.by_value else ""

    def read(self, file: Path, shape: Shape) -> Decoded:
        """The picture of a file.

        Args:
            file: in any format that Pillow reads, 16-bit PNG by torchvision, 16-bit colour TIFF by tifffile, DICOM by
                pydicom.
            shape: (C, H, W) that it is to have.

        Raises:
            ValueError, OSError, SyntaxError: not to be read (`UNREADABLE`).
            RefusedError: of another size, where none is asked for.
            RangeError: values that nothing says the meaning of.
        """
        if self.by_value:
            values, seen = self.values(file, shape)
            return Decoded(tensor_of(self._leveled(values, str(file))), seen | self._clipped(values))
        if file.suffix.lower() in DICOM:
            raise deep(read_native(file, 3, None).values).at(str(file))
        with Image.open(file) as opened:
            if is_deep(opened):
                raise deep(read_native(file, 3, None).values).at(str(file))
            seen = Seen(0) if opened.mode in GREY else Seen.COLOUR
            picture, was = composed(opened, self.background)
            picture = picture.convert(MODES[self.channels])
        return Decoded(tensor_of(self._bytes(file, picture, shape)), seen | was)

    def values(self, file: Path, shape: Shape) -> Native:
        """The picture's values in their own unit, brought to its size."""
        found = read_native(file, self.channels, self.background)
        return Native(self._sized(file, found.values, shape), found.seen)

    def picture(self, opened: Image.Image, where: str) -> Native:
        """The values (H, W, C) of a picture that is in memory, likewise in their own unit and brought to its size.

        Args:
            opened: the picture.
            where: what to call it in an error.

        Raises:
            RefusedError: of another size, where none is asked for.
            RangeError: deeper than 8 bits, where nothing says what that is to mean; as yet without its place.
        """
        shape = (self.channels, *(self.size or (opened.height, opened.width)))
        if is_deep(opened):
            values = as_channels(np.array(opened), self.channels)
            if not self.by_value:
                raise deep(values)
            return Native(self._sized(where, values, shape), Seen.DEEP)
        picture, seen = composed(opened, self.background)
        seen |= Seen(0) if opened.mode in GREY else Seen.COLOUR
        pixels = self._bytes(
            where, picture.convert(MODES[self.channels]), (self.channels, *(self.size or picture.size[::-1]))
        )
        return Native(pixels.transpose(1, 2, 0), seen | (Seen.EIGHT_BITS if self.by_value else Seen(0)))

    def _leveled(self, values: np.ndarray, where: str) -> np.ndarray:
        """(H, W, C) values -> (C, H, W) levels."""
        try:
            return to_levels(values, self.levels, self.window).transpose(2, 0, 1)
        except RangeError as error:
            raise error.at(where) from None
        except ValueError as error:
            raise RefusedError(f"{where}: {error}.") from None

    def _clipped(self, values: np.ndarray) -> Seen:
        clipped = self.window is not None and beyond(values, self.levels, self.window).any()
        return Seen.CLIPPED if clipped else Seen(0)

    def _bytes(self, file: Path | str, picture: Image.Image, shape: Shape) -> np.ndarray:
        """(C, H, W) of a picture of 8 bits a value, brought to its size."""
        _, height, width = shape
        if (picture.height, picture.width) != (height, width):
            self._require_size(file, picture.height, picture.width, shape)
            picture = ImageOps.fit(picture, (width, height)) if self.crop else picture.resize((width, height))
        return np.array(picture).reshape(height, width, self.channels).transpose(2, 0, 1)

    def _require_size(self, file: Path | str, height: int, width: int, shape: Shape) -> None:
        if self.size is None:
            raise RefusedError(
                f"{file} is {height}x{width}, while the first image is {shape[1]}x{shape[2]}: bring them to one size "
                f"with --data.source.size [{shape[1]},{shape[2]}]."
            )

    def _sized(self, file: Path | str, values: np.ndarray, shape: Shape) -> np.ndarray:
        """(H, W, C) values of the size, integers as integers."""
        _, height, width = shape
        if values.shape[:2] == (height, width):
            return values
        self._require_size(file, values.shape[0], values.shape[1], shape)
        planes = [Image.fromarray(values[..., i].astype(np.float32)) for i in range(values.shape[2])]
        resized = [ImageOps.fit(it, (width, height)) if self.crop else it.resize((width, height)) for it in planes]
        found = np.stack([np.asarray(it) for it in resized], -1).clip(values.min(), values.max())  # without overshoot
        return found if values.dtype.kind == "f" else np.rint(found).astype(np.int64)


def picture_size(file: Path) -> tuple[int, int]:
    """(height, width) of the upright picture."""
    if file.suffix.lower() in DICOM:
        height, width, _ = read_native(file, 1, None).values.shape
        return height, width
    with Image.open(file) as opened:
        turned = opened.getexif().get(ORIENTATION, 1) >= 5
        return (opened.width, opened.height) if turned else (opened.height, opened.width)


def stored_channels(files: list[Path]) -> int:
    """1 where pictures are stored in grey, as all DICOM is here, 3 where one is not, or none can be read."""
    modes = []
    for file in files:
        if file.suffix.lower() in DICOM:
            modes.append("F")
            continue
        with suppress(*UNREADABLE), Image.open(file) as opened:
            modes.append(opened.mode)
    return 1 if modes and set(modes) <= set(GREY) else 3


def deep(values: np.ndarray) -> RangeError:
    """What to say of a picture that is deeper than 8 bits, as yet without its place."""
    own = Span.over([values], 1)
    return RangeError("8 bits a value", own, "real numbers," if own.real else "more than 8 bits a value,")
