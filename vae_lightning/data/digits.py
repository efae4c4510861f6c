"""The data set that needs no network."""

from __future__ import annotations

from pathlib import Path

import torch

from vae_lightning.data.source import Images, ImageSource, Shape, Splits

TEST_SIZE = 360


class Digits(ImageSource):
    """scikit-learn's bundled handwritten digits: 1797 grey images of 8x8 with 17 levels, 360 of them for test."""

    @property
    def image_shape(self) -> Shape:
        return (1, 8, 8)

    @property
    def levels(self) -> int:
        return 17

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple("0123456789")

    def load(self, root: Path, download: bool) -> Splits:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = Images(
            torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1), torch.from_numpy(digits.target).long()
        )
        # The file is ordered by writer; the test set is a fixed random part of it.
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        return Splits(train=images[order[TEST_SIZE:]], test=images[order[:TEST_SIZE]])
