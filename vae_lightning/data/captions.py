"""What is said of images: several phrasings each, of which one is drawn at a visit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

NEW_COMBINATION, NEW_ORDER = 1, 2
"""Bits of `held_out`: a combination of traits that no training image has, an order of words that no training caption
has."""


@dataclass(frozen=True)
class Captions:
    """The captions of N images: each may be said by `count` sentences that lie one after the other from `first` on.

    Args:
        sentences: U of them.
        first: (N,) int64, the number of an image's first sentence.
        count: (N,) int64, how many it has, at least one.
        meanings: captions that say all there is to say, each differently: what retrieval looks through.
        meaning: (N,) int64, the number of an image's own among them.
        held_out: (N,) int64, NEW_COMBINATION for an image of what is held out of training and validation, else 0.
        new_order: (U,) int64, NEW_ORDER for a sentence in the order of words that is held out, else 0.
        chosen: (N,) int64, the number of the sentence that stands for each image now.
        tokens: (U, T) int64, of each sentence; None as long as nobody has made tokens of them.
        meaning_tokens: those of each of `meanings`.
    """

    sentences: tuple[str, ...]
    first: Tensor
    count: Tensor
    meanings: tuple[str, ...]
    meaning: Tensor
    held_out: Tensor
    new_order: Tensor
    chosen: Tensor
    tokens: Tensor | None = None
    meaning_tokens: Tensor | None = None

    @classmethod
    def of(cls, phrasings: Sequence[Sequence[str]], held_out: Sequence[bool]) -> Captions:
        """The captions of images that have some each, of which the first says all there is to say."""
        meanings = tuple(dict.fromkeys(said[0] for said in phrasings))
        number = {meaning: i for i, meaning in enumerate(meanings)}
        count = torch.tensor([len(said) for said in phrasings], dtype=torch.int64)
        first = count.cumsum(0) - count
        sentences = tuple(sentence for said in phrasings for sentence in said)
        return cls(
            sentences,
            first,
            count,
            meanings,
            torch.tensor([number[said[0]] for said in phrasings], dtype=torch.int64),
            torch.tensor(held_out, dtype=torch.int64) * NEW_COMBINATION,
            torch.zeros(len(sentences), dtype=torch.int64),
            first,
        )

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: Tensor) -> Captions:
        """Those of some of the images."""
        columns = ("first", "count", "meaning", "held_out", "chosen")
        return replace(self, **{name: getattr(self, name)[index] for name in columns})

    def drawn(self, seed: int) -> Captions:
        """With one of each image's sentences chosen, by the seed and the image's place alone: the same in every process
        and in whatever batches."""
        uniform = torch.rand(len(self), generator=torch.Generator().manual_seed(seed % 2**63), dtype=torch.float64)
        place = (uniform.to(self.first.device) * self.count).long()
        return replace(self, chosen=self.first + place)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """(B,) int64 -> {"text": (B, T), "caption": (B, T), "meaning": (B,), "held_out": (B,)}, int64: what is said
        of an image now, and what says all there is to say."""
        chosen = self.chosen.index_select(0, index)
        found = {
            "meaning": self.meaning.index_select(0, index),
            "held_out": self.held_out.index_select(0, index) + self.new_order.index_select(0, chosen),
        }
        if self.meaning_tokens is not None:
            found["caption"] = self.meaning_tokens.index_select(0, found["meaning"])
        return found if self.tokens is None else {"text": self.tokens.index_select(0, chosen), **found}

    def said(self) -> list[str]:
        """All different sentences that these images can have, in their order."""
        steps = torch.zeros(len(self.sentences) + 1, dtype=torch.int64)
        steps.index_add_(0, self.first.cpu(), torch.ones(len(self), dtype=torch.int64))
        steps.index_add_(0, (self.first + self.count).cpu(), -torch.ones(len(self), dtype=torch.int64))
        return list(dict.fromkeys(self.sentences[i] for i in steps.cumsum(0)[:-1].nonzero().flatten().tolist()))

    def said_by(self, text: str) -> Tensor:
        """The numbers of the images that one of whose sentences is this text, whatever its case, rising, (M,) int64."""
        same = [i for i, sentence in enumerate(self.sentences) if sentence.casefold() == text.casefold()]
        after = torch.zeros(len(self.sentences) + 1, dtype=torch.int64, device=self.first.device)
        after[torch.tensor(same, dtype=torch.int64) + 1] = 1
        after = after.cumsum(0)  # how many of them come before a sentence
        return (after[self.first + self.count] > after[self.first]).nonzero()[:, 0]

    def texts(self) -> list[str]:
        """The sentence that stands for each image now."""
        return [self.sentences[i] for i in self.chosen.tolist()]

    def to(self, device: torch.device) -> Captions:
        moved: dict[str, Any] = {name: it.to(device) for name, it in vars(self).items() if torch.is_tensor(it)}
        return replace(self, **moved)

    def sha256(self) -> str:
        """The beginning of the digest of all that can be said of which image."""
        digest = hashlib.sha256("\n".join(self.sentences).encode())
        for column in (self.first, self.count, self.held_out):
            digest.update(column.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]
