"""What is said of pictures once all are read: what they were that their pixels no longer show, and what a window
clipped."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from vae_lightning.core import Shape
from vae_lightning.data.reading.cache import decode_all
from vae_lightning.data.reading.clipping import Clipping
from vae_lightning.data.reading.decode import Reading
from vae_lightning.data.reading.levels import NOT_FINITE, Span, Window, percentile_window
from vae_lightning.data.reading.native import UNREADABLE, Seen, read_native
from vae_lightning.data.say import say

LOOKED = 256
"""Files that are looked at, evenly over all, for the range of their values."""
SAMPLED_VALUES = 2**22
"""Of all files, by which percentiles are taken."""


def tell_seen(reading: Reading, where: Path | str, names: Sequence[str], seen: np.ndarray) -> None:
    """Says what pictures were that their pixels no longer show.

    Args:
        reading: how they were read.
        where: the folder or data set that they are of.
        names: what each is called there.
        seen: (N,) `Seen` of each.

    Raises:
        ValueError: pictures of 8 bits and deeper ones, whose values are in different units.
    """
    rows_of = {flag: np.flatnonzero(seen & flag) for flag in Seen}
    if reading.by_value and len(rows_of[Seen.DEEP]) and len(rows_of[Seen.EIGHT_BITS]):
        one, other = (names[rows_of[flag][0]] for flag in (Seen.DEEP, Seen.EIGHT_BITS))
        raise ValueError(
            f"{where}: expected pictures of one depth, got {one}, which is deeper than 8 bits, and {other}, which "
            "is not: their values mean different things under one window; keep them apart."
        )
    if len(rows := rows_of[Seen.TRANSPARENT]) and reading.channels < 4:
        ground = (
            "their transparency is left out" if reading.background is None else f"laid on grey {reading.background}"
        )
        say(
            f"{len(rows)} of {len(names)} pictures are transparent, such as {names[rows[0]]}: {ground} "
            "(--data.source.background)."
        )
    if len(rows := rows_of[Seen.COLOUR]) and reading.channels == 1:
        say(
            f"{len(rows)} of {len(names)} pictures are stored in colour, such as {names[rows[0]]}: read in grey "
            "(--data.source.channels 3 keeps colours)."
        )
    if len(rows := rows_of[Seen.FRAMES]):
        say(
            f"{len(rows)} of {len(names)} files hold several pictures (frames or pages), such as {names[rows[0]]}: "
            "the first of each is taken; save the others as files of their own to have them, too."
        )


def tell_clipped(reading: Reading, folder: Path, files: list[str], seen: np.ndarray, shape: Shape) -> None:
    """Says how many pictures a window clips, and by those or some of them, how many of all values."""
    rows = np.flatnonzero(seen & Seen.CLIPPED)
    if not len(rows):
        return
    found = Clipping(reading.levels, reading.window)
    some = rows[:: -(-len(rows) // LOOKED)]
    for values in decode_all([files[row] for row in some], lambda name: reading.values(folder / name, shape).values):
        found.add(values[None])
    found.values = round(found.values * len(rows) / len(some))
    found.of_values = len(files) * int(np.prod(shape))
    found.images, found.of_images = len(rows), len(files)
    say(found.said("pictures", files[rows[0]]))


def span_of(folder: Path, files: list[str], besides: Span) -> Span:
    """The range of some files' values, evenly over all, and of one file's that is not to be left out."""

    def look(name: str) -> np.ndarray | None:
        with suppress(*UNREADABLE):
            return read_native(folder / name, 3, None).values
        return None  # named when the images are read

    found = [it for it in decode_all(files[:: -(-len(files) // LOOKED)], look) if it is not None]
    span = Span.over(found, len(files))
    return span._replace(low=min(span.low, besides.low), high=max(span.high, besides.high))


def window_of(folder: Path, files: list[str], channels: int, background: int | None, percentiles: Window) -> Window:
    """The window between two percentiles of the files' values.

    Raises:
        ValueError: none that can be read, values that are not finite, or no range between the percentiles.
    """
    each = max(1, SAMPLED_VALUES // len(files))

    def sample(name: str) -> np.ndarray | None:
        try:
            values = read_native(folder / name, channels, background).values.ravel()
        except UNREADABLE:
            return None  # named when the images are read
        if not np.isfinite(values).all():
            raise ValueError(f"{folder / name}: {NOT_FINITE}.")
        return values[:: -(-len(values) // each)]

    values = [it for it in decode_all(files, sample) if it is not None]
    if not values:
        raise ValueError(f"{folder}: expected images, got only files that cannot be read.")
    return percentile_window(values, percentiles)
