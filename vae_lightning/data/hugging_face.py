"""Data sets of the library `datasets`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from vae_lightning.data.item_source import ItemSource
from vae_lightning.data.reading.decode import Reading
from vae_lightning.data.reading.items import Axes
from vae_lightning.data.reading.layout import ROLES
from vae_lightning.data.splits import Split

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""What a data set may be called at the hub: all else is a folder."""


class HuggingFace(ItemSource):
    """A data set of Hugging Face's library `datasets`: a folder that `save_to_disk` wrote, or one's name.

    Its splits called train, validation (val, valid) and test are used; where there is no test, some of the training
    images are split off. Needs `pip install 'vae-lightning[huggingface]'`.

    Args:
        path: the folder, as it stands or below the folder of the data sets; else the data set's name at the hub.
        name: of a data set's configuration, where it has several.
        image: the column of the images; null finds the one that holds some.
        label: the column of the labels; null finds one called label or so.
        size: (height, width) to bring every image to.
        channels: 1 for grey, 3 for RGB, 4 for RGBA.
        background: grey level that transparent pictures are laid upon.
        levels: how many levels images have, where it is not 256.
        window: [low, high], in the images' own unit: low and below become 0, high and above the highest level.
        test_fraction: share of the images for test where there is no such split.
        use_labels: whether labels are classes; false leaves them out.
        axes: HWC or CHW, the order of the axes of images that are arrays; null for HWC, with 1, 3 or 4 channels.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        image: str | None = None,
        label: str | None = None,
        size: tuple[int, int] | None = None,
        channels: int = 3,
        background: int | None = 255,
        levels: int | None = None,
        window: tuple[float, float] | None = None,
        test_fraction: float = 0.1,
        use_labels: bool = True,
        axes: Axes | None = None,
    ) -> None:
        reading = Reading(channels, size, background=background, window=window, levels=levels)
        super().__init__(reading, test_fraction, use_labels, axes)
        self.path, self.configuration, self.image, self.label, self._root = path, name, image, label, Path()

    @property
    def name(self) -> str:
        return f"{type(self).__name__}-{Path(self.path).name}"

    def find(self, root: Path) -> None:
        self._root = root

    @cached_property
    def parts(self) -> Mapping[Split, Any]:
        try:
            import datasets
        except ModuleNotFoundError:
            raise ValueError(
                f"{self.name} needs the package datasets: pip install 'vae-lightning[huggingface]'."
            ) from None
        places = (Path(self.path).expanduser(), self._root / self.path)
        folder = next(
            (it for it in places if (it / "dataset_dict.json").is_file() or (it / "state.json").is_file()), None
        )
        try:
            if folder is not None:
                found = datasets.load_from_disk(str(folder))
            else:
                local = next((str(it) for it in places if it.exists()), None)
                if local is None and not HUB_NAME.fullmatch(self.path):
                    raise FileNotFoundError("no such folder")
                found = datasets.load_dataset(local or self.path, self.configuration)
        except Exception as error:  # of many libraries below it
            raise ValueError(
                f"{self.path}: expected a data set's folder (save_to_disk) or its name at the hub, got {_cause(error)}"
            ) from error
        splits = found if isinstance(found, Mapping) else {"train": found}
        parts: dict[Split, Any] = {}
        for split, part in splits.items():
            role = ROLES.get(str(split).casefold())
            if role in parts:
                raise ValueError(f"{self.path}: expected one split for {role}, got {', '.join(splits)}.")
            if role is not None:
                parts[role] = part
        if "train" not in parts:
            raise ValueError(f"{self.path}: expected a split train, got {', '.join(map(str, splits))}.")
        return parts

    @cached_property
    def columns(self) -> tuple[str | None, str | None]:
        features = self.parts["train"].features
        import datasets  # which is there, where it has read the parts

        images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
        classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
        if self.image is None and len(images) > 1:
            raise ValueError(
                f"{self.path}: expected one column of images, got {', '.join(images)}: say --data.source.image."
            )
        if self.label is None and len(classes) > 1:
            raise ValueError(
                f"{self.path}: expected one column of classes, got {', '.join(classes)}: say --data.source.label."
            )
        return self.image or next(iter(images), None), self.label or next(iter(classes), None)

    @property
    def class_names(self) -> Sequence[str] | None:
        label = self.columns[1]
        return None if label is None else getattr(self.parts["train"].features.get(label), "names", None)


def _cause(error: Exception) -> str:
    """Why a data set was not read, and what to do."""
    said = " ".join(str(error).split())
    if said == "no such folder":
        return "no folder there: correct --data.source.path, or say with --data.root where the data sets are."
    if isinstance(error, ConnectionError) or "Couldn't reach" in said:
        return (
            "no such folder, and no answer from the hub: connect to the network, or save the data set where there is "
            "one (save_to_disk) and give its folder."
        )
    if type(error).__name__ == "DatasetNotFoundError":
        return (
            "no such folder, and no such name at the hub: correct --data.source.path, or log in (hf auth login) where "
            "the data set is private."
        )
    if (several := re.search(r"[Aa]vailable(?: configs)?: \[(.+?)\]", said)) and "onfig" in said:
        return f"a data set of several configurations: give --data.source.name, one of {several[1]}."
    return f"{type(error).__name__}: {said[:300]}"
