"""What a compressed file says of itself. Whatever stands in a file is checked here before anything acts on it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import Any

import numpy as np

from vae_lightning.compression.coded import Settings
from vae_lightning.compression.form import Form, expect, is_whole
from vae_lightning.compression.stack import WORD_BITS
from vae_lightning.memory import require_memory

MOST_RUNS = 2**16
"""Runs of equal batches in a layout."""
PROBED = 8
"""Batch sizes whose numbers are compared before a file is decoded."""
MOST_THREADS = 64
"""More would be asked of a machine that may not have them."""
MOST_BATCHES = 2**24
BATCH_VALUES = 2**22
"""Image values in a batch of several images: what keeps a forged batch from taking all memory."""
LONGEST_WORD = 200

Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Writer:
    """What the numbers that a model computes depend on, at the writer's."""

    vae_lightning: str
    torch: str
    constriction: str
    device: str
    threads: int
    cpu: str

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "threads":
                good = isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_WORD
                expect(good, f"writer's {name}", "a short word", value)
        expect(self.device in ("cpu", "cuda"), "writer's device", "cpu or cuda", self.device)
        expect(is_whole(self.threads, 1, MOST_THREADS), "writer's threads", f"1..{MOST_THREADS}", self.threads)


@dataclass(frozen=True)
class Header:
    """All of a file but the words. A header that exists is a valid one.

    Args:
        model: hash of the model, see `identity.model_hash`.
        image_shape: (C, H, W).
        levels: images hold the integers 0..levels-1.
        count: how many images.
        settings: the coder's.
        layout: runs (images in a batch, such batches) in the order of coding.
        initial_bits: random bits that the code began with, in whole words.
        form: how the images are given back.
        writer: what wrote the file, and on what.
        probe: hash of numbers that the model computed there, see `identity.probe`.
        content: hash of the images and of all that stands here, see `content_hash`.
    """

    model: str
    image_shape: tuple[int, ...]
    levels: int
    count: int
    settings: Settings
    layout: Runs
    initial_bits: int
    form: Form
    writer: Writer
    probe: str
    content: str = "0" * 64

    def __post_init__(self) -> None:
        for name in ("model", "probe", "content"):
            value = getattr(self, name)
            good = isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
            expect(good, name, "a SHA-256 in 64 hexadecimal digits", value)
        good = len(self.image_shape) == 3 and all(is_whole(side, 1, 2**20) for side in self.image_shape)
        expect(good, "image_shape", "[channels, height, width]", self.image_shape)
        expect(is_whole(self.levels, 2, 256), "levels", "2..256", self.levels)
        expect(is_whole(self.count, 1, 2**40), "count", "at least one image", self.count)
        require_memory(2 * self.count * self.values, f"{self.count} images of shape {self.image_shape}")
        self._check_layout()
        good = is_whole(self.initial_bits, 1, 2**62) and self.initial_bits % WORD_BITS == 0
        expect(good, "initial_bits", f"a multiple of {WORD_BITS}", self.initial_bits)
        self.form.check_count(self.count)

    def _check_layout(self) -> None:
        expect(1 <= len(self.layout) <= MOST_RUNS, "layout", f"1..{MOST_RUNS} runs", len(self.layout))
        for run in self.layout:
            good = isinstance(run, tuple) and len(run) == 2 and all(is_whole(value, 1, self.count) for value in run)
            expect(good, "layout", "runs [images in a batch, batches]", run)
        total = sum(size * batches for size, batches in self.layout)
        expect(total == self.count, "layout", f"batches of {self.count} images together", total)
        batches = sum(batches for _, batches in self.layout)
        expect(batches <= MOST_BATCHES, "layout", f"at most {MOST_BATCHES} batches", batches)
        largest, most = max(self.layout)[0], min(self.settings.batch_size, largest_batch(self.image_shape))
        expect(largest <= most, "layout", f"batches of at most {most} images of this shape", largest)

    @property
    def values(self) -> int:
        """Of one image."""
        return math.prod(self.image_shape)

    @property
    def batches(self) -> tuple[int, ...]:
        """Images of each batch."""
        return tuple(size for size, times in self.layout for _ in range(times))

    @property
    def probed(self) -> list[int]:
        """The batch sizes in which most images were coded, few enough to be tried in no time."""
        images: dict[int, int] = {}
        for size, times in self.layout:
            images[size] = images.get(size, 0) + size * times
        return sorted(images, key=lambda size: (images[size], size), reverse=True)[:PROBED]

    def to_json(self) -> bytes:
        """The one spelling of this header: keys sorted, no space."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")

    @classmethod
    def from_json(cls, text: bytes) -> Header:
        """Raises ValueError where the text is no header, or another spelling of one."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:  # json.JSONDecodeError and UnicodeDecodeError are ValueErrors
            raise ValueError(f"header: expected JSON, got something else ({' '.join(str(error).split())})") from None
        plain = _only(found, cls, "header")
        form, writer = _only(plain["form"], Form, "form"), _only(plain["writer"], Writer, "writer")
        for key in ("names", "labels", "classes"):
            form[key] = None if form[key] is None else _tuple(form[key], key)
        runs = tuple(_tuple(run, "layout") for run in _tuple(plain["layout"], "layout"))
        plain |= {"layout": runs, "image_shape": _tuple(plain["image_shape"], "image_shape")}
        settings = Settings(**_only(plain["settings"], Settings, "settings"))
        header = cls(**{**plain, "settings": settings, "form": Form(**form), "writer": Writer(**writer)})
        expect(header.to_json() == text, "header", "each key once, sorted and without spaces", text[:80])
        return header


def _only(found: Any, kind: type, what: str) -> dict[str, Any]:
    """An object with just the keys of a dataclass."""
    keys = {field.name for field in fields(kind)}
    expect(isinstance(found, dict), what, f"an object with {', '.join(sorted(keys))}", type(found).__name__)
    expect(found.keys() == keys, what, "its own keys", sorted(found.keys() ^ keys))
    return dict(found)


def _tuple(found: Any, what: str) -> tuple[Any, ...]:
    expect(isinstance(found, list), what, "a list", found)
    return tuple(found)


def runs(batches: tuple[int, ...]) -> Runs:
    """Images of each batch -> runs (images, batches)."""
    return tuple((size, len(list(same))) for size, same in groupby(batches))


def largest_batch(image_shape: tuple[int, ...]) -> int:
    """Images that may stand in one batch."""
    return max(1, BATCH_VALUES // math.prod(image_shape))


def content_hash(images: np.ndarray, header: Header) -> str:
    """SHA-256 of the images' bytes, in order, and of everything that the header says: what is decoded is compared with
    it, so that neither a wrong image nor an altered name, label or setting passes."""
    said = asdict(header)
    del said["content"]
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(json.dumps(said, sort_keys=True, separators=(",", ":")).encode("ascii"))
    return digest.hexdigest()
