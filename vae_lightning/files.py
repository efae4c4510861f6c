"""Files that are whole or not there, whenever the process dies; which run is the newest."""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def age(run: Path) -> float:
    """When a run last wrote a checkpoint: what makes one run newer than another. 0 where it never did."""
    return max((file.stat().st_mtime for file in (run / "checkpoints").glob("*.ckpt")), default=0.0)


def require_writable(path: Path) -> None:
    """Raises OSError where no file could be written, before anything is worked out for it."""
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    try:
        if path.is_dir():
            raise IsADirectoryError("a folder there")
        with tempfile.TemporaryFile(dir=above):  # which knows more than permissions do
            pass
    except OSError as error:
        got = f"{error.strerror or error} at {above}"
        raise OSError(f"{path}: expected a file that can be written, got {got}: choose another place.") from None


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content gets its final name only when all of it was written."""
    require_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.{os.getpid()}.part")  # also of a long name
    try:
        with part.open("wb") as stream:
            yield stream
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes | Callable[[IO[bytes]], Any]) -> None:
    """Text, bytes, or what a function writes into a stream."""
    with whole(path) as stream:
        if callable(content):
            content(stream)
        else:
            stream.write(content.encode() if isinstance(content, str) else content)


def require_new(path: Path, overwrite: bool = False) -> None:
    """Raises FileExistsError where a file of that name would be lost without being asked."""
    if os.path.lexists(path) and not path.is_dir() and not overwrite:
        raise FileExistsError(
            f"{path} exists and is not overwritten: choose another with --output, or add --overwrite."
        )


def require_replaceable(folder: Path, mark: str, overwrite: bool) -> None:
    """Raises OSError where `replaced` could not write a folder, or would lose what it must not: anything but what an
    earlier call wrote there, which a file called `mark` in it tells, and that only if it is to be overwritten."""
    require_writable(folder / mark)
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / mark).is_file() or folder.is_symlink():
        got = "another one" if folder.is_dir() else "a file"
        raise FileExistsError(
            f"{folder}: expected a folder that is new, empty, or of an earlier call, got {got}: choose another."
        )
    if not overwrite:
        raise FileExistsError(
            f"{folder} exists and is not overwritten: choose another with --output, or add --overwrite."
        )


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder`, whatever is there, when all of it was written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".{folder.resolve().name}.{os.getpid()}.part"
    try:
        part.mkdir()
        yield part
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
