"""What a window leaves out: values beyond it, which become its ends, are counted and said."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vae_lightning.data.reading.levels import LEVELS, Window


def beyond(values: np.ndarray, levels: int | None, window: Window) -> np.ndarray:
    """Which values lie beyond a window, by more than half a level: what rounds to its ends anyway is not counted."""
    half = (window[1] - window[0]) / (2 * ((levels or LEVELS) - 1))
    return np.asarray((values < window[0] - half) | (values > window[1] + half))


@dataclass
class Clipping:
    """Counts over images what a window clips.

    Args:
        levels: how many the window becomes; None for 256.
        window: (low, high); None where there is none, and nothing to count.
    """

    levels: int | None
    window: Window | None
    images: int = 0
    of_images: int = 0
    values: int = 0
    of_values: int = 0
    low: float = np.inf
    high: float = -np.inf

    def add(self, images: np.ndarray) -> bool:
        """Counts the values (N, ...) of N images; whether some are clipped."""
        if self.window is None or not images.size:
            return False
        found = beyond(images, self.levels, self.window).reshape(len(images), -1)
        self.images, self.of_images = self.images + int(found.any(1).sum()), self.of_images + len(found)
        self.values, self.of_values = self.values + int(found.sum()), self.of_values + found.size
        self.low, self.high = min(self.low, float(images.min())), max(self.high, float(images.max()))
        return bool(found.any())

    def said(self, what: str = "images", such: str = "") -> str:
        """The sentence about it; empty where nothing is clipped."""
        if self.window is None or not self.images:
            return ""
        ends = [min(self.low, self.window[0]), max(self.high, self.window[1])]
        return (
            f"{self.images} of {self.of_images} {what} have values beyond the window [{self.window[0]:g},"
            f"{self.window[1]:g}]{f', such as {such}' if such else ''}: {100 * self.values / self.of_values:.3g} % of "
            f"all values become its ends; the window [{ends[0]:g},{ends[1]:g}] would hold them."
        )
