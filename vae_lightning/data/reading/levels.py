"""Values as files and arrays hold them -> the integers 0..levels-1: by a stated window or a stated number of levels,
never in silence."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Window = tuple[float, float]
LEVELS, MOST_LEVELS = 256, 2**16


def check_depth(what: str, levels: int | None, window: Window | None) -> None:
    """Raises ValueError for a number of levels or a window that mean nothing."""
    if levels is not None and not 2 <= levels <= MOST_LEVELS:
        raise ValueError(f"{what}.levels: expected from 2 to {MOST_LEVELS}, got {levels}.")
    if window is not None and not (np.isfinite(window).all() and window[0] < window[1]):
        raise ValueError(f"{what}.window: expected [low, high], low below high, got {list(window)}.")


def to_levels(values: np.ndarray, levels: int | None, window: Window | None) -> np.ndarray:
    """Values of any shape -> uint8, or uint16 of more than 256 levels, holding 0..levels-1.

    With a window its ends become 0 and levels-1, what lies beyond them, too, and the rest is rounded to the level next
    to it. Without one integers are levels as they are, and real numbers in [0, 1] are rounded to the levels stated.

    Args:
        values: booleans, integers or real numbers.
        levels: how many; None for 256, or 2 of booleans, with real numbers taking a statement.
        window: (low, high), in the values' own unit.

    Raises:
        ValueError: values that are no numbers, or that neither levels nor window say the meaning of; with a remedy.
    """
    if values.dtype.kind not in "buif":
        raise ValueError(f"expected numbers, got {values.dtype}")
    count = levels or (2 if values.dtype.kind == "b" and window is None else LEVELS)
    if not values.size:
        return values.astype(_dtype(count))
    low, high = (float(end) for end in (values.min(), values.max()))
    if not np.isfinite((low, high)).all():
        raise ValueError(f"expected finite numbers, got values from {low:g} to {high:g}: mend or leave out what is not")
    if window is not None:
        unit = (values.astype(np.float64) - window[0]) / (window[1] - window[0])
        return np.rint(unit.clip(0, 1) * (count - 1)).astype(_dtype(count))
    if values.dtype.kind == "f":
        if levels is None or low < 0 or high > 1:
            raise ValueError(f"expected integers, got real numbers from {low:g} to {high:g}: {advice(low, high, True)}")
        return np.rint(values.astype(np.float64) * (count - 1)).astype(_dtype(count))
    if low < 0 or high > count - 1:
        raise ValueError(f"expected 0..{count - 1}, got values from {low:g} to {high:g}: {advice(low, high, False)}")
    return values.astype(_dtype(count))


def advice(low: float, high: float, real: bool, percentiles: bool = False) -> str:
    """What to state of values between two ends that are not 0..255; percentiles where the source takes them."""
    own = ""
    if real and low >= 0 and high <= 1:
        own = "--data.source.levels 256 rounds [0, 1] to so many levels, or "
    elif not real and low >= 0 and high < MOST_LEVELS:
        own = f"--data.source.levels {1 << int(high).bit_length()} keeps them as they are, or "
    return f"say what they mean: {own}--data.source.window [{low:g},{high:g}] brings that range to 256 levels" + (
        ", as does --data.source.percentiles [0.1,99.9] that of the training images" if percentiles else ""
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


def check_percentiles(what: str, percentiles: Window | None) -> None:
    """Raises ValueError for what are no two percentiles."""
    if percentiles is not None and not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(f"{what}.percentiles: expected [low, high] from 0 to 100, got {list(percentiles)}.")
