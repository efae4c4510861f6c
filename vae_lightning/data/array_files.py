"""What lies in a file of arrays, .npy, .npz or .pt: images and labels, and their splits, by their usual names."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae_lightning.data.source import not_found

IMAGES, LABELS = ("images", "image", "x", "data", "arr_0"), ("labels", "label", "y", "targets", "target")
"""What arrays of a .npz or .pt are called, the first that is there; with _train, _test and so on they are splits."""
OBJECTS = ("GLOBAL", "Object arrays", "Python objects")
"""By which torch and NumPy tell that a file holds more than numbers."""
PARTS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


class Part(NamedTuple):
    """Images of one split as they are stored, their labels, and which of the images these are (None: all)."""

    pixels: np.ndarray
    label: np.ndarray | None = None
    rows: np.ndarray | None = None


def flat(path: Path, label: np.ndarray) -> np.ndarray:
    """(N,) integers or words."""
    label = np.asarray(label)
    label = label[:, 0] if label.ndim == 2 and label.shape[1] == 1 else label
    if label.ndim == 1 and label.dtype.kind == "f" and (label == np.rint(label)).all():
        label = label.astype(np.int64)  # whole numbers, as spreadsheets keep them
    if label.ndim != 1 or label.dtype.kind not in "biuU":
        raise ValueError(
            f"{path}: expected labels (N,) of integers or words, got {label.dtype} {label.shape}: give the number of "
            "each image's class (of one-hot labels .argmax(1)), or save the images alone."
        )
    return label


def no_images(shape: tuple[int, ...]) -> str:
    """What to say of an array that has too few axes, or no images."""
    side = round(shape[1] ** 0.5) if len(shape) == 2 else 0
    remedy = "bring them to it, such as by x.reshape(-1, H, W)"
    if side > 1 and side * side == shape[1]:
        remedy = f"bring them to it, where rows are images by x.reshape(-1, {side}, {side})"
    return f"(N, H, W[, C]), got the shape {shape}: {'give some' if 0 in shape else remedy}"


def open_arrays(path: Path) -> Any:
    """The array of a file, or its arrays by name.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: no such file.
    """
    if path.is_dir():
        raise ValueError(
            f"{path}: expected a .npy, .npz or .pt file, got a folder: name the file in it, or read a folder of "
            "pictures with --data.source ImageFolder."
        )
    if not path.is_file():
        raise not_found(path.name, path, "no array can be read")
    kind = path.suffix.lower()
    try:
        if kind == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if kind == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        if kind in (".pt", ".pth"):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            if isinstance(found, (tuple, list)) and 1 <= len(found) <= 2:
                found = dict(zip(("images", "labels"), found, strict=False))
            if isinstance(found, Mapping):
                return {str(name): it.numpy() for name, it in found.items() if isinstance(it, Tensor)}
            if isinstance(found, Tensor):
                return found.numpy()
            raise ValueError(f"{type(found).__name__}")
    except (
        ValueError,
        KeyError,
        EOFError,
        TypeError,
        RuntimeError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        if any(word in str(error) for word in OBJECTS):
            raise ValueError(
                f"{path}: expected tensors or arrays of numbers, got objects, which would run code as they are read: "
                "save the images alone, by np.savez(FILE, images=x, labels=y) or torch.save({'images': x, 'labels': y},"
                " FILE) with x and y tensors."
            ) from None
        said = (
            "nothing that torch reads"
            if re.search("eights only|mmap can only", str(error))
            else " ".join(str(error).split())[:200]
        )
        raise ValueError(
            f"{path}: expected arrays of numbers, got something else ({said}): save it again by np.save or np.savez."
        ) from None
    raise ValueError(f"{path}: expected a .npy, .npz or .pt file, got {kind or 'no suffix'}: save it as one.")


def named(path: Path, found: Mapping[str, np.ndarray]) -> dict[str, Part]:
    """The splits of a file with several arrays."""
    by_fold = {name.casefold(): it for name, it in found.items()}
    parts: dict[str, Part] = {}
    for part, words in PARTS.items():
        names = [
            tuple(f"{name}_{word}" for name in of for word in words)
            + tuple(f"{word}_{name}" for name in of for word in words)
            for of in (IMAGES, LABELS)
        ]
        images, labels = (next((by_fold[name] for name in some if name in by_fold), None) for some in names)
        if images is not None:
            parts[part] = Part(images, labels)
    if parts and "train" not in parts:
        raise ValueError(f"{path}: expected training images, got arrays {', '.join(found)} alone: name some x_train.")
    if parts:
        return parts
    label = next((by_fold[name] for name in LABELS if name in by_fold), None)
    return {"train": Part(first(path, found, IMAGES), label)}


def first(path: Path, found: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    by_fold = {name.casefold(): it for name, it in found.items()}
    for name in names:
        if name in by_fold:
            return by_fold[name]
    if len(found) == 1:
        return next(iter(found.values()))
    raise ValueError(f"{path}: expected an array {' or '.join(names)}, got {', '.join(found) or 'none'}: name it so.")
