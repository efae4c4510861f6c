"""Image files as they are, pixel for pixel: what cannot be kept exactly is refused, never converted in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vae_lightning.compression.form import check_names
from vae_lightning.core import Shape
from vae_lightning.data.reading.cache import decode_all
from vae_lightning.data.reading.decode import Decoded, Reading, picture_size
from vae_lightning.data.reading.levels import LEVELS, RangeError
from vae_lightning.data.reading.listing import class_names, class_of, list_images
from vae_lightning.data.reading.native import MODES, UNREADABLE, RefusedError, Seen, composed, is_deep
from vae_lightning.data.say import say

PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
"""Modes of 8 bits a channel or fewer, whose pixels a model's mode may hold exactly."""


def find_files(paths: list[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """All image files that files and folders mean, folders looked through in sorted order, and the name of each: what
    it is called below the one folder given, below its folder's name where there are several, or a file's own name.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a folder without images, or names that are not fit to be written again.
    """
    files: list[Path] = []
    names: list[str] = []
    for path in paths:
        if path.is_dir():
            prefix = "" if len(paths) == 1 else f"{path.resolve().name}/"
            below = list_images(path)
            files += [path / name for name in below]
            names += [prefix + name for name in below]
        elif path.exists():
            files.append(path)
            names.append(path.name)
        else:
            raise FileNotFoundError(f"{path}: expected an image, a folder of images or an array, got nothing there.")
    try:
        check_names(names)
    except ValueError as error:
        raise ValueError(
            f"{error}: rename the file, or give one folder that holds all images in place of several names."
        ) from None
    return files, tuple(names)


def class_labels(names: tuple[str, ...]) -> tuple[tuple[int, ...] | None, tuple[str, ...] | None]:
    """Each image's class, by number, and the classes' names, where every image lies in a folder of its class."""
    classes = class_names(list(names))
    if not classes:
        return None, None
    number = {name: i for i, name in enumerate(classes)}
    return tuple(number[str(class_of(name))] for name in names), tuple(classes)


def read_files(files: list[Path], image_shape: Shape, reading: Reading | None = None) -> Tensor:
    """(N, C, H, W) uint8, the pixels of each file; or what training made of pictures that are transparent or whose
    values it was told the meaning of, which is said, since that is what comes back of them.

    Args:
        files: the pictures.
        image_shape: (C, H, W) that they are to have.
        reading: how training read pictures; None to take no others than those that are kept as they are.
    """
    found = decode_all([str(file) for file in files], lambda name: read_file(Path(name), image_shape, reading))
    transparent = sum(bool(it.seen & Seen.TRANSPARENT) for it in found)
    if reading is not None and transparent:
        of = f"{transparent} of {len(found)} pictures are transparent"
        say(f"{of}: laid on grey {reading.background}, as in training.")
    if reading is not None and reading.by_value:
        span = f"from {reading.window[0]:g} to {reading.window[1]:g} " if reading.window else ""
        say(f"the pictures' values {span}are read as {reading.levels or LEVELS} levels, as in training.")
        if clipped := sum(bool(it.seen & Seen.CLIPPED) for it in found):
            say(f"{clipped} of {len(found)} pictures have values beyond that window, which become its ends.")
    pixels = torch.stack([it.pixels for it in found])
    return pixels.to(torch.int32) if pixels.dtype == torch.uint16 else pixels


def read_file(file: Path, image_shape: Shape, reading: Reading | None = None) -> Decoded:
    """The picture (C, H, W).

    Raises:
        ValueError: no picture, of another size, or one that would not come back as it is.
    """
    channels, height, width = image_shape
    ground = None if reading is None else reading.background
    seen = Seen(0)
    try:
        if reading is not None and reading.by_value:
            if (size := picture_size(file)) != (height, width):
                raise ValueError(_size(*size, height, width))
            return reading.read(file, image_shape)
        with Image.open(file) as opened:
            if (frames := getattr(opened, "n_frames", 1)) > 1:
                raise ValueError(f"expected one picture in a file, got {frames}: save them as files of their own")
            if (opened.height, opened.width) != (height, width) and max(opened.size) > 4 * max(height, width):
                raise ValueError(_size(opened.height, opened.width, height, width))  # before a huge one is decoded
            deep = is_deep(opened)
            if ground is not None and opened.has_transparency_data and not deep and channels < 4:
                picture, seen = composed(opened, ground)
                picture = picture.convert("RGB")
            else:
                picture = ImageOps.exif_transpose(opened)
                if "transparency" in opened.info:
                    picture = picture.convert("RGBA")
    except RangeError as error:
        raise RefusedError(f"{file}: {error.told()}.") from None
    except RefusedError:
        raise
    except UNREADABLE as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{file}: {said if isinstance(error, ValueError) else f'expected an image, got {said}'}."
        ) from None
    if (picture.height, picture.width) != (height, width):
        raise ValueError(f"{file}: {_size(picture.height, picture.width, height, width)}.")
    mode = MODES.get(channels, f"of {channels} channels")
    exact = None if deep or picture.mode not in PLAIN or channels not in MODES else _exactly(picture, mode)
    if exact is None:
        got = f"mode {picture.mode}" if picture.mode in ("F", "I") or not deep else "16 bits a channel"
        raise ValueError(
            f"{file}: expected a picture that mode {mode} with 8 bits a channel holds exactly, as the model needs it, "
            f"got {got}: convert it (remove transparency, colour or depth) and keep the original if you need them."
        )
    pixels = np.asarray(exact).reshape(height, width, channels)
    return Decoded(torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous(), seen)


def has_size(file: Path, image_shape: Shape) -> bool:
    """Whether a file's picture is as large as the images are, upright or on its side (EXIF), by its header alone."""
    try:
        with Image.open(file) as opened:
            return sorted(opened.size) == sorted(image_shape[1:])
    except UNREADABLE:
        return False


def _size(its_height: int, its_width: int, height: int, width: int) -> str:
    return (
        f"expected {height}x{width} pixels, as the model was built for, got {its_height}x{its_width}: bring "
        "the image to that size first, or train a model of its size"
    )


def _exactly(picture: Image.Image, mode: str) -> Image.Image | None:
    """The picture in another mode, where the way back gives the same pixels; else None."""
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGB" if picture.mode == "P" else "RGBA")
    if picture.mode == mode:
        return picture
    changed = picture.convert(mode)
    return changed if np.array_equal(np.asarray(changed.convert(picture.mode)), np.asarray(picture)) else None
