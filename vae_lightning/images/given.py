"""Images that a user gives to be scored, all of them: brought to what a model sees as its own training images were, and
each with its name."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import rgb_to_grayscale

from vae_lightning.core import Spec
from vae_lightning.data import ImageData, ImageFolder, Images, ImageSource
from vae_lightning.data.reading.cache import decode_all
from vae_lightning.data.reading.decode import Decoded
from vae_lightning.data.reading.levels import LEVELS, RangeError
from vae_lightning.data.reading.native import MODES, UNREADABLE, Seen
from vae_lightning.images.defects import MASKS, find_benchmark
from vae_lightning.images.files import class_labels, find_files
from vae_lightning.images.input import ARRAYS, SPLITS, by_name, read_images

NAMED = 5
"""Files that a sentence names at most."""


@dataclass(frozen=True)
class Given:
    """Images in a model's own levels and shape.

    Args:
        images: N of them, with `names` where they are files, and labels where they have the model's classes.
        notes: what was done to them, in sentences.
        files: where they lie, (N,); None of an array or a split.
    """

    images: Images
    notes: list[str] = field(default_factory=list)
    files: list[Path] | None = None

    @property
    def names(self) -> list[str]:
        """What each is called: its file below the folder given, or its number."""
        if self.images.names is not None:
            return [str(name) for name in self.images.names]
        return [f"image_{row:06d}" for row in range(len(self.images))]


def read_given(
    words: list[str], spec: Spec, data: ImageData, needs: tuple[str, ...] = (), folder: ImageFolder | None = None
) -> Given:
    """All images that words on the command line mean.

    Files are read as the model's own image folder reads them (size, crop, background, channels), or where it was
    trained on something else, scaled to cover its size, cut, and brought to its channels and levels.

    Args:
        words: image files and folders; or one array, .npy or .npz; or one word, train, val or test.
        spec: of the model's images.
        data: what it was trained on; read for a split alone.
        needs: what the model has to be told of an image, ("label",) or nothing.
        folder: whose settings files are read by; null for the model's own.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: files that cannot be read, an array of another shape, or no classes where the model needs them.
    """
    if len(words) == 1 and words[0] in SPLITS:
        data.check_matches(spec, needs)
        data.setup()
        return Given(data.fixed(words[0]))  # type: ignore[arg-type]
    alone = [word for word in words if word in SPLITS or Path(word).suffix.lower() in ARRAYS]
    if alone and not Path(alone[0]).is_dir():
        reading = None
        with suppress(ValueError, OSError):  # of a folder that is gone
            reading = data.source.reading
        found = read_images(words, spec, Path(), needs, reading)
        label = None if found.form.labels is None else torch.tensor(found.form.labels)
        return Given(Images(found.image, label))
    files, names = find_files([Path(word).expanduser() for word in words])
    files, names, notes = _without_masks(words, files, names)
    given = read_files_as(files, names, spec, data, folder=folder)
    given = replace(given, notes=[*notes, *given.notes])
    labels, classes = class_labels(tuple(given.names))
    if "label" in needs:
        labels = by_name(labels, classes, spec, words[0])
    elif classes is None or classes != spec.classes:
        labels = None
    label = None if labels is None else torch.tensor(labels)
    return replace(given, images=replace(given.images, label=label))


def read_files_as(
    files: list[Path],
    names: tuple[str, ...],
    spec: Spec,
    data: ImageData,
    skip: bool = True,
    folder: ImageFolder | None = None,
) -> Given:
    """Image files as the model sees them, without labels; with `skip`, without those that cannot be read, where the
    model's own folder was read so."""
    folder = reader(spec, data, folder)
    shape = (folder.channels, *spec.image_shape[1:])
    try:
        results = decode_all([str(file) for file in files], lambda name: folder.decode(Path(name), shape))
    except RangeError as error:
        raise ValueError(f"{error.where}: {error.told()}.") from None
    bad = [result for result in results if isinstance(result, str)]
    if bad and not (skip and folder.skip_unreadable and len(bad) < len(files)):
        raise ValueError(
            f"{len(bad)} of {len(files)} files cannot be read ({'; '.join(bad[:NAMED])}): mend them, or leave them out."
        )
    good = [row for row, result in enumerate(results) if isinstance(result, Decoded)]
    image = torch.stack([result.pixels for result in results if isinstance(result, Decoded)])
    notes = [f"skipped: {line}" for line in bad]
    if clipped := sum(bool(result.seen & Seen.CLIPPED) for result in results if isinstance(result, Decoded)):
        notes.append(f"{clipped} of {len(good)} images have values beyond the model's window, which become its ends.")
    notes += _resized([files[row] for row in good], spec, folder)
    if spec.levels < folder.levels and int(image.max()) < spec.levels:
        notes.append(f"No value is above {spec.levels - 1}: the files' values are taken for the model's own levels.")
    else:
        image = fit_in(Images(image), folder.levels, spec, data.split_seed)
    image = image.to(torch.uint8 if spec.levels <= LEVELS else torch.int32)
    images = Images(image, names=np.array([names[row] for row in good]))
    return Given(images, notes, [files[row] for row in good])


def reader(spec: Spec, data: ImageData, asked: ImageFolder | None = None) -> ImageFolder:
    """The image folder that was asked for, or that the model was trained on, told the model's size; of another source
    one that scales an image to cover the size and cuts its centre out."""
    source: ImageSource | None = asked or data.source
    while source is not None and not isinstance(source, ImageFolder):
        source = getattr(source, "folder", None) or getattr(source, "source", None)
    channels, height, width = spec.image_shape
    # Channels that were never said nor found are the model's: to find them would take the training folder.
    read = channels if source is None else vars(source).get("channels", channels)
    if source is not None and (asked is not None or read == channels):
        folder = copy.copy(source)
        folder.size, folder.channels = (height, width), read
        return folder
    if channels not in MODES:
        raise ValueError(
            f"expected a model of images of {', '.join(map(str, MODES))} channels to read files for, got one of "
            f"{channels}: give an array."
        )
    return ImageFolder(".", (height, width), channels=channels)


def _without_masks(
    words: list[str], files: list[Path], names: tuple[str, ...]
) -> tuple[list[Path], tuple[str, ...], list[str]]:
    """Files and names without the masks of a benchmark's folder, which are no images of anything; and a sentence."""
    if len(words) > 1 or find_benchmark(Path(words[0]).expanduser()) is None:
        return files, names, []
    kept = [row for row, name in enumerate(names) if name.split("/")[0].lower() not in MASKS]
    left = len(files) - len(kept)
    notes = [f"{left} masks of {words[0]} are left out: detect looks at images and masks by defect."] if left else []
    return [files[row] for row in kept], tuple(names[row] for row in kept), notes


def _resized(files: list[Path], spec: Spec, folder: ImageFolder) -> list[str]:
    """A sentence where images are of another size than the model's."""
    height, width = spec.image_shape[1:]
    others: list[str] = []
    for file in files:
        try:
            with Image.open(file) as opened:
                size = opened.height, opened.width
        except UNREADABLE:
            continue
        if size != (height, width):
            others.append(f"{file.name} is {size[0]}x{size[1]}")
    if not others:
        return []
    how = "scaled to cover" if folder.crop else "stretched to"
    return [f"{len(others)} of {len(files)} images ({others[0]}) are {how} the model's {height}x{width} pixels."]


def fit_in(images: Images, levels: int, spec: Spec, seed: int) -> Tensor:
    """Images of another set (N, C, H, W) brought to the shape and levels of a model's own, as its own would be:
    grey in three equal channels or colours by their luma, bilinearly to the size, rounded to the levels, binarised by
    the seed where the model's are.

    Raises:
        ValueError: a number of channels that is not the model's, and not 1 and 3.
    """
    channels, height, width = spec.image_shape
    unit = torch.cat([part.float() for part in images.chunks()]) / (levels - 1)
    if (unit.shape[1], channels) == (1, 3):
        unit = unit.expand(-1, 3, -1, -1)
    elif (unit.shape[1], channels) == (3, 1):
        unit = rgb_to_grayscale(unit)
    elif unit.shape[1] != channels:
        raise ValueError(
            f"--ood: expected images of {channels} channels, as the model's own, got {unit.shape[1]}: choose others."
        )
    if unit.shape[-2:] != (height, width):
        unit = F.interpolate(unit, (height, width), mode="bilinear", antialias=True).clamp(0, 1)
    if spec.levels == 2:
        return torch.bernoulli(unit, generator=torch.Generator().manual_seed(seed))
    return (unit * (spec.levels - 1)).round()
