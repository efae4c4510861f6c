"""Any folder of images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae_lightning.data.reading.cache import cached, decode_all
from vae_lightning.data.reading.decode import Decoded, Reading, picture_size, stored_channels
from vae_lightning.data.reading.layout import Layout, read_layout
from vae_lightning.data.reading.levels import LEVELS, RangeError, check_depth
from vae_lightning.data.reading.listing import class_of, name_hash
from vae_lightning.data.reading.native import MODES, UNREADABLE, RefusedError
from vae_lightning.data.reading.tell import span_of, tell_clipped, tell_seen, window_of
from vae_lightning.data.say import say
from vae_lightning.data.source import Images, ImageSource, Shape, Splits

FEW = 16
"""Pictures that are looked at for their channels."""


class ImageFolder(ImageSource):
    """Images below a folder, in any format that Pillow reads, DICOM, and deeper ones by a stated meaning.

    Sub-folders called train (training), val (valid, validation) and test (testing), in any case, are splits; other
    sub-folders, of a split or of the folder itself, are classes. What was taken for what is printed, and what could be
    meant in two ways is refused. Where there is no test, a part of the training images is split off by a hash of each
    file's name, so that an image stays where it is when others come and go.

    Args:
        path: the folder, as it stands or below the folder of the data sets.
        size: (height, width) to bring every image to; null expects images of one size and takes them as they are.
        crop: with `size`, scale the image to cover it and cut the centre out; false stretches the image instead.
        channels: 1 for grey, 3 for RGB, 4 for RGBA; null for 1 where the training images are stored in grey, or 3.
        background: grey level, 0 to 255, that transparent pictures are laid upon, with 1 or 3 channels; null leaves
            their transparency out.
        window: [low, high], in the files' own unit: low and below become 0, high and above the highest level.
        percentiles: [low, high] of the values of the training images (validation images that are split off among
            them), in the place of a window; the checkpoint keeps the window that they give.
        levels: how many levels images have: of integers as many as they have (65536 of 16 bits), of real numbers in
            [0, 1] or with a window as many as they are rounded to; null for 256.
        split_folders: whether sub-folders called train, val, test are splits; null finds out.
        class_folders: whether the other sub-folders are classes; null finds out.
        test_fraction: share of the images for test where there is no folder for it.
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
        channels: int | None = None,
        test_fraction: float = 0.1,
        skip_unreadable: bool = False,
        cache: bool = True,
        background: int | None = 255,
        window: tuple[float, float] | None = None,
        percentiles: tuple[float, float] | None = None,
        levels: int | None = None,
        split_folders: bool | None = None,
        class_folders: bool | None = None,
    ) -> None:
        if channels is not None and channels not in MODES:
            raise ValueError(f"ImageFolder.channels: expected 1 (grey), 3 (RGB), 4 (RGBA) or null, got {channels}.")
        if size is not None and min(size) < 1:
            raise ValueError(f"ImageFolder.size: expected (height, width) of at least 1, got {tuple(size)}.")
        if not 0 < test_fraction < 1:
            raise ValueError(f"ImageFolder.test_fraction: expected a share between 0 and 1, got {test_fraction}.")
        if background is not None and not 0 <= background <= 255:
            raise ValueError(f"ImageFolder.background: expected a grey level from 0 to 255, got {background}.")
        check_depth("ImageFolder", levels, window, percentiles)
        self.path = Path(path).expanduser()
        self.size = None if size is None else (size[0], size[1])
        self.crop, self.background = crop, background if channels != 4 else None
        if channels is not None:
            self.channels = channels
        self.window = None if window is None else (window[0], window[1])
        self.percentiles, self._levels = percentiles, levels
        self.split_folders, self.class_folders = split_folders, class_folders
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
        folder = self.path / self._layout.folders["train"]
        for name in self._layout.files["train"]:
            try:
                return (self.channels, *picture_size(folder / name))
            except RefusedError:
                raise
            except UNREADABLE:
                continue  # named when the images are read
        raise ValueError(f"{folder}: expected images, got only files that cannot be read.")

    @property
    def levels(self) -> int:
        return self._levels or LEVELS

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        return self._layout.classes or None

    @property
    def reading(self) -> Reading:
        if self.window is None and self.percentiles is not None:
            self.window = self.found["window"]
        return Reading(self.channels, self.size, self.crop, self.background, self.window, self._levels)

    @cached_property
    def channels(self) -> int:
        """What the training images have, by as many as are looked at."""
        folder, files = self.path / self._layout.folders["train"], self._layout.files["train"]
        return stored_channels([folder / name for name in files[:: -(-len(files) // FEW)]])

    @cached_property
    def found(self) -> dict[str, Any]:
        return {"channels": self.channels, **self._found_window()}

    def _found_window(self) -> dict[str, Any]:
        if self.percentiles is None or self.window is not None:
            return {}
        files = [file for file in self._layout.files["train"] if not self._is_test(file)] or self._layout.files["train"]
        folder = self.path / self._layout.folders["train"]
        return {
            "window": window_of(folder, files, self.channels, self.background, self.percentiles),
            "percentiles": None,
        }

    def _is_test(self, file: str) -> bool:
        """Whether a training image is split off for the test, by its name."""
        return "test" not in self._layout.folders and name_hash(file) < self.test_fraction

    @cached_property
    def _layout(self) -> Layout:
        """What lies where, listed once for the classes and for the images."""
        return read_layout(self.path, self.split_folders, self.class_folders)

    def load(self, root: Path, download: bool) -> Splits:
        return Splits(**{part: images for part, (images, _) in self.named(root).items()})

    def named(
        self, root: Path, is_test: Callable[[str], bool] = lambda name: False
    ) -> dict[str, tuple[Images, list[str]]]:
        """The images of each split and their files' names below the folder, in order. Where the folder has no test,
        `is_test` says of a name whether its image is for test in any case."""
        shape, classes, layout, reading = self.image_shape, self.classes or (), self._layout, self.reading
        share = "" if "test" in layout.folders else f"; of training {self.test_fraction:.0%} split off for test"
        say(f"{self.path}: {layout}{share}{reading.meaning}.")
        del self._layout  # a million names
        parts: dict[str, tuple[Images, list[str]]] = {}
        for part, below in layout.folders.items():
            images, files = self._read(self.path / below, layout.files[part], classes, shape, root / "cache")
            names = [f"{below}/{file}" if below else file for file in files]
            if "test" not in layout.folders and part == "train":
                places = torch.tensor([name_hash(file) for file in files], dtype=torch.float64)
                test = places < max(self.test_fraction, places.min().item() + 1e-12)  # one image at least
                if test.all():
                    raise ValueError(
                        f"{self.path}: expected images for training beside those for test, got {len(files)} in all, "
                        "which are for test: add images, or lower --data.source.test_fraction."
                    )
                test |= torch.tensor([is_test(name) for name in names])
                parts["test"] = images[test], list(compress(names, test.tolist()))
                images, names = images[~test], list(compress(names, (~test).tolist()))
            parts[part] = images, names
        return {part: (replace(images, names=np.array(it)), it) for part, (images, it) in parts.items()}

    def _read(
        self, folder: Path, files: list[str], classes: tuple[str, ...], shape: Shape, caches: Path
    ) -> tuple[Images, list[str]]:
        """The images of the files that can be read, and these files' names."""
        try:
            image, seen, bad = self._pixels(folder, files, shape, caches)
        except RangeError as error:
            raise error.at(error.where, span_of(folder, files, error.own), percentiles=True) from None
        tell_seen(self.reading, folder, files, seen)
        tell_clipped(self.reading, folder, files, seen, shape)
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
        known = {name: i for i, name in enumerate(classes)}
        numbers = [known.get(class_of(name) or "") for name in names]
        label = None if None in numbers else torch.tensor(numbers)
        rows = torch.tensor(good) if self.cache else None
        return Images(image, label, rows), names

    def _pixels(
        self, folder: Path, files: list[str], shape: Shape, caches: Path
    ) -> tuple[Tensor, np.ndarray, dict[int, str]]:
        """All images where there is a cache, the good ones where there is none; what each was; and what is wrong with
        the others, by row."""
        reading, dtype = self.reading, np.uint8 if self.levels <= LEVELS else np.uint16

        def decode(name: str) -> Decoded | str:
            return self.decode(folder / name, shape)

        if self.cache:
            name = f"{self.path.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"
            try:
                settings = asdict(reading) | ({"clipping": "counted"} if reading.window else {})
                return cached(caches / name, folder, files, shape, decode, settings, dtype)
            except OSError as error:
                print(f"no cache of decoded images ({error}): they are decoded into memory")
                self.cache = False
        results = decode_all(files, decode)
        bad = {row: result for row, result in enumerate(results) if isinstance(result, str)}
        good = [result for result in results if isinstance(result, Decoded)]
        seen = np.array([0 if isinstance(result, str) else result.seen for result in results], np.uint8)
        return torch.stack([it.pixels for it in good]) if good else torch.empty(0, *shape), seen, bad

    def decode(self, file: Path, shape: Shape) -> Decoded | str:
        """The picture, or what is wrong with the file."""
        try:
            return self.reading.read(file, shape)
        except RefusedError:
            raise
        except UNREADABLE as error:
            return f"{file}: {error}"
