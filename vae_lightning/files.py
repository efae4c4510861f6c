"""Files that are whole or not there, whenever the process dies; which run is the newest."""

from __future__ import annotations

import os
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
