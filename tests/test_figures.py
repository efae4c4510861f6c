"""The README's figures that take minutes, made again as its commands make them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

EXPERIMENTS = REPOSITORY / "configs" / "experiment"
pytestmark = pytest.mark.slow


def tested(cli: Callable, experiment: str, *flags: object) -> tuple[dict, dict]:
    """Fits and tests an experiment as it stands: the model's numbers and the baselines', by name."""
    assert cli("fit", "-c", EXPERIMENTS / f"{experiment}.yaml", *flags).status == 0
    assert cli("test", "--ckpt_path", f"runs/{experiment}", *flags).status == 0
    report = json.loads(Path(f"runs/{experiment}/1/test.json").read_text())
    model = {name: value["mean"] for name, value in report["model"].items()}
    return model, {f"{row['what']}, {row['unit']}": row["mean"] for row in report["baselines"]}


def test_digits_are_coded_far_below_independent_pixels(cli: Callable) -> None:
    model, base = tested(cli, "digits")
    assert base["independent pixels, -log p(x), bits/dim"] == pytest.approx(2.42, abs=0.01)
    assert model["nll_bits_per_dim"] < 1.97
    assert model["nll_bits_per_dim"] < model["bits_per_dim"] < 2.03
    assert model["squared_error"] < 0.75 * base["PCA with 10 components, squared error, per image"]


def test_a_linear_autoencoder_is_pca(cli: Callable, data_root: Path) -> None:
    model, base = tested(cli, "linear_autoencoder", f"--data.root={data_root}")
    pca = base["PCA with 30 components, squared error, per image"]
    assert pca == pytest.approx(13.87, abs=0.03)
    assert model["squared_error"] == pytest.approx(pca, rel=0.02)
