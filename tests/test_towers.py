"""A model without latents goes through what asks for no story, and the rest refuses it in a sentence."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
import yaml

from tests.conftest import REPOSITORY
from tests.test_experiment import history, same, weights
from vae_lightning import load_model
from vae_lightning.models.build import trained
from vae_lightning.report.results import Results

TOWERS = {
    "model": {
        "latent_model": {"class_path": "tests.towers.TwoTowers"},
        "objective": {"class_path": "tests.towers.PairedContrast"},
        "evaluation": {"class_path": "tests.towers.Recall"},
    },
    "data": {"source": "Digits", "batch_size": 64, "val_size": 200},
    "run": {"experiment": "towers"},
}


def flags() -> list[str]:
    """base.yaml, pictures and all, and the towers."""
    Path("towers.yaml").write_text(yaml.safe_dump(TOWERS))
    return ["fit", "-c", str(REPOSITORY / "configs" / "base.yaml"), "-c", "towers.yaml"]


def test_towers_go_through_fit_validate_and_test(cli: Callable, curves: None) -> None:
    done = cli(*flags(), "--trainer.max_epochs=10", "--model.lr_schedule=null")
    assert done.status == 0, done.err
    assert len(re.findall(r"epoch \d+/10: .*val/recall 0\.\d\d", done.out)) == 10  # the bar's own headline
    assert "val/cross_entropy" not in done.out
    run = Path("runs/towers/1")
    assert not (run / "images").exists()
    assert (run / "curve.png").is_file()
    rows = [float(row["val/recall"]) for row in history(str(run)) if row["val/recall"]]
    assert max(rows) > 0.05  # by chance 0.005, of 200 in a batch
    best, last = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    kept = next(state for key, state in best["callbacks"].items() if "BestCheckpoint" in key)
    assert kept["monitor"] == "val/recall"
    assert kept["best_model_score"].item() == pytest.approx(max(rows))
    assert best["epoch"] == rows.index(max(rows))
    assert last["epoch"] == 9
    assert cli("validate", "--ckpt_path", run).status == 0
    tested = cli("test", "--ckpt_path", run)
    assert tested.status == 0, tested.err
    found = Results.read(run)
    assert set(found.rows) == {"recall", "cross_entropy"}
    assert found.images == 360
    assert found.per_image["recall"].mean() == pytest.approx(found.rows["recall"].mean)
    assert found.rows["recall"].error == pytest.approx(found.per_image["recall"].std(ddof=1) / math.sqrt(360), rel=1e-4)
    assert cli("report", run).status == 0
    page = (run / "report.html").read_text()
    assert "recall" in page
    assert "cross entropy" in page
    assert json.loads((run / "results.json").read_text())["images"] == 360


def test_towers_go_on_as_if_nothing_had_happened(cli: Callable) -> None:
    short = ["--trainer.callbacks=null", "--trainer.enable_progress_bar=false", "--model.lr_schedule=null"]
    assert cli(*flags(), *short, "--trainer.max_epochs=3", "--run.name=whole").status == 0
    assert cli(*flags(), *short, "--trainer.max_epochs=1", "--run.name=parts").status == 0
    resumed = cli("fit", "--ckpt_path=runs/towers/parts", "--trainer.max_epochs=3")
    assert resumed.status == 0, resumed.err
    for name in ("last", "best"):
        assert same(*(weights(Path(f"runs/towers/{run}/checkpoints/{name}.ckpt")) for run in ("whole", "parts")))
    assert history("runs/towers/whole") == history("runs/towers/parts")


def test_commands_about_a_story_refuse_towers_in_a_sentence(cli: Callable) -> None:
    short = ["--trainer.callbacks=null", "--trainer.enable_progress_bar=false"]
    assert cli(*flags(), *short, "--trainer.max_epochs=1").status == 0
    run = Path("runs/towers/1")
    np.save("x.npy", np.zeros((2, 1, 8, 8), np.uint8))
    for command, rest in {
        "sample": [],
        "reconstruct": [],
        "encode": [],
        "predict": [],
        "anomaly": ["--ood=tests.conftest.Generated"],
        "compress": ["x.npy", "-o", "x.vlz"],
        "surprise": ["x.npy"],
    }.items():
        refused = cli(command, *rest, "--ckpt_path", run)
        assert refused.status == 1, command
        assert re.search(r"error: .*expected a model with latents, got TwoTowers", refused.err), (command, refused.err)
        assert "Traceback" not in refused.err
        assert len(refused.error.strip().splitlines()) == 1
    with pytest.raises(ValueError, match="expected a model with latents, got TwoTowers"):
        load_model(str(run))
    model, record, _ = trained(str(run))
    assert type(model).__name__ == "TwoTowers"
    assert record["levels"] == 17
    assert {path.name for path in run.iterdir()} == {
        "checkpoints",
        "config.yaml",
        "verdict.json",
        "metrics.csv",
        "run.json",
    }


def test_objectives_and_evaluations_of_a_story_refuse_towers(cli: Callable) -> None:
    refused = cli(*flags(), "--model.objective=ELBO")
    assert refused.status == 1
    assert "the objective ELBO needs a model with latents, got TwoTowers" in refused.error
    refused = cli(*flags(), "--model.evaluation=ImageEvaluation")
    assert refused.status == 1
    assert "ImageEvaluation: expected a model with latents, got TwoTowers" in refused.error


def test_the_doctor_looks_at_what_is_no_storys(cli: Callable) -> None:
    examined = cli("doctor", *flags()[1:])
    assert "TwoTowers has no latents: what is asked of a story was not looked at." in examined.out
    assert "could not be looked at" not in examined.out
    assert "0 of 9 gradients are nan or infinite" in examined.out
    assert "take the loss of 32 images from" in examined.out
    assert "a training step of 64 images takes" in examined.out


def test_towers_are_followed_by_wandb_offline(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    overlay = REPOSITORY / "configs" / "logger" / "wandb.yaml"
    done = cli(*flags(), "-c", overlay, "--trainer.max_epochs=2")
    assert done.status == 0, done.err
    wandb.teardown()  # as a process's end does: until then W&B's service may hold the lines back
    (record,) = Path("runs/towers/1/wandb").glob("offline-run-*/*.wandb")
    assert b"val/recall" in record.read_bytes()
    tested = cli("test", "--ckpt_path=runs/towers/1", "-c", overlay)
    assert tested.status == 0, tested.err
    assert Path("runs/towers/1/report.html").is_file()
