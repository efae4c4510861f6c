"""The fast loop against Lightning's own: the same weights, logs, checkpoint and hooks, and where it stands aside."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader

from tests.conftest import REPOSITORY, Generated
from vae_lightning.conditionals import BernoulliLikelihood, GaussianPosterior
from vae_lightning.data import ImageData
from vae_lightning.metrics import ImageEvaluation
from vae_lightning.models import VAE
from vae_lightning.objectives import ELBO
from vae_lightning.train import loop
from vae_lightning.train.module import Experiment

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"
LINE = "Lightning's own loop trains, not the fast one: "


class Witness(Callback):
    """Every hook around a step, with the step, the gradient and what it was handed."""

    seen: ClassVar[list[tuple[Any, ...]]] = []

    def note(self, hook: str, trainer: Trainer, *what: Any) -> None:
        Witness.seen.append((hook, trainer.global_step, trainer.lightning_module._current_fx_name, *what))

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
        self.note("start", trainer, index, batch["image"].sum().item())

    def on_before_zero_grad(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        self.note("zero", trainer, type(optimizer).__name__)

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: torch.Tensor) -> None:
        self.note("before", trainer, loss.item(), all(p.grad is None for p in module.parameters()))

    def on_after_backward(self, trainer: Trainer, module: LightningModule) -> None:
        self.note("after", trainer, module.latent_model.encoder.mu.weight.grad.norm().item())

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        self.note("step", trainer)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, i: int) -> None:
        norm = module.latent_model.encoder.mu.weight.grad.norm().item()  # clipped by now
        self.note("end", trainer, {name: value.item() for name, value in outputs.items()}, i, norm)
        self.log("witness", float(i), on_step=True, prog_bar=True)


class Late(Callback):
    """Sets a hook on itself, as LambdaCallback does."""

    calls: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self.on_train_batch_end = lambda trainer, module, outputs, batch, i: Late.calls.append(i)


class Stopper(Callback):
    """Asks for an end in the middle of the second epoch."""

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, i: int) -> None:
        if trainer.global_step == 27:
            trainer.should_stop = True


CASES = {
    "plain": [],
    "clipped by norm": ["--trainer.gradient_clip_val=0.5"],
    "clipped by value": ["--trainer.gradient_clip_val=0.01", "--trainer.gradient_clip_algorithm=value"],
    "steps": ["--trainer.max_steps=33"],
    "limit": ["--trainer.limit_train_batches=7"],
    "validated within": ["--trainer.val_check_interval=6"],
    "plateau": [
        "--model.lr_schedule=null",
        "--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau",
        "--model.lr_scheduler.monitor=val/elbo",
        "--model.lr_scheduler.patience=0",
    ],
    "closure called again": ["--model.optimizer=torch.optim.LBFGS", "--model.optimizer.max_iter=2"],
    "mixed": ["--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=0.5"],
    "stopped": ["--trainer.callbacks+=tests.test_loop.Stopper", "--trainer.min_epochs=1"],
    "checkpoints within": ["--checkpoint.every_n_train_steps=8", "--checkpoint.monitor=null"],
}


@pytest.mark.parametrize("case", CASES)
def test_a_fast_run_is_lightnings_run(cli: Callable, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    flags = ["--trainer.callbacks=null", "--trainer.callbacks+=tests.test_loop.Witness"]
    flags += ["--trainer.max_epochs=2", "--trainer.log_every_n_steps=3", *CASES[case]]
    runs = []
    for name in ("fast", "lightning"):
        Witness.seen = []
        with monkeypatch.context() as patch:
            if name == "lightning":
                patch.setattr(loop, "why_not", lambda trainer: "it is compared")
            done = cli("fit", "-c", DIGITS, f"--run.name={name}", *flags)
        assert done.status == 0, done.err
        assert done.err.count(LINE) == (name == "lightning")
        folder = Path("runs/digits") / name
        last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        runs.append((last, (folder / "metrics.csv").read_text(), Witness.seen))
    (ours, our_log, our_hooks), (theirs, their_log, their_hooks) = runs
    assert len(our_hooks) >= 6 * 7
    assert our_hooks == their_hooks
    assert our_log == their_log
    for key in ("epoch", "global_step", "loops", "lr_schedulers"):
        assert ours[key] == theirs[key], key
    for a, b in zip(ours["state_dict"].values(), theirs["state_dict"].values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--trainer.accumulate_grad_batches=2"], "gradients are accumulated over batches"),
        (["--trainer.profiler=simple"], "the profiler is SimpleProfiler"),
    ],
)
def test_a_run_that_the_fast_loop_does_not_know_is_lightnings(
    cli: Callable, monkeypatch: pytest.MonkeyPatch, flags: list[str], reason: str
) -> None:
    monkeypatch.setattr(loop.FastEpochLoop, "_step", None)
    done = cli("fit", "-c", DIGITS, "--trainer.callbacks=null", "--trainer.max_epochs=2", *flags)
    assert done.status == 0, done.err
    assert [line for line in done.err.splitlines() if LINE in line] == [f"{LINE}{reason}."]
    steps = 20 if "accumulate" in flags[0] else 40
    assert torch.load("runs/digits/1/checkpoints/last.ckpt", weights_only=True)["global_step"] == steps


class ByHand(Experiment):
    """Manual optimisation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        optimizers: Any = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            optimizer.step()
        return loss


class TwoOptimisers(ByHand):
    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(part.parameters()) for part in (self.latent_model.encoder, self.latent_model.likelihood)
        ]


class Undeclared(Experiment):
    def training_step(self, batch: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return {"loss": super().training_step(batch, 0), "more": torch.ones(())}


class ClipsByItself(Experiment):
    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters(), 0.1)


class NeverAsks(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        return


def train(
    module: type[Experiment],
    fast: bool = True,
    data: type[ImageData] = ImageData,
    of_trainer: dict[str, Any] | None = None,
    **more: Any,
) -> list[Any]:
    """The weights after two epochs of six steps."""
    torch.manual_seed(0)
    model = partial(VAE, encoder=GaussianPosterior, likelihood=BernoulliLikelihood, latent_size=2)
    experiment = module(model, ELBO(), image_shape=[1, 8, 8], levels=2, **more)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, **quiet, **of_trainer or {})
    if fast:
        loop.use_fast_loop(trainer)
    trainer.fit(experiment, datamodule=data(Generated((1, 8, 8), 2, 96), batch_size=16, val_size=16))
    assert trainer.global_step == (20 if module is TwoOptimisers else 10)
    return [value.clone() for value in experiment.state_dict().values()]


def same(a: list[Any], b: list[Any]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def overriding(base: type, hook: str) -> type:
    """A subclass that defines the hook, which does what it did."""
    return type(f"With_{hook}", (base,), {hook: lambda self, *a, **k: getattr(super(type(self), self), hook)(*a, **k)})


STAND_ASIDE: dict[str, tuple[type, type, str]] = {
    "manual": (ByHand, ImageData, "ByHand optimises by hand"),
    "two optimisers": (TwoOptimisers, ImageData, "there are 2 optimisers"),
    "another step": (
        Undeclared,
        ImageData,
        "Undeclared.training_step is not declared as (batch, batch_idx) -> Tensor",
    ),
    **{
        f"module's {hook}": (overriding(Experiment, hook), ImageData, f"With_{hook} defines {hook}")
        for hook in loop.REPLACED["lightning_module"]
    },
    **{
        f"data's {hook}": (Experiment, overriding(ImageData, hook), f"With_{hook} defines {hook}")
        for hook in loop.REPLACED["datamodule"]
    },
}


@pytest.mark.parametrize("case", STAND_ASIDE)
def test_the_fast_loop_stands_aside_and_says_why_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    module, data, reason = STAND_ASIDE[case]
    expected = train(module, fast=False, data=data)
    assert LINE not in capfd.readouterr().err
    monkeypatch.setattr(loop.FastEpochLoop, "_step", None)
    assert same(train(module, data=data), expected)
    assert [line for line in capfd.readouterr().err.splitlines() if LINE in line] == [f"{LINE}{reason}."]


def test_the_fast_loop_stands_aside_on_another_version(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = train(Experiment)
    assert LINE not in capfd.readouterr().err
    monkeypatch.setattr(loop.FastEpochLoop, "_step", None)
    with pytest.raises(TypeError):  # it was the fast loop's
        train(Experiment)
    monkeypatch.setattr("lightning.__version__", "2.7.0")
    assert same(train(Experiment), expected)
    reason = "it was tested on Lightning 2.6, and this is 2.7.0"
    assert [line for line in capfd.readouterr().err.splitlines() if LINE in line] == [f"{LINE}{reason}."]


class Strategy(SingleDeviceStrategy):
    """Another one by its class alone."""


@pytest.mark.parametrize(
    ("flag", "make", "reason"),
    [
        ("plugins", lambda: MixedPrecision("16-mixed", "cpu"), "the precision is 16-mixed"),
        ("strategy", Strategy, "the strategy is Strategy"),
    ],
)
def test_the_fast_loop_stands_aside_for_another_strategy_or_scaled_losses(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], flag: str, make: Callable[[], Any], reason: str
) -> None:
    expected = train(Experiment, fast=False, of_trainer={flag: make()})
    monkeypatch.setattr(loop.FastEpochLoop, "_step", None)
    assert same(train(Experiment, of_trainer={flag: make()}), expected)
    assert [line for line in capfd.readouterr().err.splitlines() if LINE in line] == [f"{LINE}{reason}."]


def test_the_fast_loop_stands_aside_where_no_data_module_is(capfd: pytest.CaptureFixture[str]) -> None:
    model = partial(VAE, encoder=GaussianPosterior, likelihood=BernoulliLikelihood, latent_size=2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=2, accelerator="cpu", limit_val_batches=0, **quiet)
    loop.use_fast_loop(trainer)
    batches = DataLoader([{"image": torch.ones(4, 1, 8, 8)}] * 3, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(Experiment(model, ELBO(), image_shape=[1, 8, 8], levels=2), batches)
    assert trainer.global_step == 6
    assert capfd.readouterr().err.count(f"{LINE}the batches come from no LightningDataModule.") == 1


def test_two_optimisers_without_optimising_by_hand_are_refused_by_lightning() -> None:
    both = type("Both", (Experiment,), {"configure_optimizers": TwoOptimisers.configure_optimizers})
    with pytest.raises(RuntimeError, match="only supported with manual optimization"):
        train(both)


def test_clipping_of_a_modules_own_is_done(capfd: pytest.CaptureFixture[str]) -> None:
    clipped = train(ClipsByItself)
    assert LINE not in capfd.readouterr().err
    assert same(clipped, train(ClipsByItself, fast=False))
    assert not same(clipped, train(Experiment))


def test_an_optimiser_that_asks_for_no_loss_is_refused() -> None:
    with pytest.raises(RuntimeError, match="expected a call of the closure"):
        train(Experiment, optimizer=NeverAsks)


def test_a_hook_that_is_set_on_a_callback_is_called(cli: Callable) -> None:
    Late.calls = []
    late = ["--trainer.callbacks=null", "--trainer.callbacks+=tests.test_loop.Late", "--trainer.max_epochs=1"]
    assert cli("fit", "-c", DIGITS, *late).status == 0
    assert Late.calls == list(range(20))


def test_every_hook_that_the_fast_loop_does_not_call_is_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    """All methods of Lightning's modules that its own loop calls, by their recorded defaults."""
    called: set[str] = set()

    def recorded(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        def record(*args: Any, **kwargs: Any) -> Any:
            called.add(name)
            return default(*args, **kwargs)

        return record

    for name in dir(LightningModule):
        owner: Any = next(kind for kind in LightningModule.__mro__ if name in vars(kind))
        if owner.__module__.startswith("lightning.") and name[0] != "_" and inspect.isfunction(vars(owner)[name]):
            monkeypatch.setattr(LightningModule, name, recorded(name, vars(owner)[name]))
    train(Experiment, fast=False)
    theirs = set(called)
    called.clear()
    train(Experiment)
    left_out = theirs - called
    assert {"backward", "optimizer_step", "on_before_zero_grad"} <= left_out
    conditional = {"configure_gradient_clipping", "clip_gradients"}
    assert left_out <= {*loop.REPLACED["lightning_module"], *loop.CALLED, *conditional}


class Stops(ImageEvaluation):
    def update(self, *told: Any) -> None:
        raise ValueError("stopped in the middle of a pass")


@pytest.mark.parametrize("where", ["validate", "predict", "the data"])
def test_a_pass_gives_the_random_numbers_back_however_it_ends(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = Stops() if where == "validate" else ImageEvaluation()
    experiment = Experiment(partial(VAE, latent_size=2), ELBO(), evaluation=evaluation, image_shape=[1, 8, 8], levels=2)
    data = ImageData(Generated((1, 8, 8), 2, 96), batch_size=16, val_size=16)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", enable_model_summary=False, **quiet)
    if where == "the data":
        monkeypatch.setattr(ImageData, "on_before_batch_transfer", lambda *_: 1 / 0)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    if where == "predict":
        first, second = (trainer.predict(experiment, data) for _ in range(2))
        assert all(torch.equal(a["elbo"], b["elbo"]) for a, b in zip(first, second, strict=True))
    else:
        with pytest.raises((ValueError, ZeroDivisionError)):
            trainer.validate(experiment, data, verbose=False)
    assert torch.equal(torch.get_rng_state(), state)
