"""Image files as they are, pixel for pixel: what cannot be kept exactly is refused, never converted in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vae_lightning.compression.form import check_names
from vae_lightning.core import Shape
from vae_lightning.data.cache import decode_all
from vae_lightning.data.folder import MODES, UNREADABLE, class_names, class_of, list_images

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


def read_files(files: list[Path], image_shape: Shape) -> Tensor:
    """(N, C, H, W) uint8, the pixels of each file."""
    found = decode_all([str(file) for file in files], lambda name: read_file(Path(name), image_shape))
    return torch.stack([image for image in found if isinstance(image, Tensor)])


def read_file(file: Path, image_shape: Shape) -> Tensor:
    """(C, H, W) uint8.

    Raises:
        ValueError: no picture, of another size, or one that would not come back as it is.
    """
    channels, height, width = image_shape
    try:
        with Image.open(file) as opened:
            if (frames := getattr(opened, "n_frames", 1)) > 1:
                raise ValueError(f"expected one picture in a file, got {frames}: save them as files of their own")
            if (opened.height, opened.width) != (height, width) and max(opened.size) > 4 * max(height, width):
                raise ValueError(_size(opened, height, width))  # before a huge one is decoded
            # A tile's last word tells how pixels are packed: Pillow halves 16 bits in silence.
            deep = any("16" in str(word) for tile in opened.tile for word in tile[3:])
            picture = ImageOps.exif_transpose(opened)
            if "transparency" in opened.info:
                picture = picture.convert("RGBA")
    except UNREADABLE as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{file}: {said if isinstance(error, ValueError) else f'expected an image, got {said}'}."
        ) from None
    if (picture.height, picture.width) != (height, width):
        raise ValueError(f"{file}: {_size(picture, height, width)}.")
    mode = MODES.get(channels, f"of {channels} channels")
    exact = None if deep or picture.mode not in PLAIN or channels not in MODES else _exactly(picture, mode)
    if exact is None:
        got = "16 bits a channel" if deep else f"mode {picture.mode}"
        raise ValueError(
            f"{file}: expected a picture that mode {mode} with 8 bits a channel holds exactly, as the model needs it, "
            f"got {got}: convert it (remove transparency, colour or depth) and keep the original if you need them."
        )
    pixels = np.asarray(exact).reshape(height, width, channels)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def has_size(file: Path, image_shape: Shape) -> bool:
    """Whether a file's picture is as large as the images are, upright or on its side (EXIF), by its header alone."""
    try:
        with Image.open(file) as opened:
            return sorted(opened.size) == sorted(image_shape[1:])
    except UNREADABLE:
        return False


def _size(picture: Image.Image, height: int, width: int) -> str:
    return (
        f"expected {height}x{width} pixels, as the model was built for, got {picture.height}x{picture.width}: bring "
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
