"""What captions say of images, and judges that see it in images: of kinds by a classifier, of colours by measuring."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Attributes:
    """What captions say, by a regular expression with a named group for each attribute: of `"man farmer: dark skin
    tone"` the expression `"^(?:man |woman )?(?P<role>.+): (?P<tone>.+) skin tone$"` finds the role and the tone.

    Args:
        pattern: the regular expression; captions in which it is not found are not judged.
        colours: the groups that are shown as colours, each value as one; the others are kinds.

    Raises:
        ValueError: no regular expression, none with named groups, or a colour that is none of them.
    """

    pattern: str
    colours: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            names = re.compile(self.pattern).groupindex
        except re.error as error:
            raise ValueError(
                f"attributes.pattern: expected a regular expression, got {self.pattern!r}: {error}."
            ) from None
        if not names:
            raise ValueError(
                "attributes.pattern: expected a named group an attribute, such as (?P<colour>red|blue), got "
                f"{self.pattern!r}."
            )
        if unknown := [name for name in self.colours if name not in names]:
            raise ValueError(f"attributes.colours: expected some of the groups {', '.join(names)}, got {unknown[0]!r}.")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(re.compile(self.pattern).groupindex)

    def said(self, captions: Sequence[str]) -> list[Said | None]:
        """What each caption says; None of one that the pattern is not found in."""
        return [None if found is None else _said(found, self.names) for found in map(self._search, captions)]

    def _search(self, caption: str) -> re.Match[str] | None:
        found = re.search(self.pattern, caption, re.IGNORECASE)
        return found if found and all(found[name] is not None for name in self.names) else None


class Said(NamedTuple):
    """Of one caption: {attribute: its value, in small letters}, and {attribute: the caption without it}."""

    values: dict[str, str]
    rest: dict[str, str]


def _said(found: re.Match[str], names: Sequence[str]) -> Said:
    values = {name: found[name].lower() for name in names}
    rest = {name: found.string[: found.start(name)] + "\0" + found.string[found.end(name) :] for name in names}
    return Said(values, {name: text.lower() for name, text in rest.items()})


BINS = 16
"""Of each channel, in which colours are counted."""
STEPS = 5
MOST = 0.75
"""Share of the images of captions that differ in the colour alone that show their own colours at a pixel, from which on
it is looked at."""


class ColourJudge:
    """Which of some colours an image shows: the one that most of the pixels are nearest to, of those pixels at which
    training images show it.

    The colour of a value is measured: the mean around the one that the value's training images have oftener than those
    of any other value. Pixels are those at which training images whose captions differ in this attribute alone show
    their own values' colours; where there are none, or captions are new, those at which such images do on average.

    Args:
        images: (N, C, H, W) integers, training images.
        labels: (N,) int64, values 0..V-1, each at least once.
        rest: what else each image's caption says.
        levels: of a value of an image.
    """

    def __init__(self, images: Tensor, labels: Tensor, rest: Sequence[str], levels: int) -> None:
        self.levels = levels
        pixels = self._pixels(images)  # (N, H W, C)
        self.colours = torch.stack(self._measured(pixels, labels))  # (V, C)
        apart = torch.pdist(self.colours)
        self.reach = apart.min().item() / 2 if len(apart) else 1.0
        own = (pixels - self.colours[labels][:, None]).norm(dim=2) < self.reach  # (N, H W)
        self.number = {text: i for i, text in enumerate(dict.fromkeys(rest))}
        group = torch.tensor([self.number[text] for text in rest])
        count = group.bincount(minlength=len(self.number))
        shown = torch.zeros(len(self.number), own.shape[1]).index_add_(0, group, own.float()) / count[:, None]
        shown = torch.where((shown >= MOST).any(1, keepdim=True), shown * (shown >= MOST), shown)
        self.on_average = shown.mean(0) if shown.any() else torch.ones(shown.shape[1])
        self.shown = torch.where(shown.any(1, keepdim=True), shown, self.on_average)

    def _pixels(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H W, C) in [0, 1]."""
        return images.flatten(2).transpose(1, 2).float() / (self.levels - 1)

    def _measured(self, pixels: Tensor, labels: Tensor) -> list[Tensor]:
        places = torch.tensor([BINS**i for i in range(pixels.shape[2])])
        which = ((pixels * BINS).long().clamp_max(BINS - 1) * places).sum(2)  # (N, H W)
        values = int(labels.max()) + 1 if len(labels) else 0
        if len(labels.unique()) < max(values, 2):
            raise ValueError(
                f"ColourJudge: expected training images of each of two values or more, got {len(labels)} images of "
                f"{len(labels.unique())} of {values} values: hold out less, or take the colour from the attributes."
            )
        often = torch.stack(
            [which[labels == v].flatten().bincount(minlength=int(places[-1]) * BINS) for v in range(values)]
        )
        often = often / often.sum(1, keepdim=True)
        found = []
        for v in range(values):
            others = often[torch.arange(values) != v]
            more = often[v] - (others.amax(0) if len(others) else 0)
            colour = (more.argmax() // places % BINS + 0.5) / BINS
            own = pixels[labels == v].flatten(0, 1)
            for _ in range(STEPS):
                near = own[(own - colour).norm(dim=1) < 1 / BINS]
                colour = near.mean(0) if len(near) else colour
            found.append(colour)
        return found

    def __call__(self, images: Tensor, rest: Sequence[str]) -> Tensor:
        """(N, C, H, W) integers and what else their captions say -> (N,) int64."""
        pixels = self._pixels(images)
        nearest = torch.cdist(pixels, self.colours.expand(len(pixels), -1, -1)).argmin(2)  # (N, H W)
        own = (self.shown[self.number[text]] if text in self.number else self.on_average for text in rest)
        weight = torch.stack(list(own))
        votes = pixels.new_zeros(len(pixels), len(self.colours)).scatter_add_(1, nearest, weight)
        return votes.argmax(1)
