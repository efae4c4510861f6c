"""Which image files lie below a folder, and what their names tell."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from PIL import Image

from vae_lightning.data.reading.native import DICOM

ARRAYS = (".npy", ".npz", ".pt", ".pth")
"""What the source Arrays reads."""


def name_hash(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, spread evenly."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48


def list_images(folder: Path) -> list[str]:
    """Names of all images below a folder, relative to it, sorted, by the suffixes that Pillow knows.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: expected a folder of images, got {'a file' if folder.exists() else 'nothing there'}: check "
            "--data.source.path."
        )
    known = (*DICOM, *(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN))
    names: list[str] = []
    above = {os.fspath(folder): frozenset((identity_of(folder),))}
    for place, folders, files in os.walk(folder, followlinks=True):  # a million names in seconds, where pathlib is slow
        chain, below_it = above.pop(place), {}
        for name in folders:
            path = os.path.join(place, name)
            # A link to a folder that it lies in would be followed for ever.
            if not name.startswith(".") and (it := identity_of(path)) is not None and it not in chain:
                below_it[name] = path
                above[path] = chain | {it}
        folders[:] = list(below_it)
        below = "" if (relative := os.path.relpath(place, folder)) == "." else f"{Path(relative).as_posix()}/"
        names += [below + name for name in files if name.lower().endswith(known) and not name.startswith(".")]
    if not names:
        arrays = sorted(path for path in folder.iterdir() if path.suffix.lower() in ARRAYS)
        remedy = (
            f"read the array by --data.source Arrays --data.source.path {arrays[0]}" if arrays else "check the path"
        )
        raise ValueError(
            f"{folder}: expected images, got none with a suffix such as .png or .jpg in it or below it: {remedy}."
        )
    return sorted(names, key=lambda name: name.split("/"))


def identity_of(path: str | Path) -> tuple[int, int] | None:
    """What is the same for all names of a file or folder; None for one that cannot be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def class_of(name: str) -> str | None:
    """The sub-folder that an image lies in, if it lies in one."""
    first, _, rest = name.partition("/")
    return first if rest else None


def class_names(names: list[str]) -> list[str]:
    """The sub-folders that hold the images, sorted; empty where an image lies beside them."""
    classes = {class_of(name) for name in names}
    return [] if None in classes else sorted(name for name in classes if name is not None)
