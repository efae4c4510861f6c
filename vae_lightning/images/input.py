"""What a user gives to be compressed or weighed - files, folders, an array, or a split of the model's data - as integer
images."""

from __future__ import annotations

import difflib
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae_lightning.checkpoint import RECORD, find_checkpoint, read_checkpoint
from vae_lightning.compression.form import DTYPES, Form, InputImages
from vae_lightning.core import Shape, Spec
from vae_lightning.data import ImageData
from vae_lightning.data.array_files import IMAGES, LABELS
from vae_lightning.data.build import build_data
from vae_lightning.data.reading.clipping import Clipping
from vae_lightning.data.reading.decode import Reading
from vae_lightning.data.reading.levels import LEVELS, RangeError, to_levels
from vae_lightning.data.say import say
from vae_lightning.images.files import class_labels, find_files, has_size, read_files

SPLITS = ("train", "val", "test")
ARRAYS = (".npy", ".npz")


def read_images(
    sources: list[str], spec: Spec, checkpoint: Path, needs: tuple[str, ...] = (), reading: Reading | None = None
) -> InputImages:
    """The images that a command was sources; for a model that needs labels, with the numbers that its classes have.

    Args:
        sources: image files and folders; or one array, .npy or .npz; or one word, train, val or test.
        spec: of the model's images.
        checkpoint: whose record says which data the splits are.
        needs: what the model is told of an image, ("label",) or nothing.
        reading: how training read images; None for what the checkpoint says of it.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: images that are not such as the model was built for, or would not come back as they are; or, where
            the model needs labels, images without, or of classes that it does not have.
    """
    found = _read(sources, spec, checkpoint, needs, reading)
    if "label" not in needs:
        return found
    labels = by_name(found.form.labels, found.form.classes, spec, sources[0])
    return replace(found, form=replace(found.form, labels=labels, classes=spec.classes or ()))


def _read(
    sources: list[str], spec: Spec, checkpoint: Path, needs: tuple[str, ...], reading: Reading | None
) -> InputImages:
    image_shape, levels = spec.image_shape, spec.levels
    apart = [word for word in sources if word in SPLITS or Path(word).suffix.lower() in ARRAYS]
    if apart and len(sources) > 1:
        raise ValueError(
            f"IMAGES: expected image files and folders, or one array, or one split, got {apart[0]} among "
            f"{len(sources)}: give each its own command."
        )
    if sources[0] in SPLITS:
        return _split(sources[0], spec, checkpoint, needs)
    paths = [Path(word).expanduser() for word in sources]
    reading = reading or read_reading(checkpoint)
    if apart and not paths[0].is_dir():
        return _array(paths[0], image_shape, levels, reading)
    files, names = find_files(paths)
    image, white = _integers(read_files(files, image_shape, reading), levels, [str(file) for file in files])
    labels, classes = class_labels(names)
    return InputImages(image, Form("files", white=white, names=names, labels=labels, classes=classes), tuple(files))


def by_name(labels: tuple[int, ...] | None, named: tuple[str, ...] | None, spec: Spec, source: str) -> tuple[int, ...]:
    """The numbers that the model's classes have: those of folders by their names, others as they are."""
    classes = spec.classes or ()
    if labels is None:
        raise ValueError(
            f"{source}: expected images with their classes, as this model is told them, got images without: give a "
            "folder with a sub-folder a class, a .npz array with `label`, or a split of the model's data."
        )
    if named is not None:
        for name in named:
            if name not in classes:
                near = difflib.get_close_matches(name, classes, n=3, cutoff=0.0)
                raise ValueError(
                    f"{source}: expected sub-folders called as the model's classes are, got {name!r}, which is none: "
                    f"rename it, maybe to {' or '.join(map(repr, near))}."
                )
        return tuple(classes.index(named[label]) for label in labels)
    if unknown := [label for label in labels if not 0 <= label < len(classes)]:
        raise ValueError(
            f"{source}: expected labels 0..{len(classes) - 1}, the numbers of the model's classes, got {unknown[0]}: "
            f"give those of {', '.join(classes[:10])} in this order."
        )
    return labels


def data_of(checkpoint: Path) -> ImageData:
    """The data that a model was trained on, by its checkpoint's record, not yet read."""
    return build_data(read_checkpoint(find_checkpoint(checkpoint))[RECORD]["config"]["data"])


def read_reading(checkpoint: Path) -> Reading | None:
    """How the data that a model was trained on read pictures, by its checkpoint's record; None where that says nothing
    of it, or its source is not here."""
    try:
        return build_data(read_checkpoint(find_checkpoint(checkpoint))[RECORD]["config"]["data"]).source.reading
    except (ValueError, OSError, ImportError):
        return None


def read_data(checkpoint: Path) -> ImageData:
    """The data that a model was trained on, by its checkpoint's record."""
    data = data_of(checkpoint)
    data.setup()
    return data


def _split(split: str, spec: Spec, checkpoint: Path, needs: tuple[str, ...]) -> InputImages:
    data = read_data(checkpoint)
    data.check_matches(spec, needs)
    images = data.fixed(split)  # type: ignore[arg-type]
    labels = None if images.label is None else tuple(images.label.tolist())
    return InputImages(images.image, Form("split", labels=labels), split_files(data, split))


def split_files(data: ImageData, split: str) -> tuple[Path, ...]:
    """The image files of a split, in its order; none where its source has no such files, or where one of them is of
    another size than the split's images, so that these are no copies of it."""
    names = data.splits[split].names
    folder = getattr(getattr(data.source, "folder", data.source), "path", None)  # of captioned pictures, their folder's
    if names is None or folder is None:
        return ()
    files = tuple(Path(folder) / name for name in names)
    return files if all(has_size(file, data.image_shape) for file in files) else ()


def _array(path: Path, image_shape: Shape, levels: int, reading: Reading | None) -> InputImages:
    """A .npy of the images, or a .npz with `image` and, where there are classes, `label`; where training was told what
    values mean, read in its way."""
    array, label = _load(path)
    if reading is not None and reading.by_value:
        clipped = Clipping(reading.levels, reading.window)
        clipped.add(array)
        try:
            array = to_levels(array, reading.levels, reading.window)
        except ValueError as error:
            raise ValueError(f"{path}: {error.told() if isinstance(error, RangeError) else error}.") from None
        say(f"{path}: values are read as {reading.levels or LEVELS} levels, as in training.")
        if line := clipped.said():
            say(f"{path}: {line}")
    if array.dtype.str not in DTYPES:
        raise ValueError(
            f"{path}: expected integers 0..{levels - 1}, got an array of {array.dtype}: scale it to them, round, and "
            "save it as uint8."
        )
    channels, height, width = image_shape
    shapes: dict[str, tuple[int, ...]] = {"NCHW": (channels, height, width), "NHWC": (height, width, channels)}
    shapes |= {"NHW": (height, width)} if channels == 1 else {}
    axes = next((axes for axes, shape in shapes.items() if array.shape[1:] == shape), None)
    if axes is None or not len(array):
        fit = " or ".join(f"(N, {', '.join(map(str, shape))})" for shape in shapes.values())
        remedy = "bring the images to that size first"
        if channels == 3 and array.shape[1:] in ((height, width), (height, width, 1), (1, height, width)):
            remedy = f"give grey its three channels, x.reshape(-1, {height}, {width}, 1).repeat(3, -1)"
        raise ValueError(
            f"{path}: expected an array {fit}, as the model was built for, got {array.shape}: {remedy}, or train a "
            "model of theirs."
        )
    if not 0 <= int(array.min()) <= int(array.max()) <= max(255, levels - 1):
        raise ValueError(_range(str(path), levels, f"values from {array.min()} to {array.max()}"))
    ordered = {"NCHW": array, "NHWC": array.transpose(0, 3, 1, 2) if array.ndim == 4 else array, "NHW": array}[axes]
    dtype = np.uint8 if levels <= LEVELS else np.int32
    pixels = np.array(ordered, dtype=dtype, order="C").reshape(-1, *image_shape)
    image, white = _integers(torch.from_numpy(pixels), levels, [str(path)])
    labels = None
    if label is not None:
        if label.shape != (len(array),) or label.dtype.kind not in "iu":
            raise ValueError(
                f"{path}: expected as many integers in `label` as images, {len(array)}, got {label.shape} of "
                f"{label.dtype}."
            )
        labels = tuple(label.tolist())
    return InputImages(image, Form("array", axes, array.dtype.str, white, labels=labels), (path,))


def _load(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        found: Any = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found, None
        with found:
            image, label = (next((found[it] for it in names if it in found), None) for names in (IMAGES, LABELS))
            if image is None:
                raise KeyError(f"arrays {', '.join(found)}")
            return image, label
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: expected an array of images, got nothing there.") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{path}: expected an array of images (in a .npz: `image`), got something else: {said}."
        ) from None


def _integers(image: Tensor, levels: int, sources: list[str]) -> tuple[Tensor, int]:
    """Integers 0..levels-1, and what a 1 was in the images as they came.

    Raises:
        ValueError: values that the model gives no probability.
    """
    if levels == 2 and image.max() > 1:
        grey = ((image != 0) & (image != 255)).flatten(1).any(1)
        if not grey.any():
            return image // 255, 255
        row = int(grey.nonzero()[0])
        got = f"the value {int(image[row][(image[row] != 0) & (image[row] != 255)][0])}"
        raise ValueError(
            f"{sources[min(row, len(sources) - 1)]}: expected binary images, all of them 0 and 255 or all of them 0 "
            f"and 1, got {got}: binarise first, or give a model of 256 levels."
        )
    if image.max() > levels - 1:
        row = int((image > levels - 1).flatten(1).any(1).nonzero()[0])
        raise ValueError(_range(sources[min(row, len(sources) - 1)], levels, f"the value {int(image[row].max())}"))
    return image, 1


def _range(source: str, levels: int, got: str) -> str:
    return (
        f"{source}: expected the integers 0..{levels - 1}, the levels that the model was built for, got {got}: bring "
        "the images to them first."
    )
