"""How images came to be compressed and are given back: as files with names, as an array, or as a data set's split."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

KINDS = ("files", "array", "split")
AXES = ("NCHW", "NHW", "NHWC")
DTYPES = ("|b1", "|u1", "|i1", *(f"{order}{kind}{size}" for order in "<>" for kind in "ui" for size in (2, 4, 8)))
WHITES = (1, 255)
LONGEST_PART, LONGEST_NAME = 255, 4096  # bytes, as file systems have it


def expect(good: bool, what: str, expected: str, got: object) -> None:
    """Raises ValueError, one line of bounded length, where something is not as expected."""
    if not good:
        shown = repr(got)
        raise ValueError(f"{what}: expected {expected}, got {shown if len(shown) <= 80 else shown[:77] + '...'}")


def is_whole(value: Any, low: int, high: int) -> bool:
    """An integer, and no bool, between two bounds."""
    return type(value) is int and low <= value <= high


def output_name(name: str) -> str:
    """What an image's file is called when it comes back: PNG is what holds the pixels as they are."""
    return name if name.lower().endswith(".png") else f"{name}.png"


@dataclass(frozen=True)
class Form:
    """How the images are given back. A form that exists is a valid one: its names lead to different files below the
    folder they are written to, on any system.

    Args:
        kind: files, array or split.
        axes: the order of an array's axes.
        dtype: an array's type, as numpy spells it.
        white: what a 1 of a binary image is in the files or the array, 1 or 255.
        names: of the images, relative, with / between folders; None where they have none.
        labels: a class's number for each image; None where there are none.
        classes: the classes' names, by number; None where they have none.
    """

    kind: str = "array"
    axes: str = "NCHW"
    dtype: str = "|u1"
    white: int = 1
    names: tuple[str, ...] | None = None
    labels: tuple[int, ...] | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, known in (("kind", KINDS), ("axes", AXES), ("dtype", DTYPES)):
            value = getattr(self, name)
            expect(isinstance(value, str) and value in known, name, f"one of {', '.join(known)}", value)
        expect(type(self.white) is int and self.white in WHITES, "white", "1 or 255", self.white)
        expect((self.names is not None) == (self.kind == "files"), "names", "some for files alone", self.kind)
        if self.names is not None:
            check_names(self.names)
        for label in self.labels or ():
            expect(is_whole(label, -(2**63), 2**63 - 1), "a label", "an integer of 64 bits", label)
        if self.classes is not None:
            expect(self.labels is not None, "classes", "labels with them", None)
            for name in self.classes:
                good = isinstance(name, str) and len(name) <= LONGEST_NAME
                expect(good, "a class's name", f"text of up to {LONGEST_NAME} characters", name)
            for label in set(self.labels or ()):
                good = 0 <= label < len(self.classes)
                expect(good, "a label", f"the number of a class, 0..{len(self.classes) - 1}", label)

    def check_count(self, count: int) -> None:
        """Raises ValueError where there are not as many names or labels as images."""
        for name, values in (("names", self.names), ("labels", self.labels)):
            if values is not None:
                expect(len(values) == count, f"the number of {name}", f"the number of images, {count}", len(values))


@dataclass(frozen=True)
class InputImages:
    """Images (N, C, H, W) uint8, integers 0..levels-1, how they came, and the files they were decoded from, none where
    they are no files' whole content (a split of a data set that is one array, files that were brought to another
    size)."""

    image: Tensor
    form: Form
    files: tuple[Path, ...] = ()

    def name(self, row: int) -> str:
        """What to call an image in a list."""
        return f"image {row}" if self.form.names is None else self.form.names[row]


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError where names could lead outside their folder, or two of them to one file."""
    seen: dict[str, str] = {}
    for name in names:
        expect(
            isinstance(name, str) and _is_safe(name),
            "a name",
            f"a relative path of ordinary words, of at most {LONGEST_PART} bytes each",
            name,
        )
        key = unicodedata.normalize("NFC", output_name(name))
        expect(key not in seen, "names", f"different files, of which {seen.get(key)!r} would be one", name)
        seen[key] = name
    for key, name in seen.items():
        parent = next((str(above) for above in PurePosixPath(key).parents if str(above) in seen), None)
        expect(parent is None, "a name", f"none below the file {parent!r}", name)


def _is_safe(name: str) -> bool:
    """Relative, without a part that goes up, means a drive or cannot be a file's name on some system."""
    parts = name.split("/")
    try:
        lengths = [len(part.encode()) for part in output_name(name).split("/")]
    except UnicodeEncodeError:  # bytes of a file name that are no text
        return False
    return (
        sum(lengths) + len(parts) <= LONGEST_NAME
        and all(parts)
        and max(lengths) <= LONGEST_PART
        and not any(part in (".", "..") or re.match(r"[A-Za-z]:", part) for part in parts)
        and re.search(r"[\x00-\x1f\x7f\\]", name) is None
    )
