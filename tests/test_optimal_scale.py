"""The Gaussian of optimal scale in whole runs: its running mean goes on where it stood, compiled or not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.test_experiment import DIGITS, SHORT, same, weights

OPTIMAL = ["--model.latent_model.likelihood=GaussianOptimalScaleLikelihood"]


def test_a_run_goes_on_within_an_epoch_with_its_running_scale(cli: Callable) -> None:
    within = ["--checkpoint.every_n_train_steps=28", "--checkpoint.monitor=null", "--checkpoint.filename={step}"]
    flags = ["fit", "-c", DIGITS, *SHORT, *OPTIMAL, *within, "--trainer.max_epochs=2"]
    assert cli(*flags, "--run.name=whole").status == 0
    middle = Path("runs/digits/whole/checkpoints/step=28.ckpt")
    assert weights(middle)["latent_model.likelihood.batches"] == 28  # one a step, none of validation's
    resumed = cli(*flags, f"--ckpt_path={middle}", "--run.name=parts")
    assert resumed.status == 0, resumed.err
    whole, parts = (weights(Path(f"runs/digits/{name}/checkpoints/last.ckpt")) for name in ("whole", "parts"))
    assert whole["latent_model.likelihood.batches"] == 40
    assert same(whole, parts)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler")
def test_compiled_steps_keep_the_same_running_scale(cli: Callable) -> None:
    flags = ["fit", "-c", DIGITS, *SHORT, *OPTIMAL, "--trainer.max_epochs=1"]
    found = []
    for compiled in ("false", "true"):
        done = cli(*flags, f"--model.compile={compiled}", f"--run.name={compiled}")
        assert done.status == 0, done.err
        found.append(weights(Path(f"runs/digits/{compiled}/checkpoints/last.ckpt")))
    eager, compiled_found = (w["latent_model.likelihood.mean_square"] for w in found)
    assert 0 < eager < 16**2
    torch.testing.assert_close(compiled_found, eager, rtol=0.05, atol=0)  # other noise
