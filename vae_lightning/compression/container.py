"""The file of compressed images, `.vlz`. All numbers are little-endian:

8 bytes    magic: 89 56 4C 5A 0D 0A 1A 0A, which a transfer as text damages
u16        version of the format
u32        length of the header
...        header: canonical JSON (keys sorted, no spaces, ASCII), deflated (zlib)
u64        length of the payload in bytes, a multiple of 4
...        payload: the coder's words, u32 each
32 bytes   SHA-256 of all before it
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from vae_lightning.compression.coded import Coded
from vae_lightning.compression.header import Header
from vae_lightning.memory import available_memory, require_memory

MAGIC = b"\x89VLZ\r\n\x1a\n"
VERSION = 1
START, LENGTH = struct.Struct("<8sHI"), struct.Struct("<Q")
DIGEST = 32
LONGEST_HEADER = 2**28
"""Bytes of JSON: some millions of names."""
PARSED = 32
"""Bytes of memory that a byte of JSON can become."""
ANEW = "compress the images anew, or fetch the file again"


@dataclass(frozen=True)
class Contents:
    """A file as it was read: header, words (M,) uint32, and the bytes of the file and of its deflated header."""

    header: Header
    words: np.ndarray
    size: int
    header_size: int

    @property
    def coded(self) -> Coded:
        """What the coder decodes."""
        return Coded(self.words, self.header.batches, self.header.initial_bits, self.header.settings)


def write(stream: IO[bytes], header: Header, words: np.ndarray) -> None:
    """Writes a whole file."""
    if words.dtype != np.uint32 or words.ndim != 1:
        raise TypeError(f"words: expected an array (M,) of uint32, got {words.shape} of {words.dtype}.")
    text = header.to_json()
    if len(text) > LONGEST_HEADER:
        raise ValueError(
            f"names and labels: expected at most {LONGEST_HEADER} bytes of them, got {len(text)}: compress the images "
            "in several parts."
        )
    deflated = zlib.compress(text, 9)
    payload = np.ascontiguousarray(words, dtype="<u4").tobytes()
    digest = hashlib.sha256()
    for part in (START.pack(MAGIC, VERSION, len(deflated)), deflated, LENGTH.pack(len(payload)), payload):
        digest.update(part)
        stream.write(part)
    stream.write(digest.digest())


def read(path: Path) -> Contents:
    """The file's content, all of it checked: that it is whole, and that each field of the header makes sense.

    Raises:
        FileNotFoundError: no file there.
        ValueError: no such file, one of another version, a damaged or a forged one.
    """
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        raise FileNotFoundError(f"{path}: expected a file that `vae-lightning compress` wrote, got {got}.")
    try:
        return _read(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {ANEW}.") from None


def _read(path: Path) -> Contents:
    size = path.stat().st_size
    require_memory(2 * size, "the file")
    with path.open("rb") as stream:
        start = stream.read(START.size)
        if not start.startswith(MAGIC):
            near = start[1:4] == MAGIC[1:4]
            got = "one that was transferred as text, which changes bytes" if near else "a file of another kind or none"
            raise ValueError(f"expected a file that `vae-lightning compress` wrote, got {got}")
        if len(start) < START.size:
            raise ValueError(f"expected a whole file, got one cut off after {size} bytes")
        _, version, length = START.unpack(start)
        if version != VERSION:
            raise ValueError(
                f"expected version {VERSION} of the format, got {version} (another vae_lightning wrote it, or it is "
                "damaged)"
            )
        rest = size - START.size - LENGTH.size - DIGEST
        if length > rest:
            raise ValueError(f"expected a header of {length} bytes, got a file of {size}, which was cut off")
        data = memoryview(start + stream.read(size))
    if len(data) != size:
        raise ValueError("expected a file at rest, got one that changed while it was read")
    (payload,) = LENGTH.unpack_from(data, START.size + length)
    if payload != rest - length or payload % 4:
        raise ValueError(
            f"expected {payload} bytes of words behind the header, got {rest - length}: the file was cut off, extended "
            "or damaged"
        )
    if hashlib.sha256(data[:-DIGEST]).digest() != data[-DIGEST:]:
        raise ValueError("expected the SHA-256 that stands at the file's end, got another: the file is damaged")
    header = Header.from_json(_inflate(data[START.size : START.size + length]))
    if header.initial_bits > 8 * payload:
        raise ValueError(f"expected at most the payload's {8 * payload} initial bits, got {header.initial_bits}")
    words = np.frombuffer(data, "<u4", payload // 4, START.size + length + LENGTH.size).astype(np.uint32)
    return Contents(header, words, size, length)


def _inflate(deflated: memoryview) -> bytes:
    """The header's JSON; no more of it than memory has room for, whatever the deflated bytes would become."""
    most = min(LONGEST_HEADER, available_memory() // PARSED)
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(deflated, most)
    except zlib.error as error:
        raise ValueError(f"header: expected deflated JSON, got something else ({error})") from None
    if not stream.eof or stream.unused_data:
        raise ValueError(f"header: expected a whole one of at most {most} bytes, got another")
    return text
