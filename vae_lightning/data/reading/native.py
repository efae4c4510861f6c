"""A picture's values as its file holds them, at any depth, in their own unit."""

from __future__ import annotations

from enum import IntFlag
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L")
"""Pillow's modes without colours."""
UNREADABLE = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)
LUMA = (0.299, 0.587, 0.114)
"""ITU-R 601-2, as Pillow takes grey of colours."""
DICOM = (".dcm", ".dicom")


class Seen(IntFlag):
    """What a picture was, where its pixels no longer show it."""

    TRANSPARENT = 1
    FRAMES = 2
    DEEP = 4
    EIGHT_BITS = 8
    COLOUR = 16
    CLIPPED = 32


class Native(NamedTuple):
    """A picture's values in their own unit, (H, W, C), of 1 or 3 channels."""

    values: np.ndarray
    seen: Seen


class RefusedError(ValueError):
    """What is to be said of all pictures at once, not of one file that could be left out."""


def is_deep(picture: Image.Image) -> bool:
    """Whether a picture has more than 8 bits a value; Pillow halves 16 bits of colours in silence, which only the last
    words of its tiles tell."""
    return picture.mode.startswith(("I", "F")) or any(
        "16" in str(word) for tile in getattr(picture, "tile", ()) for word in tile[3:]
    )


def composed(opened: Image.Image, background: int | None) -> tuple[Image.Image, Seen]:
    """The picture upright and on its ground, and what it was."""
    seen = Seen.FRAMES if getattr(opened, "n_frames", 1) > 1 else Seen(0)
    picture = ImageOps.exif_transpose(opened)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if np.asarray(picture.getchannel("A")).min() < 255:
            seen |= Seen.TRANSPARENT
        if background is not None:
            below = Image.new("RGBA", picture.size, (*[background] * 3, 255))
            picture = Image.alpha_composite(below, picture)
    return picture, seen


def read_native(file: Path, channels: int, background: int | None) -> Native:
    """A picture's values in their own unit, brought to 1 or 3 channels.

    Raises:
        ValueError, OSError, SyntaxError: not to be read (`UNREADABLE`); or four channels, which deep pictures lack.
    """
    if channels not in (1, 3):
        raise RefusedError(
            f"{file}: expected 1 or 3 channels of pictures by value, got {channels}: choose one of them."
        )
    if file.suffix.lower() in DICOM:
        return Native(as_channels(_dicom(file), channels), Seen.DEEP)
    with Image.open(file) as opened:
        if not is_deep(opened):
            picture, seen = composed(opened, background)
            return Native(
                np.asarray(picture.convert(MODES[channels])).reshape(*picture.size[::-1], channels),
                seen | Seen.EIGHT_BITS | (Seen(0) if opened.mode in GREY else Seen.COLOUR),
            )
        seen = Seen.DEEP | (Seen.FRAMES if getattr(opened, "n_frames", 1) > 1 else Seen(0))
        if opened.format == "PNG":
            values = _png(file)
        elif opened.mode.startswith(("I", "F")):
            values = np.array(ImageOps.exif_transpose(opened))
        elif opened.format == "TIFF":
            values = _tiff(file)
        else:
            raise ValueError(f"expected 8 bits a value, or a 16-bit PNG or TIFF, got {opened.format} of 16 bits")
    values = values[..., None] if values.ndim == 2 else values
    if values.shape[2] in (2, 4):  # the last one is alpha
        most = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1
        alpha = values[..., -1:] / most
        seen |= Seen.TRANSPARENT if (alpha < 1).any() else Seen(0)
        values = values[..., :-1]
        if background is not None:
            on = alpha * values + (1 - alpha) * (background / 255 * most)
            values = on if values.dtype.kind == "f" else np.rint(on).astype(values.dtype)
    return Native(as_channels(values, channels), seen | (Seen.COLOUR if values.shape[2] > 1 else Seen(0)))


def as_channels(values: np.ndarray, channels: int) -> np.ndarray:
    """(H, W) or (H, W, 1 or 3) -> (H, W, channels), of its own kind of numbers."""
    values = values[..., None] if values.ndim == 2 else values
    if values.shape[2] not in (1, 3):
        raise ValueError(f"expected 1 or 3 channels, got {values.shape[2]}")
    if values.shape[2] == channels:
        return values
    if channels == 3:
        return values.repeat(3, -1)
    grey = (values * np.array(LUMA)).sum(-1, keepdims=True)
    return grey if values.dtype.kind == "f" else np.rint(grey).astype(values.dtype)


def _png(file: Path) -> np.ndarray:
    from torchvision.io import ImageReadMode, decode_png, read_file

    found: Any = decode_png(read_file(str(file)), ImageReadMode.UNCHANGED, apply_exif_orientation=True)
    return found.permute(1, 2, 0).numpy()


def _tiff(file: Path) -> np.ndarray:
    tifffile = _optional("tifffile", file, "a 16-bit colour TIFF", "tiff")
    values = np.asarray(tifffile.imread(file, key=0))
    return values.transpose(1, 2, 0) if values.ndim == 3 and values.shape[0] in (3, 4) else values


def _dicom(file: Path) -> np.ndarray:
    """(H, W) in modality units, such as Hounsfield's; of a negative (MONOCHROME1) the positive."""
    pydicom = _optional("pydicom", file, "DICOM", "dicom")
    from pydicom.errors import InvalidDicomError
    from pydicom.pixels import apply_modality_lut

    try:
        found = pydicom.dcmread(file)
        if int(found.get("NumberOfFrames", 1) or 1) > 1:
            raise ValueError(f"expected one picture in a file, got {found.NumberOfFrames} frames: save each as a file")
        raw = found.pixel_array
        if (
            found.get("PhotometricInterpretation") == "MONOCHROME1"
        ):  # a negative: within its bits, the same in all files
            raw = (-1 if found.PixelRepresentation else 2**found.BitsStored - 1) - raw.astype(np.int64)
        return np.asarray(apply_modality_lut(raw, found))
    except (InvalidDicomError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"expected DICOM with pixels, got {' '.join(str(error).split())}") from None


def _optional(module: str, file: Path, what: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise RefusedError(
            f"{file} is {what}, which the package {module} reads: pip install 'vae-lightning[{extra}]'."
        ) from None
