"""Shared by the tests: where the real data are, a generated data set, and the command line in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vae_lightning.data import Images, ImageSource, Splits

REPOSITORY = Path(__file__).parent.parent
pytest_plugins = ("tests.codec_models",)

if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:  # each its share, or they wait on each other
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())


class Generated(ImageSource):
    """Images with structure (a soft blob at a random place), of any shape and number of levels."""

    def __init__(self, shape: tuple[int, int, int] = (1, 28, 28), levels: int = 256, count: int = 96) -> None:
        self.shape, self._levels, self.count = tuple(shape), levels, count

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def levels(self) -> int:
        return self._levels

    @property
    def classes(self) -> tuple[str, ...]:
        return ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    def make(self, count: int, seed: int) -> Images:
        generator = torch.Generator().manual_seed(seed)
        c, h, w = self.shape
        y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
        centre = torch.rand(count, 2, c, 1, 1, generator=generator)
        image = torch.exp(-8 * ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2))
        return Images((image * (self._levels - 1)).round().to(torch.uint8), torch.arange(count) % 10)

    def load(self, root: Path, download: bool) -> Splits:
        return Splits(self.make(self.count, 0), self.make(self.count // 3, 1))


GENERATED = "tests.conftest.Generated"


def generated_flags(shape: tuple[int, int, int], levels: int) -> list[str]:
    """Command-line flags that replace a configuration's data by generated ones."""
    return [
        f"--data.source={GENERATED}",
        f"--data.source.shape=[{shape[0]},{shape[1]},{shape[2]}]",
        f"--data.source.levels={levels}",
        "--data.batch_size=16",
        "--data.val_size=16",
    ]


def real_data() -> Path | None:
    """The folder of the real data sets, if it is set or stands beside the repository."""
    for candidate in (os.environ.get("VAE_LIGHTNING_DATA"), REPOSITORY / "data", REPOSITORY.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
            return Path(candidate)
    return None


@pytest.fixture(scope="session")
def data_root() -> Path:
    root = real_data()
    if root is None:
        pytest.skip("real MNIST is not here: set VAE_LIGHTNING_DATA to the folder that holds MNIST/raw")
    return root


@pytest.fixture
def curves() -> None:
    """A test that takes it has `fit` draw curve.png; the others are spared half a second a training."""


@pytest.fixture
def cli(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> Callable[..., Result]:
    """Runs the command line in an empty folder: status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    if "curves" not in request.fixturenames:
        monkeypatch.setattr("vae_lightning.commands.cli.draw_curve", lambda *_: None)

    def run(*args: object) -> Result:
        from vae_lightning.commands.main import main

        capfd.readouterr()
        try:
            status = main([str(arg) for arg in args])
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capfd.readouterr()
        return Result(status, out, err)

    return run


class Result:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def error(self) -> str:
        """The one sentence, without what came before."""
        return self.err[self.err.rindex("error: ") :] if "error: " in self.err else ""


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same noise for each test, and nothing written where the tests were started."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
