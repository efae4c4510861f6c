"""Any folder of images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vae_lightning.data.cache import cached, decode_all
from vae_lightning.data.layout import class_names, class_of, list_images, name_hash
from vae_lightning.data.source import Images, ImageSource, Shape, Splits

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
UNREADABLE = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)


class ImageFolder(ImageSource):
    """Images below a folder, in any format that Pillow reads.

    With sub-folders `train` and `test` or `val` these are the splits; where there is no `test`, a part of the training
    images is split off by a hash of each file's name, so that an image stays where it is when others come and go.
    Sub-folders of a split are classes; images beside them or without them have no label.

    Args:
        path: the folder, as it stands or below the folder of the data sets.
        size: (height, width) to bring every image to; null expects images of one size and takes them as they are.
        crop: with `size`, scale the image to cover it and cut the centre out; false stretches the image instead.
        channels: 1 for grey, 3 for RGB, 4 for RGBA.
        background: grey level, 0 to 255, to lay transparent pictures upon; null leaves their transparency out.
        test_fraction: share of the images for test where there is no folder `test`.
        skip_unreadable: name and skip files that cannot be read, instead of refusing them.
        cache: keep the decoded images, as bytes, below the folder of the data sets (cache/), so that only the first
            start decodes them, and map them from there, so that they may be more than memory holds; false decodes them
            into memory at each start.
    """

    def __init__(
        self,
        path: str,
        size: tuple[int, int] | None = None,
        crop: bool = True,
        channels: int = 3,
        test_fraction: float = 0.1,
        skip_unreadable: bool = False,
        cache: bool = True,
        background: int | None = None,
    ) -> None:
        if channels not in MODES:
            raise ValueError(f"ImageFolder.channels: expected 1 (grey), 3 (RGB) or 4 (RGBA), got {channels}.")
        if size is not None and min(size) < 1:
            raise ValueError(f"ImageFolder.size: expected (height, width) of at least 1, got {tuple(size)}.")
        if not 0 < test_fraction < 1:
            raise ValueError(f"ImageFolder.test_fraction: expected a share between 0 and 1, got {test_fraction}.")
        if background is not None and not (0 <= background <= 255 and channels < 4):
            got = f"{background} with {channels} channels"
            raise ValueError(f"ImageFolder.background: expected 0 to 255, with 1 or 3 channels, got {got}.")
        self.path = Path(path).expanduser()
        self.size = None if size is None else (size[0], size[1])
        self.crop, self.channels, self.background = crop, channels, background
        self.test_fraction, self.skip_unreadable, self.cache = test_fraction, skip_unreadable, cache

    @property
    def name(self) -> str:
        return f"{type(self).__name__}-{self.path.name}"

    def find(self, root: Path) -> None:
        if not self.path.exists() and (root / self.path).exists():
            self.path = root / self.path

    @cached_property
    def image_shape(self) -> Shape:
        if self.size is not None:
            return (self.channels, *self.size)
        folder = self.path / "train" if (self.path / "train").is_dir() else self.path
        for name in list_images(folder):
            try:
                with Image.open(folder / name) as opened:
                    picture = ImageOps.exif_transpose(opened)
                    return (self.channels, picture.height, picture.width)
            except UNREADABLE:
                continue  # named when the images are read
        raise ValueError(f"{folder}: expected images, got only files that cannot be read.")

    @property
    def levels(self) -> int:
        return 256

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        return tuple(class_names(self._listed["train"])) or None

    @property
    def _folders(self) -> dict[str, Path]:
        """The folder of each split."""
        found = {name: self.path / name for name in ("train", "test", "val") if (self.path / name).is_dir()}
        if len(found) < 2 or "train" not in found:  # one folder, or something else that is called train
            return {"train": self.path}
        return found

    @cached_property
    def _listed(self) -> dict[str, list[str]]:
        """The files of each split, listed once for the classes and for the images."""
        return {part: list_images(folder) for part, folder in self._folders.items()}

    def load(self, root: Path, download: bool) -> Splits:
        return Splits(**{part: images for part, (images, _) in self.named(root).items()})

    def named(
        self, root: Path, is_test: Callable[[str], bool] = lambda name: False
    ) -> dict[str, tuple[Images, list[str]]]:
        """The images of each split and their files' names below the folder, in order. Where the folder has no splits,
        `is_test` says of a name whether its image is for test in any case."""
        shape, folders, classes, listed = self.image_shape, self._folders, list(self.classes or ()), self._listed
        del self._listed  # a million names
        parts: dict[str, tuple[Images, list[str]]] = {}
        for part, folder in folders.items():
            images, files = self._read(folder, listed[part], classes, shape, root / "cache")
            below = "" if folder == self.path else f"{part}/"
            names = [below + file for file in files]
            if "test" not in folders and part == "train":
                places = torch.tensor([name_hash(file) for file in files], dtype=torch.float64)
                test = places < max(self.test_fraction, places.min().item() + 1e-12)  # one image at least
                test |= torch.tensor([is_test(name) for name in names])
                parts["test"] = images[test], list(compress(names, test.tolist()))
                images, names = images[~test], list(compress(names, (~test).tolist()))
            parts[part] = images, names
        return {part: (replace(images, names=np.array(it)), it) for part, (images, it) in parts.items()}

    def _read(
        self, folder: Path, files: list[str], classes: list[str], shape: Shape, caches: Path
    ) -> tuple[Images, list[str]]:
        """The images of the files that can be read, and these files' names."""
        image, bad = self._pixels(folder, files, shape, caches)
        if bad and not self.skip_unreadable:
            raise ValueError(
                f"{len(bad)} of {len(files)} files in {folder} cannot be read ({'; '.join(list(bad.values())[:5])}): "
                "mend or remove them, or skip them with --data.source.skip_unreadable true."
            )
        for line in bad.values():
            print(f"skipped: {line}")
        good = [row for row in range(len(files)) if row not in bad]
        if not good:
            raise ValueError(f"{folder}: expected images, got only files that cannot be read.")
        names = [files[row] for row in good]
        label = self._labels(folder, [class_of(name) for name in names], classes)
        rows = torch.tensor(good) if self.cache else None
        return Images(image, label, rows), names

    @staticmethod
    def _labels(folder: Path, names: list[str | None], classes: list[str]) -> Tensor | None:
        if not classes or None in names:
            return None
        if unknown := sorted({str(name) for name in names} - set(classes)):
            raise ValueError(f"{folder} has the class folders {unknown}, which the training images lack.")
        number = {name: i for i, name in enumerate(classes)}
        return torch.tensor([number[str(name)] for name in names])

    def _pixels(self, folder: Path, files: list[str], shape: Shape, caches: Path) -> tuple[Tensor, dict[int, str]]:
        """All images where there is a cache, the good ones where there is none; and what is wrong with the others."""

        def decode(name: str) -> Tensor | str:
            return self._decode(folder / name, shape)

        if self.cache:
            on: dict[str, Any] = {} if self.background is None else {"background": self.background}
            settings = {"crop": self.crop, "size": self.size, **on}
            name = f"{self.path.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"
            try:
                return cached(caches / name, folder, files, shape, decode, settings)
            except OSError as error:
                print(f"no cache of decoded images ({error}): they are decoded into memory")
                self.cache = False
        results = decode_all(files, decode)
        bad = {row: result for row, result in enumerate(results) if isinstance(result, str)}
        good = [result for result in results if isinstance(result, Tensor)]
        return torch.stack(good) if good else torch.empty(0, *shape), bad

    def _decode(self, file: Path, shape: Shape) -> Tensor | str:
        """(C, H, W) uint8, or what is wrong with the file."""
        try:
            with Image.open(file) as opened:
                if opened.mode.startswith(("I", "F")):
                    return f"{file}: expected 8 bits a channel, got mode {opened.mode}"
                picture = ImageOps.exif_transpose(opened)
                if self.background is not None and picture.has_transparency_data:
                    below = Image.new("RGBA", picture.size, (*[self.background] * 3, 255))
                    picture = Image.alpha_composite(below, picture.convert("RGBA"))
                picture = picture.convert(MODES[self.channels])
        except UNREADABLE as error:
            return f"{file}: {error}"
        _, height, width = shape
        if self.size is None and (picture.height, picture.width) != (height, width):
            raise ValueError(
                f"{file} is {picture.height}x{picture.width}, while the first image is {height}x{width}: bring them to "
                f"one size with --data.source.size [{height},{width}]."
            )
        if self.size is not None and (picture.height, picture.width) != self.size:
            picture = ImageOps.fit(picture, (width, height)) if self.crop else picture.resize((width, height))
        pixels = np.asarray(picture).reshape(height, width, self.channels)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
