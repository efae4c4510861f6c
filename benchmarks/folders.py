"""Folders of images such as people have, made of what is at hand, for `configs/experiment/images.yaml`.

    python -m benchmarks.folders make DIR [--cifar cifar10-images.tar.gz] [--emoji emoji-64.tar.gz]
    python -m benchmarks.folders run DIR RUNS [FOLDER ...] [--minutes 12]

`run` trains each folder with the one command, stopped half-way and gone on with, tests it, and writes a table.
"""

from __future__ import annotations

import argparse
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

TILE = 64


def tiles(picture: Image.Image, size: int = TILE) -> Iterator[Image.Image]:
    """A picture cut into squares that do not overlap."""
    for top in range(0, picture.height - size + 1, size):
        for left in range(0, picture.width - size + 1, size):
            yield picture.crop((left, top, left + size, top + size))


def photographs() -> Iterator[Image.Image]:
    """scikit-learn's sample photographs, and scikit-image's, where it is installed, in colour."""
    from sklearn.datasets import load_sample_images

    for array in load_sample_images().images:
        yield Image.fromarray(array)
    try:
        from skimage import data
    except ImportError:
        print("scikit-image is not installed (pip install scikit-image): scikit-learn's two photographs alone")
        return
    for name in ("astronaut", "coffee", "chelsea", "rocket", "retina", "hubble_deep_field", "immunohistochemistry"):
        yield Image.fromarray(getattr(data, name)()[..., :3])
    for name in ("brick", "grass", "gravel", "camera", "coins", "moon", "page", "text", "clock", "cell"):
        yield Image.fromarray(np.asarray(getattr(data, name)())).convert("RGB")


def from_photographs() -> Iterator[Image.Image]:
    for picture in photographs():
        yield from tiles(picture)


def from_digits() -> Iterator[Image.Image]:
    from sklearn.datasets import load_digits

    for image in load_digits().images:  # 17 levels, over the range of a byte
        yield Image.fromarray((image * 255 / 16).round().astype(np.uint8))


def from_mnist() -> Iterator[Image.Image]:
    from vae_lightning.data import MNIST
    from vae_lightning.data.module import find_root

    splits = MNIST().load(find_root(None), download=True)
    for part in (splits.train, splits.test):
        for image in part.image[:, 0].numpy():
            yield Image.fromarray(image)


def members(archive: Path, suffix: str) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures of an archive's files that end in `suffix`, in the order of their names."""
    with tarfile.open(archive) as opened:
        for member in sorted(opened.getmembers(), key=lambda member: member.name):
            if member.isfile() and member.name.endswith(suffix):
                with Image.open(opened.extractfile(member)) as picture:  # type: ignore[arg-type]
                    yield member.name, picture.copy()


def one_class(archive: Path) -> Iterator[Image.Image]:
    named = (picture for name, picture in members(archive, ".jpg") if "train/dog/" in name)
    for _, picture in zip(range(2000), named, strict=False):
        yield picture.convert("RGB")


def small_and_grey(archive: Path) -> Iterator[Image.Image]:
    """2 000 grey images of 28x20, a size that no halving fits, as of faces."""
    named = (picture for name, picture in members(archive, ".jpg") if "train/cat/" in name)
    for _, picture in zip(range(2000), named, strict=False):
        yield picture.convert("L").crop((5, 2, 25, 30))


def on_white(archive: Path) -> Iterator[Image.Image]:
    for _, picture in members(archive, ".png"):
        ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        yield Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")


def write(pictures: Iterator[Image.Image], folder: Path) -> None:
    if folder.is_dir():
        print(f"{folder}: is there already")
        return
    folder.mkdir(parents=True)
    count = 0
    for count, picture in enumerate(pictures, 1):
        picture.save(folder / f"{count:05d}.png")
    print(f"{folder}: {count} images")


def make(root: Path, cifar: Path | None, emoji: Path | None) -> None:
    kinds: dict[str, Callable[[], Iterator[Image.Image]]] = {
        "digits": from_digits,
        "mnist": from_mnist,
        "photographs": from_photographs,
    }
    if cifar is not None:
        kinds["grey_28x20"] = lambda: small_and_grey(cifar)
        kinds["cifar10_dogs"] = lambda: one_class(cifar)
        kinds["cifar10"] = lambda: (picture for _, picture in members(cifar, ".jpg"))
    if emoji is not None:
        kinds["emoji"] = lambda: on_white(emoji)
    for name, pictures in kinds.items():
        write(pictures(), root / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--emoji", type=Path)
    asked = parser.parse_args()
    make(asked.folder, asked.cifar, asked.emoji)
