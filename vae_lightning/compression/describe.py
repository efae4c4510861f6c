"""A compressed file in words and numbers, for `inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vae_lightning.compression.container import Contents

SOME = 8
"""Entries of a list that are shown."""


class Sizes(NamedTuple):
    """Bits for each value of the images, net and gross, and how many times smaller the file is than the values in as
    many bits as their levels need."""

    net: float
    gross: float
    bits_raw: int
    ratio: float

    @classmethod
    def of(cls, contents: Contents) -> Sizes:
        header, coded = contents.header, contents.coded
        values, bits = header.count * header.values, (header.levels - 1).bit_length()
        return cls(coded.net_bits / values, coded.gross_bits / values, bits, values * bits / 8 / contents.size)


class Sources(NamedTuple):
    """The files that images were decoded from, beside the file that they were compressed to.

    Args:
        kinds: how many of them, and of what kind.
        size: bytes of all of them.
        bits: the same for each value of the images.
        factor: how many times larger the compressed file is.
    """

    kinds: str
    size: int
    bits: float
    factor: float

    @classmethod
    def of(cls, contents: Contents, files: Sequence[Path]) -> Sources:
        size, header = sum(file.stat().st_size for file in files), contents.header
        common = [kind for kind, _ in Counter(file.suffix.lower() for file in files).most_common()]
        kinds = f"{len(files)} {_some(common)} file{'' if len(files) == 1 else 's'}"
        return cls(kinds, size, 8 * size / (header.count * header.values), contents.size / max(size, 1))

    def __str__(self) -> str:
        beside = f"{self.factor:.2f} times larger" if self.factor > 1 else f"{1 / self.factor:.2f} times smaller"
        return (
            f"the {self.kinds} themselves: {self.size} bytes, {self.bits:.4f} bits/dim; the compressed file is {beside}"
        )

    def warning(self) -> str | None:
        """What to say where compressing was in vain."""
        if self.factor <= 1:
            return None
        return (
            f"warning: the compressed file is {self.factor:.2f} times as large as the {self.kinds} that went in. It "
            "holds all their decoded pixels, of which such files, JPEG's above all, may store less: if size is what "
            "counts, keep the files themselves."
        )


def describe(contents: Contents) -> str:
    """One line a fact."""
    header, form, writer = contents.header, contents.header.form, contents.header.writer
    sizes, initial = Sizes.of(contents), header.initial_bits
    came = {"files": "files", "array": f"an array {form.axes} of {form.dtype}", "split": "a split of the model's data"}
    shape = "x".join(map(str, header.image_shape))
    lines = {
        "images": f"{header.count} of {shape} values, {header.levels} levels, from {came[form.kind]}",
        "names": None if form.names is None else _some(form.names),
        "labels": None if form.labels is None else _some(form.classes or sorted(set(form.labels))),
        "size": f"{contents.size} bytes, {contents.header_size} of them the header; {sizes.ratio:.2f} times smaller "
        f"than raw ({sizes.bits_raw} bits a value)",
        "code": f"{sizes.net:.4f} bits/dim net, {sizes.gross:.4f} gross; {initial} initial bits, "
        f"{initial / contents.coded.gross_bits:.2%} of it",
        "coder": ", ".join(f"{name} {value}" for name, value in vars(header.settings).items()),
        "batches": _some([f"{times} of {size}" for size, times in header.layout]),
        "model": header.model,
        "content": f"{header.content} (checked by decompress)",
        "written by": f"vae_lightning {writer.vae_lightning}, torch {writer.torch}, constriction "
        f"{writer.constriction}; on {writer.device}, {writer.cpu}, threads: {writer.threads}",
        "integrity": "the SHA-256 of the whole file is the one it was written with",
    }
    return "\n".join(f"{name:11} {line}" for name, line in lines.items() if line is not None)


def _some(entries: list[str] | list[int] | tuple[str, ...]) -> str:
    """The first ones; what could move a terminal's cursor is spelt out."""
    shown = [entry if (entry := str(each)).isprintable() else ascii(entry) for each in entries[:SOME]]
    return ", ".join(shown) + f", ... ({len(entries)})" * (len(entries) > SOME)
