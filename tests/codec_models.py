"""Tiny trained models and images for the tests of compression, each model made once."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import REPOSITORY, generated_flags
from vae_lightning import trained as checkpoint

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"
MODELS = {
    "grey": ((1, 4, 4), 256, []),
    "colour": ((3, 4, 4), 256, []),
    "linked": ((3, 4, 4), 256, ["--model.latent_model.likelihood=LinkedLogisticLikelihood"]),
    "binary": (
        (1, 4, 4),
        256,
        ["--data.dynamic_binarization=true", "--model.latent_model.likelihood=BernoulliLikelihood"],
    ),
    "labelled": (
        (1, 4, 4),
        256,
        [
            word
            for slot in ("encoder", "likelihood", "prior")
            for word in ("-c", str(REPOSITORY / "configs" / slot / "labelled.yaml"))
        ],
    ),
}


def train(kind: str, folder: Path, seed: int = 0) -> Path:
    """The run of one of them."""
    from vae_lightning.commands.main import main

    shape, levels, flags = MODELS[kind]
    before = Path.cwd()
    os.chdir(folder)
    try:
        short = ["--trainer.max_epochs=1", "--trainer.callbacks=null", "--trainer.enable_progress_bar=false"]
        small = ["--model.latent_model.latent_size=2", f"--seed_everything={seed}", f"--run.name={kind}{seed}"]
        assert main(["fit", "-c", str(DIGITS), *generated_flags(shape, levels), *short, *small, *flags]) == 0
    finally:
        os.chdir(before)
        torch.set_flush_denormal(False)
    return folder / "runs" / "digits" / f"{kind}{seed}"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def grey(folder: Path) -> Path:
    return train("grey", folder)


@pytest.fixture(scope="session")
def colour(folder: Path) -> Path:
    return train("colour", folder)


@pytest.fixture(scope="session")
def binary(folder: Path) -> Path:
    return train("binary", folder)


@pytest.fixture(scope="session")
def linked(folder: Path) -> Path:
    return train("linked", folder)


@pytest.fixture(scope="session")
def labelled(folder: Path) -> Path:
    return train("labelled", folder)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A model is built once, which takes half a second; and denormals are as they were."""
    monkeypatch.setattr(checkpoint, "load_model", built)
    yield
    torch.set_flush_denormal(False)


built = functools.cache(checkpoint.load_model)


def some(count: int, channels: int = 1, top: int = 255) -> np.ndarray:
    """(count, channels, 4, 4) uint8."""
    chance = np.random.default_rng(0)
    return chance.integers(0, top, (count, channels, 4, 4), np.uint8, endpoint=True)


def saved(pixels: np.ndarray, name: str) -> Path:
    """(C, H, W) -> an image file."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path)
    return path


def loaded(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def files(folder: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def leftovers() -> list[Path]:
    return [path for path in Path().rglob("*") if ".part" in path.name]
