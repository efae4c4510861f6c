"""Values as files and arrays hold them -> the integers 0..levels-1: by a stated window or a stated number of levels,
never in silence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae_lightning.data.reading.native import RefusedError

Window = tuple[float, float]
LEVELS, MOST_LEVELS = 256, 2**16
NOT_FINITE = "expected finite numbers, got NaN or infinity: mend the image, or leave it out"


class Span(NamedTuple):
    """The ends of the values of some images.

    Args:
        low: the least value.
        high: the greatest one.
        real: whether they are real numbers.
        images: how many images were looked at.
        of: how many there are.
    """

    low: float
    high: float
    real: bool
    images: int = 1
    of: int = 1

    @classmethod
    def over(cls, images: list[np.ndarray], of: int) -> Span:
        """That of some images out of so many; values that are not finite are left out."""
        finite = [it[np.isfinite(it)] for it in images]
        ends = [(float(it.min()), float(it.max())) for it in finite if it.size]
        low, high = min((low for low, _ in ends), default=0.0), max((high for _, high in ends), default=0.0)
        return cls(low, high, any(it.dtype.kind == "f" for it in images), len(images), of)


class RangeError(RefusedError):
    """Values that neither levels nor a window say the meaning of.

    Args:
        expected: what was expected.
        own: the values that came.
        kind: what they are.
        where: where they were; empty as long as nobody has said.
        common: those of the other images that were looked at, these among them, which the remedy is for.
        percentiles: whether the source takes them.
    """

    def __init__(
        self,
        expected: str,
        own: Span,
        kind: str = "values",
        where: str = "",
        common: Span | None = None,
        percentiles: bool = False,
    ) -> None:
        self.expected, self.own, self.kind, self.where = expected, own, kind, where
        every, others = common or own, ""
        if common is not None:
            some = f"the {every.images} of {every.of} images that were looked at"
            others = f" in {f'all {every.of} images' if every.images == every.of else some}"
            if every[:2] != own[:2]:
                others = f" (from {every.low:g} to {every.high:g}{others})"
        said = f"expected {expected}, got {kind} from {own.low:g} to {own.high:g}{others}: {advice(every, percentiles)}"
        super().__init__(f"{where}: {said}." if where else said)

    def at(self, where: str, common: Span | None = None, percentiles: bool = False) -> RangeError:
        """The same with a place, and a remedy for what else was looked at."""
        return RangeError(self.expected, self.own, self.kind, where, common, percentiles)

    def told(self) -> str:
        """What to say of images for a model that was trained already."""
        return (
            f"expected {self.expected}, as the model was trained on, got {self.kind.rstrip(',')} from {self.own.low:g} "
            f"to {self.own.high:g}: bring them to that, or train a model on such images"
        )


def check_depth(what: str, levels: int | None, window: Window | None, percentiles: Window | None = None) -> None:
    """Raises ValueError for levels, a window or percentiles that mean nothing, or for a window said in two ways."""
    if levels is not None and not 2 <= levels <= MOST_LEVELS:
        raise ValueError(f"{what}.levels: expected from 2 to {MOST_LEVELS}, got {levels}.")
    if window is not None and not (np.isfinite(window).all() and window[0] < window[1]):
        raise ValueError(f"{what}.window: expected [low, high], low below high, got {list(window)}.")
    if percentiles is None:
        return
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(f"{what}.percentiles: expected [low, high] from 0 to 100, got {list(percentiles)}.")
    if window is not None:
        raise ValueError(
            f"{what}: expected a window or percentiles, got the window {list(window)} and the percentiles "
            f"{list(percentiles)}: leave one of them out, such as by --data.source.percentiles null."
        )


def to_levels(values: np.ndarray, levels: int | None, window: Window | None) -> np.ndarray:
    """Values of any shape -> uint8, or uint16 of more than 256 levels, holding 0..levels-1.

    With a window its ends become 0 and levels-1, what lies beyond them, too, and the rest is rounded to the level next
    to it. Without one integers are levels as they are, and real numbers in [0, 1] are rounded to the levels stated.

    Args:
        values: booleans, integers or real numbers.
        levels: how many; None for 256, or 2 of booleans, with real numbers taking a statement.
        window: (low, high), in the values' own unit.

    Raises:
        ValueError: values that are no finite numbers.
        RangeError: values that neither levels nor window say the meaning of; with a remedy.
    """
    if values.dtype.kind not in "buif":
        raise ValueError(f"expected integers or real numbers, got {values.dtype}: convert them")
    count = levels or (2 if values.dtype.kind == "b" and window is None else LEVELS)
    if not values.size:
        return values.astype(_dtype(count))
    low, high = (float(end) for end in (values.min(), values.max()))
    if not np.isfinite((low, high)).all():
        raise ValueError(NOT_FINITE)
    if window is not None:
        unit = (values.astype(np.float64) - window[0]) / (window[1] - window[0])
        return np.rint(unit.clip(0, 1) * (count - 1)).astype(_dtype(count))
    own = Span(low, high, values.dtype.kind == "f")
    if own.real:
        if levels is None or low < 0 or high > 1:
            raise RangeError("integers", own, "real numbers")
        return np.rint(values.astype(np.float64) * (count - 1)).astype(_dtype(count))
    if low < 0 or high > count - 1:
        raise RangeError(f"0..{count - 1}", own)
    return values.astype(_dtype(count))


def advice(span: Span, percentiles: bool = False) -> str:
    """What to state of values that are not 0..255; percentiles where the source takes them."""
    own, low, high = "", span.low, span.high
    if span.real and low >= 0 and high <= 1:
        own = "--data.source.levels 256 rounds [0, 1] to so many levels, or "
    elif not span.real and low >= 0 and high < MOST_LEVELS:
        own = f"--data.source.levels {1 << int(high).bit_length()} keeps them as they are, or "
    window = f"--data.source.window [{low:g},{high if high > low else low + 1:g}]"
    return (
        f"say what they mean: {own}{window} brings that range to 256 levels"
        + (", and what lies beyond to its ends" if span.images < span.of else "")
        + (", as does --data.source.percentiles [0.1,99.9] that of the training images" if percentiles else "")
    )


def _dtype(levels: int) -> type[np.generic]:
    return np.uint8 if levels <= LEVELS else np.uint16


def tensor_of(levels: np.ndarray) -> Tensor:
    """The tensor of what `to_levels` gave, sharing its memory."""
    return torch.from_numpy(np.ascontiguousarray(levels))


def percentile_window(samples: list[np.ndarray], percentiles: Window) -> Window:
    """The window between two percentiles of all samples' values; ValueError where they are one."""
    low, high = (float(it) for it in np.percentile(np.concatenate([it.ravel() for it in samples]), percentiles))
    if not low < high:
        raise ValueError(
            f"percentiles {list(percentiles)}: expected a range between them, got {low:g} for both: state a window, "
            "--data.source.window [low,high]."
        )
    return low, high
