"""What coding images takes and what it gives: plain data, that a file can hold."""

from __future__ import annotations

from dataclasses import dataclass

from vae_lightning.compression.codecs import Grid
from vae_lightning.compression.stack import PRECISION, WORD_BITS, Words


@dataclass(frozen=True)
class Settings:
    """How images are coded; the decoder needs the same.

    Args:
        exponent: latents lie on the multiples of 2^-exponent: a finer step than the narrowest posteriors costs
            nothing, a coarser one blurs them.
        reach: between -reach and reach, a power of two.
        batch_size: the largest number of images that are coded at a time.
        seed: of the initial bits.
    """

    exponent: int = 8
    reach: int = 32
    batch_size: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("exponent", 0, 20), ("reach", 1, 2**20), ("batch_size", 1, 2**20), ("seed", 0, 2**63)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"Settings.{name}: expected a whole number from {low} to {high}, got {value!r}.")
        if self.reach & (self.reach - 1):
            raise ValueError(f"Settings.reach: expected a power of two, got {self.reach}.")
        if self.reach * 2**self.exponent > 2**22:
            raise ValueError(
                f"Settings: expected reach * 2^exponent of at most 2^22, got {self.reach} * 2^{self.exponent}: the "
                f"coder's probabilities are multiples of 2^-{PRECISION}, and a finer grid would waste them."
            )

    @property
    def grid(self) -> Grid:
        return Grid(self.exponent, self.reach)


@dataclass(frozen=True, eq=False)
class Coded:
    """Images as bits.

    Args:
        words: (M,) uint32, the stack after the last batch.
        layout: the sizes of the batches in the order of coding; they sum to the number of images.
        initial_bits: random bits that the stack held before the first image.
        settings: what they were coded with.
    """

    words: Words
    layout: tuple[int, ...]
    initial_bits: int
    settings: Settings

    @property
    def gross_bits(self) -> int:
        """All of it."""
        return WORD_BITS * len(self.words)

    @property
    def net_bits(self) -> int:
        """Without the initial bits: what the images cost, minus their ELBO in bits but for the coder's overhead."""
        return self.gross_bits - self.initial_bits
