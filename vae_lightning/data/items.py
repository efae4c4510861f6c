"""Any map-style torch data set as a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

from torch.utils.data import Dataset

from vae_lightning.data.item_source import ItemSource
from vae_lightning.data.reading.decode import Reading
from vae_lightning.data.reading.items import Axes, is_coloured
from vae_lightning.data.reading.native import GREY
from vae_lightning.data.splits import Split

FEW = 64
"""Pictures that are looked at for their channels, evenly over all."""


class MapDataset(ItemSource):
    """Any map-style torch data set, a user's own or torchvision's: items are an image, (image, label), or a mapping.

    An image is a picture (PIL), an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W).

    Args:
        train: the data set of the training images.
        test: that of the test images; null splits some off.
        val: that of the validation images; null lets `data.val_size` split some off.
        levels: how many levels images have, where it is not 256; real numbers in [0, 1] are rounded to so many.
        window: [low, high], in the images' own unit: low and below become 0, high and above the highest level.
        size: (height, width) to bring pictures to.
        channels: of pictures, 1, 3 or 4; null for 1 where they are in grey, or 3.
        background: grey level that transparent pictures are laid upon.
        test_fraction: share of the images for test where there is no `test`.
        image: what items that are mappings call the image; null finds it by the usual names.
        label: what they call the label; null finds it likewise.
        use_labels: whether labels are classes; false leaves them out.
        axes: HWC or CHW, the order of the axes of arrays and tensors, with any number of channels; null for HWC of
            arrays and CHW of tensors, with 1, 3 or 4 channels.
    """

    def __init__(
        self,
        train: Dataset,
        test: Dataset | None = None,
        val: Dataset | None = None,
        levels: int | None = None,
        window: tuple[float, float] | None = None,
        size: tuple[int, int] | None = None,
        channels: int | None = None,
        background: int | None = 255,
        test_fraction: float = 0.1,
        image: str | None = None,
        label: str | None = None,
        use_labels: bool = True,
        axes: Axes | None = None,
    ) -> None:
        found = {"train": train, "val": val, "test": test}
        self._parts = {name: it for name, it in found.items() if it is not None}
        for name, it in self._parts.items():
            if not (hasattr(it, "__len__") and hasattr(it, "__getitem__")):
                raise ValueError(
                    f"MapDataset.{name}: expected a data set with a length and items, got {type(it).__name__}: give "
                    "it __len__ and __getitem__."
                )
        self._columns, self._channels = (image, label), channels
        reading = Reading(channels or 3, size, background=background, window=window, levels=levels)
        super().__init__(reading, test_fraction, use_labels, axes)

    @property
    def name(self) -> str:
        return f"{type(self).__name__}-{type(self._parts['train']).__name__}"

    @property
    def parts(self) -> Mapping[Split, Any]:
        return cast(Mapping[Split, Any], self._parts)

    @property
    def columns(self) -> tuple[str | None, str | None]:
        return self._columns

    @cached_property
    def reading(self) -> Reading:
        if self._channels is not None:
            return self._reading
        count = len(self.parts["train"])
        rows = range(0, count, -(-count // FEW) or 1)
        found = (is_coloured(self._item("train", row)[0], GREY) for row in rows)
        coloured = next((it for it in found if it is not False), False)  # one is enough; None is no picture
        return replace(self._reading, channels=3 if coloured else 1) if coloured is not None else self._reading

    @property
    def class_names(self) -> Sequence[str] | None:
        names = getattr(self._parts["train"], "classes", None)
        return names if isinstance(names, (list, tuple)) and all(isinstance(it, str) for it in names) else None
