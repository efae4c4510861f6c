"""The lean loop against Lightning's own: the same weights, logs, checkpoint and hooks, whatever a run asks for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.conftest import REPOSITORY
from vae_lightning.data import ImageData
from vae_lightning.train import loop as lean
from vae_lightning.train.module import Experiment

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"
TAKEN_OVER = (
    "backward",
    "on_before_batch_transfer",
    "optimizer_step",
    "optimizer_zero_grad",
)


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
    "stopped": ["--trainer.callbacks+=tests.test_lean.Stopper", "--trainer.min_epochs=1"],
    "checkpoints within": ["--checkpoint.every_n_train_steps=8", "--checkpoint.monitor=null"],
}


@pytest.mark.parametrize("case", CASES)
def test_a_lean_run_is_lightnings_run(cli: Callable, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    flags = ["--trainer.callbacks=null", "--trainer.callbacks+=tests.test_lean.Witness"]
    flags += ["--trainer.max_epochs=2", "--trainer.log_every_n_steps=3", *CASES[case]]
    runs = []
    for name in ("lean", "lightning"):
        Witness.seen = []
        with monkeypatch.context() as patch:
            if name == "lightning":
                patch.setattr(lean.LeanEpochLoop, "_knows_all", staticmethod(lambda trainer: False))
            done = cli("fit", "-c", DIGITS, f"--run.name={name}", *flags)
        assert done.status == 0, done.err
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


@pytest.mark.parametrize("flags", [["--trainer.accumulate_grad_batches=2"], ["--trainer.profiler=simple"]])
def test_what_the_lean_loop_does_not_know_is_left_to_lightning(
    cli: Callable, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    monkeypatch.setattr(lean.LeanEpochLoop, "_step", None)
    done = cli("fit", "-c", DIGITS, "--trainer.callbacks=null", "--trainer.max_epochs=1", *flags)
    assert done.status == 0, done.err
    steps = 10 if "accumulate" in flags[0] else 20
    assert torch.load("runs/digits/1/checkpoints/last.ckpt", weights_only=True)["global_step"] == steps
    shutil.rmtree("runs")
    assert cli("fit", "-c", DIGITS, "--trainer.callbacks=null", "--trainer.max_epochs=1").status != 0  # it was ours


def test_a_hook_that_is_set_on_a_callback_is_called(cli: Callable) -> None:
    Late.calls = []
    late = ["--trainer.callbacks=null", "--trainer.callbacks+=tests.test_lean.Late", "--trainer.max_epochs=1"]
    assert cli("fit", "-c", DIGITS, *late).status == 0
    assert Late.calls == list(range(20))


def test_nothing_that_the_lean_loop_leaves_out_is_defined() -> None:
    assert not [name for name in TAKEN_OVER if getattr(Experiment, name) is not getattr(LightningModule, name)]
    assert "on_before_batch_transfer" not in vars(ImageData)
