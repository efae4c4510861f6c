"""The compressed data: a stack of bits to which integers are pushed, and from which they are popped, under a model."""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int32]
Words = NDArray[np.uint32]

WORD_BITS = 32
PRECISION = 24
"""constriction's probabilities are multiples of 2^-24, so that no symbol takes more than 24 bits off the stack."""
RESERVE = 3
"""Words that must lie on the stack after a pop. The coder's head is two of them: with a third below it, none of the
symbols popped can have met the bottom, where constriction goes on without an error and without a way back."""

_HALF_WORD = constriction.stream.model.Uniform(2**16)


class StackExhaustedError(Exception):
    """A pop needed more bits than the stack held, and its content is lost. Private: no caller of the room meets it."""


class Stack:
    """Asymmetric numeral systems (Duda 2013) by constriction (Bamler 2022): last in, first out.

    Pushing symbols costs their -log2 P bits; popping under the same model gives them back. Popping without a push
    before is exact too: it draws a sample from the model, with the stack's bits as its randomness, and pushing that
    sample restores the stack bit for bit. That is all that bits-back coding needs.

    Args:
        words: (M,) uint32, at least RESERVE of them, the last one not zero.

    Raises:
        ValueError: other words.
    """

    def __init__(self, words: Words) -> None:
        if words.ndim != 1 or words.dtype != np.uint32 or len(words) < RESERVE or words[-1] == 0:
            raise ValueError(
                f"the words of a stack: expected a vector of at least {RESERVE} uint32 whose last one is not zero, got "
                f"{words.dtype} of shape {words.shape}: give them as they were coded."
            )
        self._coder = constriction.stream.stack.AnsCoder(words)

    @property
    def num_bits(self) -> int:
        """How many bits it holds, in whole words."""
        return int(self._coder.num_bits())

    def words(self) -> Words:
        """A copy of its content, (M,) uint32."""
        words: Words = self._coder.get_compressed()
        return words

    def copy(self) -> Stack:
        other = Stack.__new__(Stack)
        other._coder = self._coder.clone()
        return other

    def push(self, symbols: Integers, model: Any, *parameters: NDArray) -> None:
        """Pushes symbols (n,), each under its own row of the model's parameters, arrays of n rows."""
        self._coder.encode_reverse(symbols, model, *parameters)

    def pop(self, model: Any, *parameters: NDArray) -> Integers:
        """The exact inverse of `push`: symbols (n,).

        Raises:
            StackExhaustedError: it held too little.
        """
        symbols: Integers = self._coder.decode(model, *parameters)
        if self._coder.num_words() < RESERVE:
            raise StackExhaustedError
        return symbols

    def scramble(self, num_symbols: int) -> None:
        """Flips, by a fixed pattern, the bits that popping that many symbols could take; the same again undoes it.

        What has been pushed looks random only where the model is right about it: an image that the model does not
        expect leaves long runs of equal bits. Latents drawn with such bits would not be the posterior's, and what
        their images cost could be far from the ELBO.
        """
        num_words = min(int(self._coder.num_words()) - RESERVE - 1, -(-PRECISION * num_symbols // WORD_BITS))
        if num_words > 0:
            pattern = np.random.Generator(np.random.PCG64(self.num_bits)).integers(0, 2**16, 2 * num_words, np.int32)
            self.push(self._coder.decode(_HALF_WORD, 2 * num_words) ^ pattern, _HALF_WORD)


def seeded(num_words: int, seed: int) -> Words:
    """The bits that the first latents are drawn with, none of the words zero: the same for the encoder, which starts
    from them, and for the decoder, which must end with them."""
    return np.random.Generator(np.random.PCG64(seed)).integers(1, 2**32, num_words, dtype=np.uint32)
