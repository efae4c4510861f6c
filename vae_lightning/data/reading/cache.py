"""Decoded images in a memory-mapped file: decoded once, and for sets that memory does not hold."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from vae_lightning.data.reading.decode import Decoded

Decode = Callable[[str], "Decoded | str"]
"""A file's name -> its picture (C, H, W), or what is wrong with it."""
Result = TypeVar("Result")
CHUNK = 1024
"""Images between two notes of how far the decoding has come: what a kill may cost."""
PIXELS, SEEN, INDEX, DONE = "pixels.bin", "seen.u8", "index.json", "done.json"


def decode_all(files: Sequence[str], decode: Callable[[str], Result]) -> list[Result]:
    """Every file decoded, in order, on all cores: Pillow decodes outside the interpreter lock."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(decode, files))


def cached(
    place: Path,
    folder: Path,
    files: Sequence[str],
    shape: tuple[int, ...],
    decode: Decode,
    settings: Any,
    dtype: type[np.generic] = np.uint8,
) -> tuple[Tensor, np.ndarray, dict[int, str]]:
    """The images (N, C, H, W) of `files`, mapped from place/<key>/pixels.bin, what each was (N,), and by row what is
    wrong with those that cannot be read. Only what is new or has changed since the last time is decoded; a build that
    was stopped goes on.

    Args:
        place: folder of this set's cache; one process at a time builds there.
        folder: where the images are.
        files: their names below it, in order.
        shape: (C, H, W).
        decode: called for each file that is not there yet.
        settings: plain data, whatever else decides what comes out of a file.
        dtype: of the values, uint8 or uint16.

    Raises:
        OSError: the place cannot be written, or has no room.
    """
    listing = [[name, *_stamp(os.path.join(folder, name))] for name in files]
    kind, one = json.dumps([settings, shape]), int(np.prod(shape)) * np.dtype(dtype).itemsize
    here = place / hashlib.sha256(json.dumps([kind, listing]).encode()).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / "lock"):
        others = [path for path in place.iterdir() if path.is_dir() and path != here and _kind(path) == kind]
        done, bad = _begin(here, kind, listing, one)
        if done < len(files) or bad:
            known = _known(others, shape, dtype)
            pixels, seen = _mapped(here, len(files), shape, dtype, "r+")
            for row in list(bad):  # they may have been mended, or a newer Pillow may read them
                if not isinstance(result := decode(files[row]), str):
                    pixels[row], seen[row] = result.pixels.numpy(), result.seen
                    del bad[row]
                    _note(here, done, bad)
            for start in range(done, len(files), CHUNK):
                rows = range(start, min(start + CHUNK, len(files)))
                fresh = [row for row in rows if tuple(listing[row]) not in known]
                for row, result in zip(fresh, decode_all([files[row] for row in fresh], decode), strict=True):
                    if isinstance(result, str):
                        bad[row] = result
                    else:
                        pixels[row], seen[row] = result.pixels.numpy(), result.seen
                for row in set(rows) - set(fresh):
                    pixels[row], seen[row] = known[tuple(listing[row])]
                pixels.flush()
                seen.flush()
                _note(here, rows.stop, bad)
            known.clear()
        for other in others:
            shutil.rmtree(other, ignore_errors=True)
        # Read-only: a writable map, even a private one, is charged against memory. Mapped before another may remove it.
        mapped, seen = _mapped(here, len(files), shape, dtype, "r")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*not writable.*")
        return torch.from_numpy(mapped), np.array(seen), bad


def _mapped(
    here: Path, count: int, shape: tuple[int, ...], dtype: type[np.generic], mode: Any
) -> tuple[np.memmap, np.memmap]:
    """Pixels (N, C, H, W), and what each picture was (N,)."""
    return np.memmap(here / PIXELS, dtype, mode, shape=(count, *shape)), np.memmap(here / SEEN, np.uint8, mode)


def _stamp(file: str) -> tuple[int, int, int]:
    """What changes when a file does: its size and dates, the one of its status for files that are packed with old
    dates; -1 for one that cannot be looked at, which its decoding says."""
    try:
        status = os.stat(file)
    except OSError:
        return -1, -1, -1
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _kind(place: Path) -> str | None:
    """The settings and shape that a state of the cache was made with; None where that cannot be read."""
    try:
        kind: str = json.loads((place / INDEX).read_text())[0]
        return kind
    except (OSError, ValueError, LookupError):
        return None


def _begin(here: Path, kind: str, listing: list[list[Any]], one: int) -> tuple[int, dict[int, str]]:
    """How many images are there, of `one` byte count each, and which are bad; files of another size than they should
    have count for nothing."""
    sizes = {here / PIXELS: len(listing) * one, here / SEEN: len(listing)}
    size = sum(sizes.values())
    if (here / DONE).is_file() and all(it.is_file() and it.stat().st_size == its for it, its in sizes.items()):
        note = json.loads((here / DONE).read_text())
        return note["done"], {int(row): what for row, what in note["bad"].items()}
    if (free := shutil.disk_usage(here.parent).free) < size:
        raise OSError(f"{here.parent} has {free / 2**20:.0f} MiB left, and the images need {size / 2**20:.0f}")
    here.mkdir(exist_ok=True)
    (here / INDEX).write_text(json.dumps([kind, listing]))
    for path, its in sizes.items():
        with path.open("wb") as file:
            file.truncate(its)
    _note(here, 0, {})
    return 0, {}


def _note(here: Path, done: int, bad: dict[int, str]) -> None:
    part = here / f"{DONE}.part"
    part.write_text(json.dumps({"done": done, "bad": bad}))
    part.replace(here / DONE)


def _known(
    others: list[Path], shape: tuple[int, ...], dtype: type[np.generic]
) -> dict[tuple[Any, ...], tuple[np.ndarray, np.uint8]]:
    """(name, size, dates) -> pixels and what the picture was, of earlier states of the same set."""
    known: dict[tuple[Any, ...], tuple[np.ndarray, np.uint8]] = {}
    for other in others:
        try:
            (_, listing), note = json.loads((other / INDEX).read_text()), json.loads((other / DONE).read_text())
            pixels, seen = _mapped(other, len(listing), shape, dtype, "r")
        except (OSError, ValueError):
            continue  # not whole: decoded again
        known |= {tuple(listing[i]): (pixels[i], seen[i]) for i in range(note["done"]) if str(i) not in note["bad"]}
    return known
