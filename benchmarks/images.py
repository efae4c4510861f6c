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
            parts = [splits.train.image, splits.test.image]
        except FileNotFoundError:
            print("MNIST is not here: noise of its mean brightness instead, which takes as long")
            parts = [torch.randint(68, (count, 1, 28, 28), generator=generator) for count in (60_000, 10_000)]
        parts = [part[: round(self.share * len(part))] for part in parts]
        drawn = [
            torch.cat([torch.bernoulli(p / 255, generator=generator).byte() for p in part.split(4096)])
            for part in parts
        ]
        train, test = (Images(self._pad(part)) for part in drawn)
        return Splits(train, test, test)

    def _pad(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(image, (2, 2, 2, 2)) if self.padded else image


class Repeated(BinaryMNIST):
    """`count` training images, the first ones of MNIST's, repeated where it has fewer, and 1000 to validate on.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        super().__init__(share=min(1.0, count / 60_000))
        self.count = count

    def load(self, root: Path, download: bool) -> Splits:
        splits = super().load(root, download)
        image, held_out = splits.train.image, Images(splits.test.image[:1000])
        if self.count > len(image):
            image = image.repeat(-(-self.count // len(image)), 1, 1, 1)[: self.count]
        return Splits(Images(image), held_out, held_out)
