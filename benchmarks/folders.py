"""Folders of images such as people have, made of what is at hand, for `configs/experiment/images.yaml`.

    python -m benchmarks.folders make DIR [--cifar cifar10-images.tar.gz] [--emoji emoji-64.tar.gz]
    python -m benchmarks.folders run DIR --runs RUNS [--only FOLDER ...] [--minutes 12]

`run` trains each folder with the one command, kills it half-way and goes on with it, tests it, and writes table.md. A
number of minutes is the training's, on whatever this machine is; the processor's own are in the table.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
from PIL import Image

TILE = 64
CONFIG = Path(__file__).parent.parent / "configs" / "experiment" / "images.yaml"


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
    from vae_lightning.data.source import find_root

    splits = MNIST().load(find_root(None), download=True)
    for part in (splits.train, splits.test):
        for image in part.image[:, 0].numpy():
            yield Image.fromarray(image)


def members(archive: Path, suffix: str) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures of an archive's files that end in `suffix`, in the order of their names."""
    with tarfile.open(archive) as opened:  # in its own order: going back in a compressed file begins it anew
        files = dict[str, bytes]()
        for member in opened:
            if member.isfile() and member.name.endswith(suffix):
                files[member.name] = opened.extractfile(member).read()  # type: ignore[union-attr]
    for name in sorted(files):
        with Image.open(io.BytesIO(files[name])) as picture:
            yield name, picture.copy()


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
    begun, count = folder.with_name(f".{folder.name}"), 0
    begun.mkdir(parents=True, exist_ok=True)
    for count, picture in enumerate(pictures, 1):
        picture.save(begun / f"{count:05d}.png")
    begun.rename(folder)
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


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "vae_lightning", *map(str, words)]


def train(folder: Path, runs: Path, minutes: float) -> Path:
    """One run of the default, killed half-way."""
    run, whole = runs / "folders" / folder.name, timedelta(minutes=minutes)
    limit = f"00:{whole.seconds // 3600:02d}:{whole.seconds // 60 % 60:02d}:{whole.seconds % 60:02d}"
    place = ["--run.root", runs, "--run.experiment", "folders", "--run.name", folder.name]
    first = subprocess.Popen(
        command("fit", "-c", CONFIG, "--data.source.path", folder, "--trainer.max_time", limit, *place)
    )
    last, end = run / "checkpoints" / "last.ckpt", time.monotonic() + 30 * minutes
    while first.poll() is None and not (time.monotonic() > end and last.is_file()):
        time.sleep(1)
    if first.poll() is None:
        first.kill()
        first.wait()
        subprocess.run(command("fit", "--ckpt_path", run), check=True)
    return run


def measured(folder: Path, runs: Path, minutes: float) -> str:
    """A row of the table."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    run = train(folder, runs, minutes)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began
    subprocess.run(command("test", "--ckpt_path", run), check=True)
    results = json.loads((run / "results.json").read_text())
    rows = {row["name"]: row["mean"] for section in results["sections"] for row in section["rows"]}
    gain = 100 * (1 + rows["elbo"] / rows["independent_nll"])
    sharp = "/".join(f"{rows[f'{kind}_high_frequency']:.1f}" for kind in ("original", "reconstruction", "sample"))
    shape = "x".join(map(str, results["settings"]["image_shape"]))
    return (
        f"| {folder.name} | {len(list(folder.iterdir()))} | {shape} | {rows['bits_per_dim']:.3f} | "
        f"{rows['independent_bits_per_dim']:.3f} | {gain:.0f} % | {rows['squared_error']:.3g} | "
        f"{rows['sampled_squared_error']:.3g} | {rows['rate_distortion_limit']:.3g} | {rows['rate']:.0f} | {sharp} | "
        f"{spent / 60:.1f} |"
    )


HEAD = """| folder | images | size | -ELBO, bits/dim | independent pixels | less | squared error | from a sample | \
PCA with ideal coding | rate, nats | high-frequency energy, %: images/back/samples | minutes of a core |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as images, train/<class>/*.jpg, in an archive")
    parser.add_argument("--emoji", type=Path, help="an archive of pictures with transparency")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--only", nargs="*", default=[], help="folders, by name; all by default")
    parser.add_argument("--minutes", type=float, default=12, help="of training, each")
    asked = parser.parse_args()
    if asked.what == "make":
        make(asked.folder, asked.cifar, asked.emoji)
    else:
        asked.runs.mkdir(parents=True, exist_ok=True)
        table = asked.runs / "table.md"
        if not table.is_file():
            table.write_text(HEAD)
        for name in asked.only or sorted(path.name for path in asked.folder.iterdir()):
            with table.open("a") as out:
                out.write(measured(asked.folder / name, asked.runs, asked.minutes) + "\n")
