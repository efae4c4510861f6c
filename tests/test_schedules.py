"""Learning rate and KL weight follow the share of the training that is done: at every step, however the training's
length is given, through stops and extensions."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer, timer
from torch._dynamo.testing import CompileCounter

from tests.conftest import REPOSITORY, Generated
from vae_lightning.conditionals import GaussianLikelihood
from vae_lightning.data import ImageData
from vae_lightning.models import VAE
from vae_lightning.objectives import ELBO, Linear, Schedule, WarmupCosine
from vae_lightning.train.module import Experiment

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"
RECORDED = ["--trainer.callbacks=null", "--trainer.callbacks+=tests.test_schedules.Recorder"]
SCHEDULES = ["--model.lr_schedule.warmup=0.2", "--model.lr_schedule.final=0.1", "--model.objective.beta=Linear"]
FIT = ["fit", "-c", DIGITS, *RECORDED, *SCHEDULES, "--trainer.log_every_n_steps=1", "--data.batch_size=128"]
STEPS = 10  # an epoch: 1237 images in batches of 128, the last of them cut


class Recorder(Callback):
    """The rate of every step by its number; asks for an end after `stop` steps, at the epoch's end."""

    rates: ClassVar[dict[int, float]] = {}
    stop: ClassVar[int | None] = None

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        Recorder.rates.setdefault(trainer.global_step - 1, rate)
        Clock.now += 1.0

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if Recorder.stop is not None and trainer.global_step >= Recorder.stop:
            trainer.should_stop = True


class Clock:
    """Time that passes by one second a step."""

    now = 0.0

    @staticmethod
    def monotonic() -> float:
        return Clock.now


@pytest.fixture(autouse=True)
def _from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder.rates, Recorder.stop, Clock.now = {}, None, 0.0
    monkeypatch.setattr(timer, "time", Clock)


def formula(share: float) -> float:
    """The rate that SCHEDULES say."""
    if share < 0.2:
        return 1e-3 * (0.01 + 0.99 * share / 0.2)
    return 1e-3 * (0.1 + 0.9 * (1 + math.cos(math.pi * (share - 0.2) / 0.8)) / 2)


def require_formula(run: Path, total: int, first: int = 0) -> None:
    """That rate and weight were at every step, and are in the log, what they should be in `total` steps."""
    assert sorted(Recorder.rates) == list(range(first, total))
    with (run / "metrics.csv").open(newline="") as file:
        logged = {int(row["step"]): row for row in csv.DictReader(file) if row["optim/lr"]}
    for step, rate in Recorder.rates.items():
        assert rate == float(logged[step]["optim/lr"]) == pytest.approx(formula(step / total), rel=1e-9), step
        assert float(logged[step]["train/beta"]) == pytest.approx(min(1.0, step / total / 0.2), rel=1e-6), step


def last(name: str) -> dict[str, Any]:
    return torch.load(f"runs/digits/{name}/checkpoints/last.ckpt", weights_only=True)


def require_same(one: str, other: str) -> None:
    """That two runs ended with the same weights and the same state of the optimiser, bit for bit."""
    a, b = last(one), last(other)
    assert a["global_step"] == b["global_step"]
    assert all(torch.equal(a["state_dict"][name], value) for name, value in b["state_dict"].items())
    states = [content["optimizer_states"][0] for content in (a, b)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for moments, others in zip(states[0]["state"].values(), states[1]["state"].values(), strict=True):
        assert all(torch.equal(moments[key], others[key]) for key in moments)


@pytest.mark.parametrize(
    ("limits", "total"),
    [
        (["--trainer.max_epochs=3"], 30),
        (["--trainer.max_epochs=-1", "--trainer.max_steps=25"], 25),
        (["--trainer.max_epochs=100", "--trainer.max_steps=25"], 25),
        (["--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:25"], 25),
        (["--trainer.max_epochs=3", "--trainer.limit_train_batches=7"], 21),
    ],
)
def test_every_step_has_its_rate_and_weight(cli: Callable, limits: list[str], total: int) -> None:
    done = cli(*FIT, *limits)
    assert done.status == 0, done.err
    require_formula(Path("runs/digits/1"), total)


def test_accumulated_batches_are_one_step(cli: Callable) -> None:
    done = cli(*FIT, "--trainer.max_epochs=3", "--trainer.accumulate_grad_batches=4")
    assert done.status == 0, done.err
    assert sorted(Recorder.rates) == [-1, *range(9)]  # 4, 4 and 2 batches; -1 within the first
    assert all(Recorder.rates[step] == pytest.approx(formula(step / 9)) for step in range(9))


@pytest.mark.parametrize(
    "limits",
    [
        ["--trainer.max_epochs=4"],
        ["--trainer.max_epochs=-1", "--trainer.max_steps=40"],
        ["--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:40"],
    ],
)
def test_a_stop_at_an_epochs_end_changes_nothing(cli: Callable, limits: list[str]) -> None:
    assert cli(*FIT, *limits, "--run.name=whole").status == 0
    require_formula(Path("runs/digits/whole"), 40)
    Recorder.stop = 20
    assert cli(*FIT, *limits, "--run.name=parts").status == 0
    assert last("parts")["global_step"] == 20
    Recorder.stop, Recorder.rates = None, {}
    assert cli("fit", "--ckpt_path=runs/digits/parts").status == 0
    require_formula(Path("runs/digits/parts"), 40, first=20)
    require_same("whole", "parts")


@pytest.mark.parametrize("limits", [["--trainer.max_epochs=3"], ["--trainer.max_epochs=-1", "--trainer.max_steps=30"]])
def test_a_stop_within_an_epoch_changes_nothing(cli: Callable, limits: list[str]) -> None:
    within = ["--checkpoint.every_n_train_steps=14", "--checkpoint.monitor=null", "--checkpoint.filename={step}"]
    flags = [*FIT, *limits, *within, "--checkpoint.save_top_k=-1"]
    assert cli(*flags, "--run.name=whole").status == 0
    Recorder.rates = {}
    middle = "--ckpt_path=runs/digits/whole/checkpoints/step=14.ckpt"
    resumed = cli(*flags, middle, "--run.name=parts")
    assert resumed.status == 0, resumed.err
    require_formula(Path("runs/digits/parts"), 30, first=14)
    require_same("whole", "parts")


@pytest.mark.parametrize("limit", ["max_epochs", "max_steps"])
def test_a_longer_training_follows_the_longer_curve(cli: Callable, limit: str) -> None:
    def limits(steps: int) -> list[str]:
        epochs = [f"--trainer.max_epochs={steps // STEPS}"]
        return epochs if limit == "max_epochs" else ["--trainer.max_epochs=-1", f"--trainer.max_steps={steps}"]

    assert cli(*FIT, *limits(20)).status == 0
    require_formula(Path("runs/digits/1"), 20)
    Recorder.rates = {}
    assert cli("fit", "--ckpt_path=last", *limits(40)).status == 0
    require_formula(Path("runs/digits/1"), 40, first=20)


def test_another_rate_and_schedule_on_resume_hold(cli: Callable) -> None:
    assert cli(*FIT, "--trainer.max_epochs=2", "--model.lr_schedule=null", "--model.optimizer.lr=0.01").status == 0
    Recorder.rates = {}
    said = ["--model.optimizer.lr=0.001", "--model.lr_schedule=WarmupCosine", *SCHEDULES[:2]]
    assert cli("fit", "--ckpt_path=last", "--trainer.max_epochs=4", *said).status == 0
    require_formula(Path("runs/digits/1"), 40, first=20)


def test_two_schedules_of_the_rate_are_refused(cli: Callable) -> None:
    both = cli(*FIT, "--model.lr_scheduler=torch.optim.lr_scheduler.ExponentialLR", "--model.lr_scheduler.gamma=0.7")
    assert both.status == 1
    assert "expected one schedule of the learning rate" in both.error
    assert "--model.lr_schedule null" in both.error


class Steep(Schedule):
    """A user's own, of plain Python."""

    def __call__(self, share: float) -> float:
        return 0.5 if share < 0.5 else float(f"{share:.1f}")


def module(objective: ELBO, **settings: Any) -> Experiment:
    model = lambda spec: VAE(spec, likelihood=GaussianLikelihood, latent_size=2)  # noqa: E731
    return Experiment(model, objective, image_shape=[1, 8, 8], levels=256, **settings)


def trainer(**settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **quiet, **settings)


def test_a_training_without_end_is_warned_of(tmp_path: Path) -> None:
    data = ImageData(Generated((1, 8, 8)), batch_size=16, val_size=16)
    stop = Recorder()
    Recorder.stop = 5
    with pytest.warns(UserWarning, match="a training without end has no share that is done"):
        trainer(max_epochs=-1, callbacks=[stop]).fit(module(ELBO(), lr_schedule=WarmupCosine()), data)
    assert list(Recorder.rates.values()) == pytest.approx([1e-5] * len(Recorder.rates))
    assert Recorder.rates


def test_a_users_own_timer_counts() -> None:
    data = ImageData(Generated((1, 8, 8)), batch_size=16, val_size=16)
    limit = Timer(timedelta(seconds=10))
    trainer(max_epochs=-1, callbacks=[Recorder(), limit]).fit(module(ELBO(), lr_schedule=Steep()), data)
    shares = [0.5] * 5 + [0.5, 0.6, 0.7, 0.8, 0.9]
    assert list(Recorder.rates.values()) == pytest.approx([1e-3 * share for share in shares])


@pytest.mark.parametrize("beta", [Linear(), Steep()])
def test_a_compiled_step_is_compiled_once(beta: Schedule) -> None:
    """Whatever the share is, and with the loss that it has without a compiler."""
    torch._dynamo.reset()
    counts = CompileCounter()
    looked = module(ELBO(beta))
    compiled = torch.compile(looked.objective.forward, backend=counts)
    image = torch.randint(0, 256, (4, 1, 8, 8)).float()
    for share in (0.0, 0.1, 0.15, 0.3, 0.7, 0.9, 1.0):
        losses = []
        for loss in (compiled, looked.objective.forward):
            torch.manual_seed(0)
            losses.append(loss(looked.latent_model, {"image": image}, torch.tensor(share)).value.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert counts.frame_count == 1


class Rates(Callback):
    """The learning rate of each epoch."""

    def __init__(self) -> None:
        self.rates: dict[int, float] = {}

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.rates[trainer.current_epoch] = trainer.optimizers[0].param_groups[0]["lr"]


@pytest.mark.parametrize("before", [None, "step"])
def test_a_scheduler_that_is_new_at_a_resume_goes_on_as_from_the_start(before: str | None, tmp_path: Path) -> None:
    data = ImageData(Generated((1, 8, 8)), batch_size=16, val_size=16)

    def stepped(name: str | None) -> Experiment:
        step = None if name is None else lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        experiment = module(ELBO(), lr_scheduler=step)
        experiment.config = {"model": {"lr_scheduler": name}}
        return experiment

    whole, parts = Rates(), Rates()
    trainer(max_epochs=5, callbacks=[whole]).fit(stepped("step"), data)
    first = trainer(max_epochs=3)
    first.fit(stepped(before), data)
    first.save_checkpoint(tmp_path / "last.ckpt")
    trainer(max_epochs=5, callbacks=[parts]).fit(
        stepped("step"), data, ckpt_path=tmp_path / "last.ckpt", weights_only=False
    )
    assert parts.rates == {3: whole.rates[3], 4: whole.rates[4]}
    assert whole.rates[4] < whole.rates[3]


def test_another_fit_of_the_same_module_goes_on_from_its_weights() -> None:
    data = ImageData(Generated((1, 8, 8)), batch_size=16, val_size=16)
    experiment = module(ELBO(), optimizer=lambda groups: torch.optim.Adam(groups, 0.03))
    trainer(max_epochs=2).fit(experiment, data)
    before = {name: value.clone() for name, value in experiment.state_dict().items()}
    experiment.optimizer = lambda groups: torch.optim.SGD(groups, 0.0)
    trainer(max_epochs=1).fit(experiment, data)
    assert all(torch.equal(value, before[name]) for name, value in experiment.state_dict().items())
