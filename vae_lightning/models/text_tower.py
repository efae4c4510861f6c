"""Captions to features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_lightning.core import TextSpec
from vae_lightning.nets import Transformer
from vae_lightning.tokens import END, PAD, START


class TextTower(nn.Module, ABC):
    """Token ids (B, T) int64 -> features (B, size)."""

    size: int

    @abstractmethod
    def forward(self, text: Tensor) -> Tensor: ...


TextTowerFactory = Callable[[TextSpec], TextTower]
"""text -> TextTower: how a configuration file names one before the captions are known."""


class BagOfWords(TextTower):
    """The mean of the words' vectors through two layers: it knows which words a caption has and nothing of their order,
    so that a new combination of known words lies between captions that share them. Cheap, and better than a transformer
    where pairs are few.

    Args:
        text: what captions are made of.
        width: numbers at a token.
        dropout: probability of dropping in training, a word's numbers as well as those of the hidden layer.
    """

    def __init__(self, text: TextSpec, width: int = 256, dropout: float = 0.0) -> None:
        super().__init__()
        self.token = nn.Embedding(text.vocabulary, width)
        self.mix = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width)
        )
        self.size = width

    def forward(self, text: Tensor) -> Tensor:
        is_word = ((text != PAD) & (text != START) & (text != END))[..., None].float()
        mean = (self.token(text) * is_word).sum(1) / is_word.sum(1).clamp_min(1)
        out: Tensor = mean + self.mix(F.layer_norm(mean, mean.shape[-1:]))
        return out


class TextTransformer(TextTower):
    """A causal transformer, read at the end token: it sees the whole caption, and nothing sees the padding behind it
    (Radford et al. 2021, section 2.4).

    Args:
        text: what captions are made of.
        width: numbers at a token.
        depth: how many blocks.
        heads: of each attention.
        dropout: probability of dropping in training.
    """

    def __init__(self, text: TextSpec, width: int = 128, depth: int = 2, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.token = nn.Embedding(text.vocabulary, width)
        self.place = nn.Parameter(0.01 * torch.randn(text.length, width))
        nn.init.normal_(self.token.weight, std=0.02)
        self.transformer = Transformer(width, depth, heads, causal=True, dropout=dropout)
        self.size = width

    def forward(self, text: Tensor) -> Tensor:
        if text.shape[1] > len(self.place):
            raise ValueError(
                f"TextTransformer: expected captions of at most {len(self.place)} tokens, got {text.shape[1]}: encode "
                "them by the model's own TextSpec."
            )
        x = self.transformer(self.token(text) + self.place[: text.shape[1]])  # (B, T, width)
        end = (text == END).int().argmax(1)
        out: Tensor = x[torch.arange(len(x), device=x.device), end]
        return out
