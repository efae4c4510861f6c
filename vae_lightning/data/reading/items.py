"""What an item of a data set holds: its image and its label, in whatever usual form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

Axes = Literal["HWC", "CHW"]
IMAGES, LABELS = ("image", "img", "images", "x", "pixel_values"), ("label", "labels", "y", "target", "fine_label")
"""What an item that is a mapping may call them, the first that is there."""
CHANNELS = (1, 3, 4)
FORMS = "an image (a picture of PIL, an array (H, W[, C]) or a tensor ([C, ]H, W))"


def parted(item: Any, columns: tuple[str | None, str | None]) -> tuple[Any, Any]:
    """Image and label of an item; None where there is no label.

    Args:
        item: an image, (image, label, ...) or a mapping.
        columns: what image and label are called in a mapping; None to find out.
    """
    if isinstance(item, Mapping):
        image, label = (_column(item, name, known) for name, known in zip(columns, (IMAGES, LABELS), strict=True))
        if image is None:
            found = ", ".join(map(str, item))
            raise ValueError(
                f"expected items with {' or '.join(IMAGES)}, got {found}: say which is the image, "
                f"--data.source.image {next(iter(map(str, item)), 'NAME')} or another"
            )
        return item[image], None if label is None else item[label]
    if isinstance(item, (tuple, list)) and item:
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _column(item: Mapping[str, Any], name: str | None, known: tuple[str, ...]) -> str | None:
    if name is not None and name not in item:
        raise ValueError(f"expected a column of the data set, {', '.join(map(str, item))}, got {name}: correct it")
    return name or next((it for it in known if it in item), None)


def values_of(image: Any, axes: Axes | None) -> np.ndarray:
    """(C, H, W) of an array, channels last unless `axes` says otherwise, or of a tensor, channels first."""
    try:
        values = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    except (TypeError, ValueError) as error:  # bfloat16, lists of several lengths
        raise ValueError(f"expected {FORMS}, got {kind_of(image)} that is no array ({error})") from None
    if values.dtype.kind not in "buif" or values.ndim not in (2, 3):
        first = ": give the image first, then its label" if values.ndim == 0 and values.dtype.kind in "buifU" else ""
        raise ValueError(f"expected {FORMS}, got {kind_of(image)}{first or ': give one, or leave the item out'}")
    if values.ndim == 2:
        return values[None]
    order = axes or ("CHW" if isinstance(image, Tensor) else "HWC")
    values = values if order == "CHW" else values.transpose(2, 0, 1)
    if axes is None and len(values) not in CHANNELS:
        where, other = ("first", "last") if order == "CHW" else ("last", "first")
        flags = {"first": "CHW", "last": "HWC"}
        raise ValueError(
            f"expected 1, 3 or 4 channels, {where} in {kind_of(image).split(' of ')[0]}, got {kind_of(image)}: say "
            f"that they are {other}, --data.source.axes {flags[other]}, or that there are {len(values)}, "
            f"--data.source.axes {flags[where]}"
        )
    return values


def label_of(label: Any) -> int | str | None:
    """A class's number or word; real numbers count where they are whole."""
    if isinstance(label, (Tensor, np.generic, np.ndarray)) and np.ndim(label) == 0:
        label = label.item()
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if label is None or isinstance(label, (int, str)):
        return label
    one_hot = " (.argmax() of one-hot labels)" if isinstance(label, (Tensor, np.ndarray, list)) else ""
    raise ValueError(
        f"expected a label that is a whole number or a word, got {kind_of(label)}: give the number of its class"
        f"{one_hot}, or leave labels out with --data.source.use_labels false"
    )


def is_coloured(image: Any, grey: tuple[str, ...]) -> bool | None:
    """Of a picture of PIL, whether it has colours; None of what is none."""
    return image.mode not in grey if isinstance(image, Image.Image) else None


def kind_of(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of the shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array of the shape {value.shape}"
    if isinstance(value, (int, float, str)):
        return f"{type(value).__name__} {value!r:.40}"
    return type(value).__name__
