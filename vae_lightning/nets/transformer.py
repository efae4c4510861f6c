"""The transformer: causal or not, with a prefix, padding and a cache of keys and values.

Legend of shapes: B sequences of T positions; P positions that the cache holds already; width: numbers at a position.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Cache:
    """Keys and values of the P positions that a causal transformer has seen, so that each is worked out once. It grows
    with every call that it is given to; begin every sequence with a new one."""

    keys: list[Tensor] = field(default_factory=list)  # one a block, (B, heads, P, width / heads)
    values: list[Tensor] = field(default_factory=list)
    padding: Tensor | None = None  # (B, P)

    def __len__(self) -> int:
        """P."""
        return self.keys[0].shape[2] if self.keys else 0

    def extend(self, block: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Takes a block's keys and values of new positions, and gives those of all."""
        if block == len(self.keys):
            self.keys.append(key)
            self.values.append(value)
        else:
            self.keys[block] = torch.cat((self.keys[block], key), 2)
            self.values[block] = torch.cat((self.values[block], value), 2)
        return self.keys[block], self.values[block]


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Xiong et al. 2020, pre-norm)."""

    def __init__(self, width: int, heads: int, dropout: float, depth: int) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        with torch.no_grad():  # so that the sum over all blocks starts as large as one (Radford et al. 2019)
            for last in (self.merge, self.contract):
                last.weight.mul_((2 * depth) ** -0.5)

    def forward(self, x: Tensor, index: int, seen: Tensor | None, is_causal: bool, cache: Cache | None) -> Tensor:
        x = x + self._drop(self.attend(self.before_attention(x), index, seen, is_causal, cache))
        return x + self._drop(self.contract(F.gelu(self.expand(self.before_mlp(x)))))

    def attend(self, x: Tensor, index: int, seen: Tensor | None, is_causal: bool, cache: Cache | None) -> Tensor:
        split = self.query_key_value(x).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, heads, width / heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        if cache is not None:
            key, value = cache.extend(index, key, value)
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, seen, dropout_p=rate, is_causal=is_causal)
        out: Tensor = self.merge(mixed.transpose(1, 2).flatten(2))
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Transformer(nn.Module):
    """Blocks of self-attention over a sequence, and a layer norm at the end (Vaswani et al. 2017). It knows no
    positions: whoever makes the sequence adds them.

    Args:
        width: numbers at a position, a multiple of `heads`.
        depth: how many blocks.
        heads: of each attention.
        causal: no position sees a later one.
        dropout: probability of dropping in training, of attention weights and of what a block adds.

    Raises:
        ValueError: a width that the heads do not divide, or no block.
    """

    def __init__(self, width: int, depth: int, heads: int, causal: bool, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or width < 1 or width % heads:
            raise ValueError(
                f"Transformer.width: expected a multiple of the number of heads, got {width} for {heads} heads: "
                "change one of the two."
            )
        if depth < 1:
            raise ValueError(f"Transformer.depth: expected at least 1 block, got {depth}.")
        self.width, self.causal = width, causal
        self.blocks = nn.ModuleList(Block(width, heads, dropout, depth) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, cache: Cache | None = None, padding: Tensor | None = None, prefix: int = 0) -> Tensor:
        """(B, T, width) -> (B, T, width).

        Args:
            x: the sequence, or what comes behind the positions that the cache holds.
            cache: keys and values of the positions before x; x's own are added to it. For a causal transformer alone:
                in another one the earlier positions would have to see the new ones.
            padding: (B, T) bool, true where x is padding, which no other position sees; what comes out there means
                nothing.
            prefix: the first so many positions see each other both ways, as conditions do, and all others see them
                (Raffel et al. 2020, section 3.2.1). With a cache it comes whole, with the first positions.

        Raises:
            ValueError: a cache without a causal mask, or a prefix behind cached positions.
        """
        if cache is not None and not self.causal:
            raise ValueError(
                "Transformer.cache: expected a causal transformer, got one whose positions all see later ones."
            )
        past = 0 if cache is None else len(cache)
        if prefix and past:
            raise ValueError(
                f"Transformer.prefix: expected it among the first positions, got it behind {past} cached ones: give "
                "the whole prefix with the first call."
            )
        seen = self._seen(x, past, cache, padding, prefix)
        whole = self.causal and not past and seen is None  # torch's flag aligns its triangle to the first key
        for index, block in enumerate(self.blocks):
            x = block(x, index, seen, whole, cache)
        out: Tensor = self.norm(x)
        return out

    def _seen(self, x: Tensor, past: int, cache: Cache | None, padding: Tensor | None, prefix: int) -> Tensor | None:
        """Which of the P + T keys each of the T new positions sees, (B or 1, 1, T, P + T) bool; None where that is all
        of them, or in a causal transformer without a cache those up to its own."""
        length = x.shape[1]
        if cache is not None:
            padding = cache.padding = _joined(cache.padding, padding, x, past)
        if padding is None and not prefix and (not past or length == 1):
            return None
        place = torch.arange(past + length, device=x.device)
        seen = torch.ones(length, past + length, dtype=torch.bool, device=x.device)
        if self.causal:
            seen = (place <= place[past:, None]) | (place < prefix)
        if padding is None:
            return seen[None, None]
        own = place == place[past:, None]  # padding sees itself, or it would see nothing, which is not a number
        return ((seen & ~padding[:, None, :]) | own)[:, None]


def _joined(before: Tensor | None, padding: Tensor | None, x: Tensor, past: int) -> Tensor | None:
    """The padding of cached and new positions, (B, P + T); None where nothing is padded."""
    if before is None and padding is None:
        return None
    batch, length, _ = x.shape
    before = torch.zeros(batch, past, dtype=torch.bool, device=x.device) if before is None else before
    padding = torch.zeros(batch, length, dtype=torch.bool, device=x.device) if padding is None else padding
    return torch.cat((before, padding), 1)
