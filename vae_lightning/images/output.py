"""Images given back as they came: PNG files with their names, or an array; all of them or none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from vae_lightning.compression.form import Form, output_name
from vae_lightning.data.reading.native import MODES

IMAGES, LABELS = "images.npy", "labels.npy"


def require_room(form: Form, output: Path, overwrite: bool, channels: int) -> None:
    """Raises ValueError or FileExistsError, before anything is decoded, where the images could not be written: over
    files that are not to be lost, through a link out of the folder, or in no picture of so many channels."""
    if form.kind == "files" and channels not in MODES:
        raise ValueError(f"expected pictures of {', '.join(map(str, MODES))} channels, got {channels}.")
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output}: expected a folder to write to, got a file: choose another with -o.")
    root = output.resolve()
    for name in targets(form):
        target = output / name
        if not target.parent.resolve().is_relative_to(root):
            raise ValueError(f"{target}: expected a place in {output}, got a link that leads out of it: remove it.")
        if target.is_dir() or (os.path.lexists(target) and not overwrite):
            raise FileExistsError(
                f"{target} exists and is not overwritten: choose another folder with -o, or add --overwrite."
            )


def targets(form: Form) -> list[str]:
    """The files that come to be, relative to the folder."""
    if form.names is not None:
        return [output_name(name) for name in form.names]
    return [IMAGES, *([LABELS] if form.labels is not None else [])]


def write_images(image: Tensor, form: Form, output: Path, overwrite: bool) -> list[Path]:
    """Writes images (N, C, H, W) uint8 below a folder, first to a folder of its own, and only when all are written
    there under their names.

    Raises:
        FileExistsError: a file of such a name is there, and is not to be overwritten.
        OSError: no room on the disk, or no right to write there.
        ValueError: values that the array's type does not hold.
    """
    require_room(form, output, overwrite, image.shape[1])
    try:
        _write(image, form, output)
    except OSError as error:
        raise OSError(
            f"{output}: expected a folder that the images can be written to, got {error}: make room or choose another "
            "with -o."
        ) from error
    return [output / name for name in targets(form)]


def _write(image: Tensor, form: Form, output: Path) -> None:
    # On the disk where the images will lie: beside a folder that is there, say a mounted one, may be another disk.
    beside = output if output.is_dir() else output.parent
    beside.mkdir(parents=True, exist_ok=True)
    part = beside / f".{output.resolve().name}.{os.getpid()}.part"
    try:
        part.mkdir()
        (_write_files if form.names is not None else _write_arrays)(image, form, part)
        if not os.path.lexists(output):
            os.replace(part, output)
        else:
            for name in targets(form):
                (output / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(part / name, output / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_files(image: Tensor, form: Form, folder: Path) -> None:
    mode, pixels = MODES[image.shape[1]], (image * form.white).permute(0, 2, 3, 1).numpy()
    for name, values in zip(targets(form), pixels, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # "x": two names can be one to this file system, and never is the second written over the first
        with (folder / name).open("xb") as stream:
            picture = values[..., 0] if mode == "L" else values
            Image.fromarray(np.ascontiguousarray(picture)).save(stream, "PNG", optimize=False)


def _write_arrays(image: Tensor, form: Form, folder: Path) -> None:
    dtype = np.dtype(form.dtype)
    largest = 1 if dtype.kind == "b" else np.iinfo(dtype).max
    if int(image.max()) * form.white > largest:
        raise ValueError(f"expected values that {dtype} holds, got {int(image.max()) * form.white}.")
    values = (image * form.white).numpy()
    shaped: Callable[[], np.ndarray] = {
        "NCHW": lambda: values,
        "NHWC": lambda: values.transpose(0, 2, 3, 1),
        "NHW": lambda: values[:, 0],
    }[form.axes]
    np.save(folder / IMAGES, np.ascontiguousarray(shaped()).astype(dtype))
    if form.labels is not None:
        np.save(folder / LABELS, np.array(form.labels, dtype=np.int64))
