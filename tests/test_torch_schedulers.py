"""torch's own schedulers: stepped as they are meant to be, and said so where their course does not fit the training."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

from tests.conftest import GENERATED, REPOSITORY, Generated
from tests.test_doctor import experiment, found, troubles
from vae_lightning.data import ImageData
from vae_lightning.doctor import examine as doctor
from vae_lightning.doctor import schedule as checkup_schedule
from vae_lightning.doctor.examine import examine
from vae_lightning.train.scheduler import Length, interval_of, misfit

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"
FIT = [
    "fit",
    "-c",
    DIGITS,
    "--trainer.callbacks=null",
    "--trainer.enable_progress_bar=false",
    "--model.lr_schedule=null",
]
FIT += [f"--data.source={GENERATED}", "--data.source.shape=[1,8,8]", "--data.source.levels=17", "--data.val_size=16"]
FIT += ["--data.source.count=96", "--data.batch_size=16"]  # 5 steps an epoch
LENGTH = Length.of(250, -1, 12)


def made(kind: Any, *args: Any, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1, momentum=0.9)
        return kind(optimizer, *args, **settings)

    return make


def warmed(cosine: int) -> Callable[[], Any]:
    def chain(optimizer: Any) -> Any:
        parts = [schedulers.LinearLR(optimizer), schedulers.CosineAnnealingLR(optimizer, cosine)]
        return schedulers.SequentialLR(optimizer, parts, [5])

    return made(chain)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (made(schedulers.CosineAnnealingLR, 5), "swings down and up again 25 times"),
        (made(schedulers.CosineAnnealingLR, 125), "swings down and up again once"),
        (made(schedulers.CosineAnnealingLR, 3000), "ends after 8% of its course"),
        (made(schedulers.StepLR, 300), "never changes"),
        (made(schedulers.MultiStepLR, [100, 300]), "changes the rate after 300 epochs"),
        (made(schedulers.ExponentialLR, 0.9), "brought the rate to nothing after 88 epochs"),
        (made(schedulers.PolynomialLR, 5), "brought the rate to nothing after 5 epochs"),
        (made(schedulers.LambdaLR, lambda epoch: 1 + epoch % 10 / 10), "rise again 24 times"),
        (made(schedulers.ConstantLR, 0.5, 400), "ends after 62% of its course"),
        (made(schedulers.CosineAnnealingWarmRestarts, 100), "ends after"),
        (made(schedulers.CosineAnnealingWarmRestarts, 200), "upper half of a cycle"),
        (made(schedulers.ReduceLROnPlateau, patience=250), "the rate never changes"),
        (made(schedulers.OneCycleLR, 0.1, total_steps=240), "torch ends the training with an error"),
        (warmed(5), "CosineAnnealingLR has T_max 5"),
        (made(schedulers.CosineAnnealingLR, 250), None),
        (made(schedulers.CosineAnnealingLR, 249), None),
        (made(schedulers.OneCycleLR, 0.1, total_steps=250), None),
        (made(schedulers.StepLR, 100), None),
        (made(schedulers.MultiStepLR, [100, 200]), None),
        (made(schedulers.ExponentialLR, 0.98), None),
        (made(schedulers.CosineAnnealingWarmRestarts, 50), None),
        (made(schedulers.LinearLR), None),
        (made(schedulers.ReduceLROnPlateau), None),
        (warmed(245), None),
    ],
)
def test_a_course_that_does_not_fit_is_said(make: Callable[[], Any], said: str | None) -> None:
    complaint = misfit(make, "epoch", LENGTH)
    if said is None:
        assert complaint is None
    elif said == "ends after":  # 250 epochs are two cycles of 100 and a half
        assert complaint is not None
        assert "upper half" in complaint.what
    else:
        assert complaint is not None
        assert said in complaint.what
        assert complaint.remedy[0].isupper()
        assert complaint.remedy.endswith(".")


def test_a_step_size_is_proposed_where_there_is_one() -> None:
    complaint = misfit(made(schedulers.StepLR, 300), "epoch", LENGTH)
    assert complaint is not None
    assert "--model.lr_scheduler.step_size 83, or let" in complaint.remedy
    complaint = misfit(made(schedulers.StepLR, 10), "epoch", Length.of(1, -1, 12))
    assert complaint is not None
    assert complaint.remedy.startswith("Let --model.lr_schedule WarmupCosine")


def test_a_training_of_unknown_length_has_no_misfit() -> None:
    assert misfit(made(schedulers.CosineAnnealingLR, 5), "epoch", Length.of(-1, -1, 12)) is None
    assert Length.of(250, 600, 12) == Length(50, 600)
    assert Length.of(None, 600, 12) == Length(50, 600)


@pytest.mark.parametrize(
    ("make", "said", "interval"),
    [
        (made(schedulers.OneCycleLR, 0.1, total_steps=3000), None, "step"),
        (made(schedulers.CyclicLR, 0.01, 0.1), None, "step"),
        (made(schedulers.LinearLR, total_iters=500), None, "step"),
        (made(schedulers.LinearLR, total_iters=5), None, "epoch"),
        (made(schedulers.CosineAnnealingLR, 250), None, "epoch"),
        (made(schedulers.CosineAnnealingLR, 3000), "step", "step"),
        (made(schedulers.OneCycleLR, 0.1, total_steps=250), "epoch", "epoch"),
    ],
)
def test_the_interval_is_a_setting_and_by_default_what_the_kind_is_meant_for(
    make: Callable[[], Any], said: Any, interval: str
) -> None:
    assert interval_of(make(), said, LENGTH) == interval


def rates(run: str) -> list[float]:
    with open(f"runs/digits/{run}/metrics.csv", newline="") as file:
        return [float(row["optim/lr"]) for row in csv.DictReader(file) if row.get("optim/lr")]


def test_fit_steps_them_so_and_says_what_does_not_fit(cli: Callable) -> None:
    every = ["--trainer.log_every_n_steps=1", "--trainer.max_epochs=4"]
    cycle = ["--model.lr_scheduler=OneCycleLR", "--model.lr_scheduler.max_lr=0.01"]
    done = cli(*FIT, *every, *cycle, "--model.lr_scheduler.total_steps=20", "--run.name=cycle")
    assert done.status == 0
    assert "OneCycleLR sets the learning rate once every step" in done.err
    assert "does not fit" not in done.err
    assert len(set(rates("cycle"))) == 20
    short = cli(*FIT, *every, *cycle, "--model.lr_scheduler.total_steps=19", "--run.name=short")
    assert short.status == 1
    assert "total_steps 19 (steps), and the training has 20" in short.error
    assert not Path("runs/digits/short").exists()
    cosine = ["--model.lr_scheduler=CosineAnnealingLR", "--model.lr_scheduler.T_max=1"]
    done = cli(*FIT, *every, *cosine, "--run.name=cosine")
    assert done.status == 0
    assert "does not fit the training: CosineAnnealingLR has T_max 1 (epochs), and the training has 4" in done.err
    assert "--model.lr_scheduler.T_max 4" in done.err
    assert len(set(rates("cosine"))) == 2
    done = cli(*FIT, *every, *cosine[:1], "--model.lr_scheduler.T_max=20", "--model.lr_interval=step", "--run.name=s")
    assert "does not fit" not in done.err
    assert len(set(rates("s"))) == 20


def test_a_plateau_follows_the_headline_in_its_direction(cli: Callable) -> None:
    plateau = ["--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau", "--model.lr_scheduler.patience=1"]
    flags = [*plateau, "--trainer.max_epochs=5", "--trainer.log_every_n_steps=1"]
    assert cli(*FIT, *flags, "--run.name=up").status == 0
    assert len(set(rates("up"))) == 1  # the bound rises at every epoch of five
    seldom = cli(*FIT, *flags, "--trainer.check_val_every_n_epoch=2", "--run.name=seldom")
    assert seldom.status == 0
    wrong = ["--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.lr_scheduler.patience=1"]
    done = cli(*FIT, *wrong, "--model.lr_scheduler.monitor=val/elbo", "--trainer.max_epochs=5")
    assert "set --model.lr_scheduler.mode max" in done.err
    never = cli(*FIT, *wrong, "--model.lr_scheduler.monitor=val_loss", "--run.name=never")
    assert never.status == 1
    assert "got 'val_loss', which never is: set --model.lr_scheduler.monitor to one of headline," in never.error
    assert "val/elbo" in never.error
    assert not Path("runs/digits/never").exists()


def test_doctor_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"the learning rate": checkup_schedule.schedule})
    data = ImageData(Generated((1, 8, 8), 16), batch_size=16, val_size=16)
    swings = experiment(data, lr_scheduler=lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 5))
    found(examine(swings, data, 250), "swings down and up again 25 times", "--model.lr_scheduler.T_max 250")
    assert not troubles(examine(swings, data, 5))
    assert not troubles(examine(swings, data, None, max_steps=25))
    assert not troubles(examine(swings, data, -1))
