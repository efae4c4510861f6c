"""Captions for a data set that has labels alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae_lightning.data.captioned.grammar import BINS, Grammar
from vae_lightning.data.captions import NEW_COMBINATION, NEW_ORDER, Captions
from vae_lightning.data.source import Images, ImageSource, Shape, Splits, sha256
from vae_lightning.files import write_atomically

AT_ONCE = 512
"""Images that are measured together."""
KEPT_FROM = 2**22
"""Values of images from which on measures are kept in a file: a second's worth."""


class Captioned(ImageSource):
    """Any labelled data set with captions by a grammar: of the class, and of style as it is measured, by thirds of the
    source's training images. An image's captions are all sentences that the grammar has for it. Training and validation
    see none of the grammar's new combinations, and no caption in its new order of words; the test images keep both, and
    `Captions.held_out` says which they are.

    Args:
        source: the images, with labels.
        grammar: what can be said of them.
        hold_out: false keeps all images and orders of words in training and validation, too.

    Attributes:
        edges: (traits, 2) float32, the thirds' limits, once the images are loaded.
    """

    def __init__(self, source: ImageSource, grammar: Grammar, hold_out: bool = True) -> None:
        self.source, self.grammar, self.hold_out = source, grammar, hold_out
        self.edges: Tensor | None = None

    @property
    def name(self) -> str:
        return f"{type(self).__name__}-{self.source.name}"

    def find(self, root: Path) -> None:
        self.source.find(root)

    @property
    def image_shape(self) -> Shape:
        return self.source.image_shape

    @property
    def levels(self) -> int:
        return self.source.levels

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.source.classes

    @property
    def captioned(self) -> bool:
        return True

    def load(self, root: Path, download: bool) -> Splits:
        classes, nouns = self.classes or (), self.grammar.nouns
        if len(classes) != len(nouns):
            raise ValueError(
                f"Captioned.grammar: expected one that has a noun for each of the {len(classes)} classes of "
                f"{self.source.name}, got {type(self.grammar).__name__} with {len(nouns)}: choose another."
            )
        splits = self.source.load(root, download)
        parts = {name: part for name, part in vars(splits).items() if part is not None}
        measured = {name: self._kept(part, root / "cache") for name, part in parts.items()}
        thirds = torch.arange(1, BINS) / BINS
        self.edges = torch.quantile(measured["train"], thirds, dim=0).T.contiguous()
        found: dict[str, Any] = {}
        for name, part in parts.items():
            captions = self._captions(part, self._thirds(measured[name]), is_test=name == "test")
            part = replace(part, captions=captions)
            found[name] = part[(captions.held_out == 0).nonzero()[:, 0]] if name != "test" else part
        return Splits(**found)

    def measured(self, image: Tensor) -> Tensor:
        """(N, C, H, W) integers 0..levels-1 -> (N, traits) float32."""
        return torch.cat([self.grammar.measured(part, self.levels) for part in image.split(AT_ONCE)])

    def thirds(self, image: Tensor) -> Tensor:
        """(N, C, H, W) integers 0..levels-1 -> (N, traits) int64, 0 to 2: the thirds of the training images that they
        would lie in. ValueError before the images are loaded."""
        return self._thirds(self.measured(image))

    def _thirds(self, measured: Tensor) -> Tensor:
        if self.edges is None:
            raise ValueError("Captioned.thirds: expected loaded images, whose thirds are known, got none: call load().")
        edges = self.edges.to(measured.device)
        return torch.stack([torch.bucketize(measured[:, i].contiguous(), edges[i]) for i in range(len(edges))], 1)

    def _kept(self, images: Images, place: Path) -> Tensor:
        """(N, traits) float32, from a file where it has been measured before and takes long."""
        if len(images) * images.stored[0].numel() < KEPT_FROM:
            return self.measured(images.image)
        probe = self.measured(images.some(8).image).numpy().tobytes()  # other measures have other files
        key = hashlib.sha256(probe + sha256(images).encode()).hexdigest()
        file = place / f"{self.name}-{key[:16]}.npy"
        if file.is_file():
            return torch.from_numpy(np.load(file))
        print(f"measuring the style of {len(images)} images of {self.source.name}, once")
        found = torch.cat([self.measured(part) for part in images.chunks(AT_ONCE)])
        try:
            write_atomically(file, lambda stream: np.save(stream, found.numpy()))
        except OSError as error:
            print(f"the measures are not kept ({error})")
        return found

    def _captions(self, images: Images, thirds: Tensor, is_test: bool) -> Captions:
        """Of all combinations the sentences of the known orders, then those of the new one, one after the other."""
        grammar, known, new = self.grammar, [], []
        assert images.label is not None
        combinations = list(grammar.combinations())
        for combination in combinations:
            said = (text for order in grammar.orders for text in grammar.sentences(combination, order))
            known.append(list(dict.fromkeys(said)))
            new.append(grammar.sentences(combination, grammar.new_order))
        known_count, new_count = (torch.tensor([len(said) for said in part]) for part in (known, new))
        count = known_count + new_count
        first = count.cumsum(0) - count
        is_new = [flag for a, b in zip(known, new, strict=True) for flag in [0] * len(a) + [NEW_ORDER] * len(b)]
        held_out = torch.tensor([combination in grammar.new_combinations for combination in combinations])
        meaning = grammar.number(images.label, thirds)
        return Captions(
            sentences=tuple(text for a, b in zip(known, new, strict=True) for text in (*a, *b)),
            first=first[meaning],
            count=(count if is_test or not self.hold_out else known_count)[meaning],
            meanings=tuple(said[0] for said in known),
            meaning=meaning,
            held_out=(held_out.long() * NEW_COMBINATION * self.hold_out)[meaning],
            new_order=torch.tensor(is_new) * self.hold_out,
            chosen=first[meaning],
        )
