"""Best and last are the run's own, whatever lies beside them; what is monitored is there; stopped is not finished."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from tests.conftest import REPOSITORY, generated_flags
from vae_lightning.checkpoint import find_checkpoint, read_checkpoint
from vae_lightning.run.loggers import CSVHistory

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"
SHORT = ["--trainer.callbacks=null", "--trainer.enable_progress_bar=false"]
SMALL = [*SHORT, *generated_flags((1, 8, 8), 17), "--data.source.count=48", "--trainer.max_epochs=3"]
OTHER = "--trainer.callbacks+=ModelCheckpoint"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def asked(*settings: str) -> list[str]:
    return [OTHER, *(f"--trainer.callbacks.{setting}" for setting in settings)]


@pytest.mark.parametrize(
    "flags",
    [
        asked("monitor=val/rate", "filename=early"),
        asked("monitor=headline", "save_top_k=2", "save_last=true"),
        asked("filename=last-{epoch}", "save_top_k=-1"),
        [*asked("monitor=val/elbo", "mode=max", "save_top_k=2"), "--checkpoint.filename={epoch}"],
    ],
    ids=["early", "headline", "all", "epochs"],
)
def test_a_second_checkpoint_callback_takes_neither_name(cli: Callable, flags: list[str]) -> None:
    done = cli("fit", "-c", DIGITS, *SMALL, *flags)
    assert done.status == 0
    run = Path("runs/digits/1")
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    last, best = find_checkpoint(run, prefer="last"), find_checkpoint(run)
    assert last.name == "last.ckpt"
    assert read_checkpoint(last)["epoch"] == 2
    assert len(kept) > 2
    with (run / "metrics.csv").open(newline="") as file:
        bounds = [float(row["val/elbo"]) for row in csv.DictReader(file) if row["val/elbo"]]
    assert read_checkpoint(best)["epoch"] == bounds.index(max(bounds))
    assert best.name == ("epoch=2.ckpt" if "--checkpoint.filename={epoch}" in flags else "best.ckpt")
    assert cli("fit", "--ckpt_path", run, "--trainer.max_epochs=4").status == 0
    assert read_checkpoint(find_checkpoint(run, prefer="last"))["epoch"] == 3


def test_the_best_epoch_of_the_importance_weighted_bound_is_by_that_bound(cli: Callable) -> None:
    """Its ELBO falls where its samples spread, while the bound still rises."""
    objective = REPOSITORY / "configs" / "objective" / "iwae.yaml"
    done = cli("fit", "-c", DIGITS, "-c", objective, *SMALL, "--trainer.max_epochs=5", "--model.optimizer.lr=0.01")
    assert done.status == 0, done.err
    run = Path("runs/digits/1")
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/iwae"]]
    bounds, elbos = ([float(row[f"val/{name}"]) for row in rows] for name in ("iwae", "elbo"))
    assert len(bounds) == 5
    assert all(bound > elbo for bound, elbo in zip(bounds, elbos, strict=True))
    best = read_checkpoint(find_checkpoint(run))
    assert best["epoch"] == bounds.index(max(bounds))
    assert any("'monitor': 'val/iwae'" in name for name in best["callbacks"])


@pytest.mark.parametrize("samples", [1, 5])
def test_a_run_is_judged_by_the_bound_that_it_began_with(cli: Callable, samples: int) -> None:
    """Going on with another objective, or another number of samples, keeps the best epoch and its history."""
    objective = REPOSITORY / "configs" / "objective" / ("iwae.yaml" if samples > 1 else "elbo.yaml")
    assert cli("fit", "-c", DIGITS, "-c", objective, *SMALL).status == 0
    run, name = Path("runs/digits/1"), "iwae" if samples > 1 else "elbo"
    before = read_checkpoint(find_checkpoint(run))
    spoilt = ["--model.objective=IWAE", "--model.objective.num_samples=2", "--model.optimizer.lr=30"]
    done = cli("fit", "--ckpt_path", run, *spoilt, "--trainer.max_epochs=5")
    assert done.status in (0, 1), done.err  # diverged
    assert "goes on to be chosen by the" in done.err
    assert read_checkpoint(find_checkpoint(run))["epoch"] == before["epoch"]
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(f"val/{name}")]
    assert len(rows) > 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (asked("monitor=val/rate", "filename=best"), ["a filename of its own, got 'best'"]),
        (asked("monitor=val/rate", "filename=last"), ["a filename of its own, got 'last'"]),
        (asked("monitor=val_loss"), ["got 'val_loss', which never is", "headline, ", "val/elbo"]),
        (["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=x"], ["got 'x', which never is", "loss"]),
        (["--checkpoint.filename=last"], ["--checkpoint.filename last"]),
        (["--checkpoint.dirpath=elsewhere"], ["--checkpoint.dirpath elsewhere", "--run.root"]),
        ([*asked("monitor=loss"), *asked("monitor=loss")], ["two of ModelCheckpoint with the same settings"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_what_cannot_be_is_refused_before_the_first_epoch(cli: Callable, flags: list[str], words: list[str]) -> None:
    result = cli("fit", "-c", DIGITS, *SMALL, *flags)
    assert result.status == 1
    assert all(word in result.error for word in words), result.err
    assert not list(Path().glob("runs/*/*"))


def test_a_training_that_stops_early_says_so(cli: Callable) -> None:
    stop = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.patience=1"]
    done = cli("fit", "-c", DIGITS, *SMALL, *stop, "--trainer.callbacks.monitor=headline", "--run.name=up")
    assert done.status == 0
    assert "stopped early" not in done.out  # the bound rises
    wrong = cli("fit", "-c", DIGITS, *SMALL, *stop, "--trainer.callbacks.monitor=val/elbo", "--run.name=down")
    assert "stopped early, in epoch 2, by EarlyStopping" in wrong.out
    assert "set --trainer.callbacks.mode max" in wrong.err


def test_another_optimiser_begins_without_the_others_state(cli: Callable) -> None:
    assert cli("fit", "-c", DIGITS, *SMALL).status == 0
    other = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.0001", "--model.optimizer.momentum=0.9"]
    done = cli("fit", "--ckpt_path=runs/digits/1", *other, "--trainer.max_epochs=4")
    assert done.status == 0
    assert "going on with SGD after Adam: it begins without the other's state" in done.err
    last = read_checkpoint(Path("runs/digits/1/checkpoints/last.ckpt"))
    (state,) = last["optimizer_states"]
    assert {name for of in state["state"].values() for name in of} == {"momentum_buffer"}
    assert "betas" not in state["param_groups"][0]
    same = cli("fit", "--ckpt_path=runs/digits/1", "--model.optimizer.lr=0.0002", "--trainer.max_epochs=5")
    assert "going on with" not in same.err


def test_a_line_an_epoch_has_its_own_numbers(cli: Callable) -> None:
    flags = [*SMALL[2:], "--trainer.callbacks=Progress", "--trainer.check_val_every_n_epoch=2"]
    done = cli("fit", "-c", DIGITS, *flags, "--trainer.max_epochs=4", "--trainer.log_every_n_steps=1000")
    lines = [line for line in done.out.splitlines() if line.startswith("epoch ")]
    losses = [float(line.partition("loss ")[2].split(",")[0].split(" ")[0]) for line in lines]
    assert len(set(losses)) == 4
    assert ["val/elbo" in line for line in lines] == [False, True, False, True]


def test_sigterm_ends_a_training_unfinished(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vae_lightning", "fit", "-c", str(DIGITS), *SHORT, "--trainer.max_epochs=1000"]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    last = tmp_path / "runs" / "digits" / "1" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 300
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].endswith("go on with vae-lightning fit --ckpt_path runs/digits/1")
    assert torch.load(last, weights_only=True)["epoch"] >= 0
    assert not list(tmp_path.rglob("*.part"))


def test_going_on_in_two_processes_keeps_every_row(cli: Callable, tmp_path: Path) -> None:
    assert cli("fit", "-c", DIGITS, *SMALL, "--trainer.log_every_n_steps=1").status == 0
    before = Path("runs/digits/1/metrics.csv").read_text().splitlines()
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=4"]
    command = [sys.executable, "-m", "vae_lightning", "fit", "--ckpt_path=runs/digits/1", *two]
    subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=600)
    after = Path("runs/digits/1/metrics.csv").read_text().splitlines()
    assert len(after) > len(before) > 7
    assert after[: len(before)] == before
    assert not Path("runs/digits/1/metrics.1.csv").exists()


def test_rows_whose_steps_are_taken_again_are_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("loss,step\n3.0,1\n2.0,5\n1.0,9\n0.5")  # the last line was torn
    text = path.read_text()
    CSVHistory(tmp_path, 6)
    assert path.read_text() == text  # nothing was logged
    logger = CSVHistory(tmp_path, 6)
    logger.log_metrics({"loss": 1.5, "rate": 7.0}, 6)
    logger.save()
    rows = list(csv.DictReader(path.open(newline="")))
    assert [(row["step"], row["loss"], row["rate"]) for row in rows] == [
        ("1", "3.0", ""),
        ("5", "2.0", ""),
        ("6", "1.5", "7.0"),
    ]
    assert (tmp_path / "metrics.1.csv").read_text() == text


def test_callbacks_of_a_test_are_called_or_refused(cli: Callable) -> None:
    assert cli("fit", "-c", DIGITS, *SMALL).status == 0
    run, few = "--ckpt_path=runs/digits/1", ["--model.evaluation.samples=0", "--model.evaluation.studies=false"]
    done = cli("test", run, *few, "--trainer.callbacks+=tests.test_own_checkpoints.Says")
    assert done.status == 0
    assert "a test ended" in done.out
    for command, name in (("sample", "tests.test_own_checkpoints.Says"), ("test", "Reconstructions")):
        refused = cli(command, run, f"--trainer.callbacks+={name}")
        assert refused.status == 1
        assert "--trainer.callbacks: expected" in refused.error
    assert cli("validate", run, "-c", DIGITS, "--data.source=Digits").status == 0  # whose callbacks are of a training


class Says(Callback):
    def on_test_end(self, *_: object) -> None:
        print("a test ended")


def test_one_sweep_at_a_time(cli: Callable) -> None:
    from filelock import FileLock

    Path("rd").mkdir()
    with FileLock("rd/sweep.lock"):
        result = cli("sweep-rd", "-c", DIGITS, *SMALL, "--betas", "1", "--output", "rd")
    assert result.status == 1
    assert "no other sweep-rd is at work" in result.error
    assert not list(Path("rd").glob("beta_*"))


def test_a_second_stage_without_its_first_run(cli: Callable) -> None:
    assert cli("fit", "-c", DIGITS, *SMALL, "--trainer.max_epochs=1").status == 0
    frozen = ["--model.latent_model.encoder=FrozenEncoder", "--model.latent_model.encoder.run=runs/digits/1"]
    assert cli("fit", "-c", DIGITS, *SMALL, *frozen, "--run.name=second", "--trainer.max_epochs=1").status == 0
    Path("runs/digits/1").rename("runs/away")
    for command in ("fit", "doctor"):
        again = cli(command, "-c", "runs/digits/second/config.yaml")
        assert again.status == 1
        assert "expected the trained run runs/digits/1, whose weights a new training begins with" in again.error
        assert "Train it first, or say where it is now" in again.error
    assert cli("fit", "--ckpt_path=runs/digits/second", "--trainer.max_epochs=2").status == 0  # has them already
    assert yaml.safe_load(Path("runs/digits/second/config.yaml").read_text())["run"]["experiment"] == "digits"
