"""The entropy coder alone: constriction's beside the best that numpy can do, one state for each of 500 images.

python -m benchmarks.coder
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.harness import arguments, compare, seconds
from vae_lightning.compression import Stack, Table
from vae_lightning.compression.stack import seeded

LANES, VALUES = 500, 784
PRECISION, WORD = np.uint64(16), np.uint64(32)
ONE = np.uint64(1)


class Interleaved:
    """Binary values by asymmetric numeral systems (Duda 2013), a value of every image at a time: 64-bit states, words
    of 32 bits, probabilities that are multiples of 2^-16.

    Args:
        ones: P(x = 1), (VALUES, LANES).
    """

    def __init__(self, ones: np.ndarray) -> None:
        total = 1 << int(PRECISION)
        self.ones = np.clip((ones * total).astype(np.int64), 1, total - 1).astype(np.uint64)
        self.zeros = np.uint64(total) - self.ones
        self.state = np.full(ones.shape[1], ONE << WORD, np.uint64)
        self.words: list[np.ndarray] = []

    def push(self, bits: np.ndarray) -> None:
        for i in reversed(range(len(bits))):
            mass = np.where(bits[i], self.ones[i], self.zeros[i])
            full = self.state >= mass << np.uint64(48)
            self.words.append(self.state[full].astype(np.uint32))
            self.state[full] >>= WORD
            quotient, rest = np.divmod(self.state, mass)
            self.state = (quotient << PRECISION) + rest + np.where(bits[i], self.zeros[i], np.uint64(0))

    def pop(self) -> np.ndarray:
        bits = np.empty(self.ones.shape, dtype=bool)
        for i in range(len(bits)):
            low = self.state & np.uint64(2 ** int(PRECISION) - 1)
            bits[i] = low >= self.zeros[i]
            mass = np.where(bits[i], self.ones[i], self.zeros[i])
            self.state = mass * (self.state >> PRECISION) + low - np.where(bits[i], self.zeros[i], np.uint64(0))
            empty = self.state < ONE << WORD
            self.state[empty] = (self.state[empty] << WORD) | self.words.pop()
        return bits


def run(rounds: int) -> None:
    generator = np.random.default_rng(0)
    ones = generator.uniform(size=(VALUES, LANES)) ** 6  # as skewed as those of MNIST
    bits = generator.uniform(size=ones.shape) < ones
    symbols, flat = bits.ravel().astype(np.int32), torch.from_numpy(ones.ravel())
    table, start = Table(torch.stack([1 - flat, flat], -1)), seeded(64, 0)
    taken: dict[str, float] = {}

    def kept() -> float:
        stack = Stack(start)
        taken["push"] = seconds(lambda: table.push(stack, symbols))
        found: list[np.ndarray] = []
        taken["pop"] = seconds(lambda: found.append(table.pop(stack)))
        assert np.array_equal(found[0], symbols)
        return taken["push"]

    def own() -> float:
        coder = Interleaved(ones)
        taken["own push"] = seconds(lambda: coder.push(bits))
        found: list[np.ndarray] = []
        taken["own pop"] = seconds(lambda: found.append(coder.pop()))
        assert np.array_equal(found[0], bits)
        return taken["own push"]

    cases = {
        "constriction, push": kept,
        "constriction, pop": lambda: taken["pop"],
        "interleaved numpy, push": own,
        "interleaved numpy, pop": lambda: taken["own pop"],
    }
    compare("coder", cases, "constriction, push", rounds, ("symbols", bits.size))


if __name__ == "__main__":
    run(arguments(__doc__, 7).parse_args().rounds)
