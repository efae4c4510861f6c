"""Training, validation and test images, kept apart and told what batches hold of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vae_lightning.core import TextSpec
from vae_lightning.data.batches import seed_of
from vae_lightning.data.reading.layout import Split
from vae_lightning.data.source import Images, sha256
from vae_lightning.tokens import tokens_of

STREAMS: dict[Split, int] = {"val": 1, "test": 2, "train": 3}
"""Of the random numbers by which a split is fixed."""


def hold_back(
    images: Images, val_size: int | float, seed: int, most: int | None = None
) -> tuple[Images, Images, Tensor]:
    """Training images, and those of them that are kept for validation, with their rows: so many, or such a share but
    `most` at most, at random by a seed. ValueError where one of both would be empty."""
    count = round(val_size * len(images)) if val_size < 1 else int(val_size)
    if len(images) < 2:
        raise ValueError(
            "expected at least two training images, one of which is kept for validation, got one: add images, or give "
            "validation images of their own."
        )
    if not 0 < count < len(images):
        raise ValueError(
            f"data.val_size: expected between 1 and {len(images) - 1} of the {len(images)} training images, got "
            f"{val_size}, which is {count}: say how many, --data.val_size {max(1, len(images) // 10)}."
        )
    if most is not None:
        count = min(count, most)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    chosen = order[:count].sort().values
    return images[order[count:].sort().values], images[chosen], chosen


def told(images: Images, split: Split, split_seed: int, text: TextSpec | None, columns: Sequence[str] | None) -> Images:
    """With tokens and a fixed draw of the captions, the same at every pass, and the columns that are asked for."""
    captions = images.captions
    if captions is not None:
        captions = captions.drawn(seed_of(split_seed, STREAMS[split]))
        if text is not None:
            tokens, meanings = (tokens_of(text, said) for said in (captions.sentences, captions.meanings))
            captions = replace(captions, tokens=tokens, meaning_tokens=meanings)
    wanted = ("label", "text") if columns is None else columns
    shown = tuple(name for name in wanted if split != "train" or name in ("label", "text"))
    return replace(images, captions=captions, columns=shown)


def digests(splits: Mapping[str, Images]) -> dict[str, Any]:
    """Of every split its size and a digest of its bytes, and of its captions where there are any."""
    captions = {name: images.captions.sha256() for name, images in splits.items() if images.captions is not None}
    return {
        "sizes": {name: len(images) for name, images in splits.items()},
        "sha256": {name: sha256(images) for name, images in splits.items()},
        **({"captions": captions} if captions else {}),
    }
