"""The images of the benchmarks: MNIST binarised once where it is there, else images of the same shape."""

from __future__ import annotations

from pathlib import Path

import torch

from vae_lightning.data import MNIST, Images, ImageSource, Splits


class BinaryMNIST(ImageSource):
    """60 000 training images of 28x28 in 2 levels, and 10 000 to validate and test on.

    Args:
        padded: 32x32 instead, for convolutions.
        share: which part of them, the first ones.
    """

    def __init__(self, padded: bool = False, share: float = 1.0) -> None:
        self.padded, self.share = padded, share

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (1, 32, 32) if self.padded else (1, 28, 28)

    @property
    def levels(self) -> int:
        return 2

    def load(self, root: Path, download: bool) -> Splits:
        generator = torch.Generator().manual_seed(0)
        try:
            splits = MNIST().load(root, download=False)
            parts = [part.image.float() / 255 for part in (splits.train, splits.test)]
        except FileNotFoundError:
            print("MNIST is not here: noise of its mean brightness instead, which takes as long")
            parts = [0.26 * torch.rand(count, 1, 28, 28, generator=generator) for count in (60_000, 10_000)]
        parts = [part[: round(self.share * len(part))] for part in parts]
        train, test = (Images(self._pad(torch.bernoulli(part, generator=generator).to(torch.uint8))) for part in parts)
        return Splits(train, test, test)

    def _pad(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(image, (2, 2, 2, 2)) if self.padded else image
