"""What is given: batches, what the data are, and random numbers that leave no trace."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]
Batch = Mapping[str, Tensor]
"""What is given of B images, by name: image (B, C, H, W) float32 holding the integers 0..levels-1; label (B,) int64,
`UNKNOWN` where training is not told it; text (B, T) int64, a caption's token ids: 1 (start), those of its words, 2
(end), and 0 to the end."""

UNKNOWN = -1
"""The label of an image of which it is not known."""


@dataclass(frozen=True)
class TextSpec:
    """What captions are made of.

    Args:
        vocabulary: how many token ids there are.
        length: tokens T of a padded caption, start and end among them.
        tokenizer: JSON of the `tokenizers` library.
    """

    vocabulary: int
    length: int
    tokenizer: str


@dataclass(frozen=True)
class Spec:
    """What the data are.

    Args:
        image_shape: (C, H, W).
        levels: how many grey levels a value can take; images hold the integers 0..levels-1.
        classes: the classes' names in the order of their labels; None where there are no labels.
        text: what captions are made of; None where there are none.
    """

    image_shape: Shape
    levels: int
    classes: tuple[str, ...] | None = None
    text: TextSpec | None = None

    def require_text(self, what: str) -> TextSpec:
        """What captions are made of; ValueError where the data have none."""
        if self.text is None:
            raise ValueError(
                f"{what}: expected data with captions, got images without: choose a source that has them "
                "(configs/data/captions.yaml), or a model without text."
            )
        return self.text

    def require_classes(self, what: str) -> int:
        """How many classes there are; ValueError where the data have none."""
        if not self.classes:
            raise ValueError(
                f"{what}: expected data with classes, got images without labels: choose a source that has them (a "
                "folder with a sub-folder a class), or a model without labels."
            )
        return len(self.classes)

    def class_number(self, word: str) -> int:
        """The number of a class, by its name or else by the number itself; ValueError, with the nearest names, for an
        unknown one."""
        classes = self.classes or ()
        if word in classes:
            return classes.index(word)
        if word.isdecimal() and int(word) < len(classes):
            return int(word)
        folded = {name.casefold(): name for name in classes}
        found = difflib.get_close_matches(word.casefold(), folded, n=3, cutoff=0.4)
        near = " or ".join(folded[name] for name in found)
        hint = f"did you mean {near}?" if near else f"choose from {', '.join(classes[:10])}."
        raise ValueError(f"label: expected a class's name or number, 0..{len(classes) - 1}, got {word!r}: {hint}")


def image_of(given: Batch) -> Tensor:
    """The images of a batch, (B, C, H, W); ValueError where there are none."""
    image = given.get("image")
    if image is None:
        raise ValueError(f"expected an image in the batch, got {', '.join(given) or 'an empty one'}.")
    return image


def without_image(given: Batch) -> dict[str, Tensor]:
    """What else is given, such as labels."""
    return {name: value for name, value in given.items() if name != "image"}


def rows(given: Batch, chosen: slice | Tensor) -> dict[str, Tensor]:
    """The batch of some of its images."""
    return {name: value[chosen] for name, value in given.items()}


@contextmanager
def seeded(seed: int | None, device: torch.device | None = None) -> Iterator[None]:
    """Random numbers of their own seed, or of none but given back afterwards: the generators of the CPU and of the
    device stand where they stood, whatever happens within."""
    with torch.random.fork_rng([device] if device is not None and device.type == "cuda" else []):
        if seed is not None:
            torch.manual_seed(seed)
        yield
