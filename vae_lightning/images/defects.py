"""The layout that anomaly benchmarks share (MVTec AD, BTAD, MVTec LOCO): `train/good`, `test/good`, `test/<defect>`,
and below `ground_truth/<defect>` a mask for each defective image, white where it is defective."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vae_lightning.data import ImageFolder
from vae_lightning.data.folder import UNREADABLE
from vae_lightning.images.files import find_files

NORMAL = ("good", "ok", "normal")
"""What the folder of images without a defect is called."""
MASKS = ("ground_truth", "ground_truths", "masks")


@dataclass(frozen=True)
class Benchmark:
    """Test images by defect.

    Args:
        files: N of them.
        names: theirs, `<defect>/<file>`.
        defects: what is wrong with each, the folder's name; None of one without a defect.
        masks: the files of each image's masks, whose union is meant; none where there are none.
    """

    files: list[Path]
    names: tuple[str, ...]
    defects: list[str | None]
    masks: list[list[Path]]

    @property
    def kinds(self) -> list[str]:
        """The defects, in order."""
        return sorted({defect for defect in self.defects if defect is not None})


def find_benchmark(root: Path) -> Benchmark | None:
    """The test images of a folder in this layout; None of another one, without `test` or with no folder of images
    without a defect in it.

    Raises:
        ValueError: an image in `test` beside the folders by defect, of which nobody can say whether it is sound.
    """
    test = _folder(root, ("test",))
    if test is None or _folder(test, NORMAL) is None:
        return None
    files, names = find_files([test])
    if loose := [name for name in names if "/" not in name]:
        raise ValueError(
            f"{test}: expected a folder for each defect and one called good, got {loose[0]} beside them: move it into "
            "one of them."
        )
    kinds = [name.split("/")[0] for name in names]
    defects = [None if kind.lower() in NORMAL else kind for kind in kinds]
    truth = _folder(root, MASKS)
    known = {} if truth is None else _masks(truth)
    masks = [
        known.get(str(Path(name).with_suffix("")), []) if defect else []
        for name, defect in zip(names, defects, strict=True)
    ]
    return Benchmark(files, names, defects, masks)


def _folder(root: Path, names: tuple[str, ...]) -> Path | None:
    """The folder of one of these names, in any case."""
    if not root.is_dir():
        return None
    found = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower() in names]
    return found[0] if found else None


def _masks(truth: Path) -> dict[str, list[Path]]:
    """`<defect>/<name>` -> its masks: <name>.png, <name>_mask.png, or any file in a folder <name>."""
    found: dict[str, list[Path]] = {}
    for file, name in zip(*find_files([truth]), strict=True):
        parts = Path(name).with_suffix("").parts
        if len(parts) > 2:
            parts = parts[:-1]
        found.setdefault("/".join(parts).removesuffix("_mask"), []).append(file)
    return found


def read_masks(benchmark: Benchmark, folder: ImageFolder, rows: list[int] | None = None) -> Tensor:
    """(N, H, W) bool, true where an image is defective, brought to the model's size as the images are: of a pixel that
    at least half of is, or where none is so, that most of is. False all over where there is no mask.

    Args:
        benchmark: of N images.
        folder: what reads the images, with the size.
        rows: which images; null for all.

    Raises:
        ValueError: a mask that cannot be read, is of another size than its image, or is black all over.
    """
    assert folder.size is not None
    found = []
    for row in range(len(benchmark.files)) if rows is None else rows:
        covered = np.zeros(folder.size, np.float32)
        for mask in benchmark.masks[row]:
            covered = np.maximum(covered, _covered(mask, benchmark.files[row], folder))
        found.append(torch.from_numpy(covered >= min(0.5, covered.max() or 1.0)))
    return torch.stack(found)


def _covered(file: Path, image: Path, folder: ImageFolder) -> np.ndarray:
    """How much of each of the model's pixels a mask covers, 0 to 1."""
    height, width = folder.size or (1, 1)
    try:
        with Image.open(file) as opened, Image.open(image) as beside:
            mask, size = ImageOps.exif_transpose(opened).convert("L"), ImageOps.exif_transpose(beside).size
    except UNREADABLE as error:
        raise ValueError(
            f"{file}: expected a mask, an image that is white where {image.name} is defective, got {error}."
        ) from None
    white = mask.point(lambda value: 255 if value else 0)
    if mask.size != size:
        raise ValueError(
            f"{file}: expected a mask of its image's size, {size[1]}x{size[0]}, got {mask.height}x{mask.width}: give "
            "one that lies upon the image pixel for pixel."
        )
    if white.getbbox() is None:
        raise ValueError(
            f"{file}: expected a mask that is white where {image.name} is defective, got one that is black all over: "
            "mend it, or leave it out."
        )
    if mask.size != (width, height):
        to = (width, height)
        white = ImageOps.fit(white, to, Image.Resampling.BOX) if folder.crop else white.resize(to, Image.Resampling.BOX)
    return np.asarray(white, np.float32) / 255
