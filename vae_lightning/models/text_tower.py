"""Captions to features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vae_lightning.core import TextSpec
from vae_lightning.nets import Transformer
from vae_lightning.tokens import END


class TextTower(nn.Module, ABC):
    """Token ids (B, T) int64 -> features (B, size)."""

    size: int

    @abstractmethod
    def forward(self, text: Tensor) -> Tensor: ...


TextTowerFactory = Callable[[TextSpec], TextTower]
"""text -> TextTower: how a configuration file names one before the captions are known."""


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
