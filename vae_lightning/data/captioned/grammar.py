"""What can be said of an image by its class and its measured style, with synonyms, in several orders, at any length."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from vae_lightning.data.captioned.style import brightness, slant, thickness, warmth

Words = tuple[str, ...]
"""Synonyms, the plainest first."""
BINS = 3
"""Of a measure: the lowest, the middle and the highest third of the training images."""


class Grammar(ABC):
    """Sentences about images of which the class and some measured traits are known, each trait by its third.

    Attributes:
        traits: name -> the synonyms of its lowest, middle and highest third, in the order of `measured`.
        nouns: the synonyms of each class, in the order of the labels.
        orders: patterns of sentences with {noun} and {trait}s, of which a sentence may leave some out; the first one
            says all.
        new_order: the pattern that training and validation never see.
        new_combinations: (label, third of each trait) that training and validation never see.
    """

    traits: ClassVar[Mapping[str, tuple[Words, Words, Words]]]
    nouns: ClassVar[Sequence[Words]]
    orders: ClassVar[Sequence[str]]
    new_order: ClassVar[str]
    new_combinations: ClassVar[Sequence[tuple[int, ...]]]

    @abstractmethod
    def measured(self, image: Tensor, levels: int) -> Tensor:
        """(N, C, H, W) integers 0..levels-1 -> (N, traits)."""

    def number(self, label: Tensor, thirds: Tensor) -> Tensor:
        """Labels (N,) and the third of each trait (N, traits), int64 -> the combination's number (N,)."""
        found = label
        for column in thirds.unbind(1):
            found = found * BINS + column
        return found

    def combination(self, number: Tensor) -> Tensor:
        """(N,) -> label and the third of each trait, (N, 1 + traits): what `number` made one of."""
        columns = []
        for _ in self.traits:
            columns.append(number % BINS)
            number = number // BINS
        return torch.stack([number, *columns[::-1]], 1)

    def combinations(self) -> Iterator[tuple[int, ...]]:
        """All of them, in the order of their numbers."""
        return product(range(len(self.nouns)), *(range(BINS) for _ in self.traits))

    def sentences(self, combination: tuple[int, ...], order: str) -> list[str]:
        """What a pattern says of a combination, by all its synonyms, the plainest first."""
        label, *thirds = combination
        words = {"noun": self.nouns[label]}
        for (name, synonyms), third in zip(self.traits.items(), thirds, strict=True):
            words[name] = synonyms[third]
        used = [name for name in words if f"{{{name}}}" in order]
        chosen = product(*(words[name] for name in used))
        return [_with_article(order.format(**dict(zip(used, choice, strict=True)))) for choice in chosen]


def _with_article(sentence: str) -> str:
    """`a` becomes `an` where a vowel is heard."""
    return re.sub(r"\ba (?=(?!one\b)[aeiou8])", "an ", sentence)


class DigitGrammar(Grammar):
    """Digits, thin or thick, slanted or upright: "a thick left-slanted seven", "a 7 that is italic", "seven"."""

    traits: ClassVar = {
        "thickness": (("thin", "fine", "light"), ("medium", "regular", "ordinary"), ("thick", "bold", "heavy")),
        "slant": (
            ("left-slanted", "left-leaning", "backward"),
            ("upright", "straight", "vertical"),
            ("right-slanted", "right-leaning", "italic"),
        ),
    }
    nouns: ClassVar = tuple(
        zip(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"), "0123456789", strict=True)
    )
    orders: ClassVar = (
        "a {thickness} {slant} {noun}",
        "a {slant} {thickness} {noun}",
        "a {noun} that is {thickness} and {slant}",
        "a {thickness} {noun}",
        "a {slant} {noun}",
        "{thickness} {noun}",
        "{slant} {noun}",
        "a {noun} that is {thickness}",
        "a {noun} that is {slant}",
        "a {noun}",
        "{noun}",
    )
    new_order: ClassVar = "a {thickness} {noun} that is {slant}"
    # One a digit, each of the nine styles once or twice, common ones.
    new_combinations: ClassVar = (
        *((0, 1, 1), (1, 2, 0), (2, 0, 0), (3, 0, 1), (4, 2, 2)),
        *((5, 1, 2), (6, 1, 0), (7, 0, 2), (8, 2, 1), (9, 0, 1)),
    )

    def measured(self, image: Tensor, levels: int) -> Tensor:
        return torch.stack([thickness(image, levels), slant(image, levels)], 1)


class PhotoGrammar(Grammar):
    """CIFAR-10's photographs, dark or bright, of cool or warm colours: "a bright warm photo of a horse"."""

    traits: ClassVar = {
        "light": (("dark", "dim"), ("softly-lit", "half-lit"), ("bright", "light")),
        "colour": (("cool", "bluish"), ("neutral", "muted"), ("warm", "warm-toned")),
    }
    nouns: ClassVar = (
        *(("airplane", "plane"), ("automobile", "car"), ("bird",), ("cat",), ("deer",)),
        *(("dog",), ("frog",), ("horse",), ("ship", "boat"), ("truck", "lorry")),
    )
    orders: ClassVar = (
        "a {light} {colour} photo of a {noun}",
        "a {noun} in a {colour} {light} picture",
        "a photo of a {noun} that is {light} and {colour}",
        "a {light} photo of a {noun}",
        "a {colour} photo of a {noun}",
        "a {noun} in a {light} picture",
        "a {noun} in a {colour} picture",
        "a photo of a {noun}",
        "a {noun}",
    )
    new_order: ClassVar = "a {light} {noun} in a {colour} photo"
    new_combinations: ClassVar = (
        *((0, 0, 0), (1, 2, 0), (2, 2, 1), (3, 0, 2), (4, 2, 2)),
        *((5, 1, 2), (6, 0, 1), (7, 1, 1), (8, 2, 1), (9, 1, 0)),
    )

    def measured(self, image: Tensor, levels: int) -> Tensor:
        return torch.stack([brightness(image, levels), warmth(image, levels)], 1)
