"""The README's figures that take minutes, made again as its commands make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from vae_lightning.report.results import Results

EXPERIMENTS = REPOSITORY / "configs" / "experiment"
pytestmark = pytest.mark.slow


def measured(cli: Callable, experiment: str, *flags: object) -> dict[str, float]:
    """Fits and tests an experiment as it stands: all numbers by name."""
    assert cli("fit", "-c", EXPERIMENTS / f"{experiment}.yaml", *flags).status == 0
    assert cli("test", "--ckpt_path", f"runs/{experiment}", *flags).status == 0
    return {name: row.mean for name, row in Results.read(Path(f"runs/{experiment}/1")).rows.items()}


def test_digits_are_coded_far_below_independent_pixels(cli: Callable) -> None:
    model = measured(cli, "digits")
    assert model["independent_bits_per_dim"] == pytest.approx(2.42, abs=0.01)
    assert model["nll_bits_per_dim"] < 1.97
    assert model["nll_bits_per_dim"] < model["bits_per_dim"] < 2.03
    assert model["squared_error"] < 0.75 * model["pca_squared_error"]


def test_a_linear_autoencoder_is_pca(cli: Callable, data_root: Path) -> None:
    model = measured(cli, "linear_autoencoder", f"--data.root={data_root}")
    pca = model["pca_squared_error"]
    assert pca == pytest.approx(13.87, abs=0.03)
    assert model["squared_error"] == pytest.approx(pca, rel=0.02)
