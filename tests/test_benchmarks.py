"""The hand-written loop that speed is measured against does what `fit` does, and the tables say where they are from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import harness
from benchmarks.train import COMPILED, by_hand, follow, project
from tests.conftest import REPOSITORY, Generated, generated_flags
from vae_lightning.data import ImageData

ROUNDS = [
    "codec",
    "coder",
    "data",
    "embeddings",
    "gradient_snr",
    "likelihood",
    "peers",
    "sampling",
    "scale",
    "startup",
    "train",
]
RUN_ALONE = [*ROUNDS, "folders", "planted_defects", "text2image_seeds", "total_correlation", "blur"]


def curves(name: str, side: int, *flags: str) -> list[tuple[list[float], list[float]]]:
    """The losses of 20 steps and the bounds of both epochs: of fit, and by hand."""
    shape = (1, side, side)
    small = [*generated_flags(shape, 2), "--data.source.count=176", "--trainer.log_every_n_steps=1"]
    data = ImageData(Generated(shape, 2, 176), batch_size=16, val_size=16)
    data.setup()
    torch.compiler.reset()
    return [project(f"{name}.yaml", 2, *small, *flags)[1:], by_hand(name, data, 2, 1, COMPILED in flags)[1:]]


@pytest.mark.parametrize(("name", "side"), [("mlp", 28), ("conv", 32)])
def test_the_hand_written_loop_has_the_loss_curve_of_fit(name: str, side: int) -> None:
    (losses, bounds), (expected, expected_bounds) = curves(name, side)
    assert len(losses) == 2 * 10
    assert losses[:10] == pytest.approx(expected[:10], rel=1e-5)  # seen: 2e-7
    assert losses == pytest.approx(expected, rel=1e-3)  # seen: 3e-5, where the convolutions' rounding grows
    assert bounds == pytest.approx(expected_bounds, rel=1e-3)
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_compiled_they_have_the_same_noise_and_not_the_uncompiled_one() -> None:
    uncompiled, _ = curves("mlp", 28)
    fit, hand = curves("mlp", 28, COMPILED)
    assert fit[0] == pytest.approx(hand[0], rel=1e-5)  # seen: 2e-7
    assert fit[1] == pytest.approx(hand[1], rel=1e-5)
    assert fit[0][0] != pytest.approx(uncompiled[0][0], rel=1e-4)  # seen: 2e-3
    from torch._inductor import config

    with config.patch(fallback_random=True):
        fit, _ = curves("mlp", 28, COMPILED)
    assert fit[0] == pytest.approx(uncompiled[0], rel=1e-5)  # seen: 2e-7: the noise was all that parted them


def test_a_loss_curve_that_is_another_one_ends_the_benchmark() -> None:
    expected = [200.0, 150.0, 120.0, 110.0]
    assert follow([200.0, 150.0, 120.3, 111.0], expected, 101) == pytest.approx(
        {"first step": 0, "step 50": 0, "first epoch": 2.5e-3, "all": 1 / 110}
    )
    assert follow([200.01, 150, 120, 110], expected, 101, first=1e-4)["first step"] == pytest.approx(5e-5)
    for other in ([200.01, 150, 120, 110], [200.1, 150, 120, 110], [200, 150.3, 120, 110], [200, 150, 120, 112]):
        with pytest.raises(SystemExit, match="does not train as the hand-written loop does"):
            follow(other, expected, 101)


def test_a_comparison_prints_as_it_goes_and_keeps_load_and_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.4, 0.3))
    seen: list[str] = []

    def case(seconds: float) -> Callable[[], float]:
        def work() -> float:
            seen.append(capsys.readouterr().out)
            return seconds

        return work

    cases = {"a": case(2.0), "b": case(3.0), "c": case(6.0)}
    harness.compare("trial", cases, "a", 2, counterparts={"c": "b"})
    assert seen[1] == "trial, round 1 of 2, a: 2 seconds, load 0.50\n"
    assert len(seen) == 2 * 3
    table = capsys.readouterr().out
    assert f"trial ({os.cpu_count()} cores, load 0.50 to 0.50)" in table
    assert "3.000x  2.000x of b" in table
    kept = json.loads((tmp_path / "results" / "trial.json").read_text())
    assert kept["machine"]["cores"] == os.cpu_count()
    assert kept["machine"]["load"] == [0.5, 0.4, 0.3]
    assert kept["load"] == {"a": [0.5] * 2, "b": [0.5] * 2, "c": [0.5] * 2}
    assert kept["ratio"] == {"a": 1, "b": 1.5, "c": 3}
    assert kept["ratio to its counterpart"] == {"c": 2}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUNDS)
def test_every_benchmark_takes_rounds(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--rounds", "0"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "expected at least 1 round, got 0" in done.stderr


def test_every_benchmark_is_named_here() -> None:
    own = {path.stem for path in (REPOSITORY / "benchmarks").glob("*.py") if "__main__" in path.read_text()}
    assert own == set(RUN_ALONE)
