"""Lightning's training loop without what nobody here listens to, and the other ways past what Lightning costs a step.

Around each step Lightning opens some forty profiling contexts, looks a dozen hooks up in every callback, and passes the
loss through five closures. `FastEpochLoop` does what Lightning's does, in its order, and calls those hooks that
somebody has defined. It stands on Lightning's private names: where anything about a training is not as it was tested
(`why_not`), Lightning's own loop trains, and one line says why. tests/test_loop.py holds the two against each other.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities import GradClipAlgorithmType, rank_zero_only
from torch import Tensor

try:
    from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
except ImportError:  # a version in which it moved, and to which `use_fast_loop` leaves the training
    _TrainingEpochLoop = object  # type: ignore[assignment,misc]

TESTED = ("2.6",)
"""The minor versions of Lightning that the two loops were held against each other on."""

CALLED = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
"""What callbacks and the module may define around a step; each is called as Lightning calls it."""

REPLACED: dict[str, tuple[str, ...]] = {
    "lightning_module": (
        "backward",
        "on_after_batch_transfer",
        "on_before_batch_transfer",
        "on_train_batch_start",  # Lightning's loop ends the epoch where it returns -1
        "optimizer_step",
        "optimizer_zero_grad",
        "transfer_batch_to_device",
    ),
    "datamodule": ("on_before_batch_transfer",),
}
"""What Lightning's loop calls and this one does not."""


def use_fast_loop(trainer: Trainer) -> None:
    """Puts `FastEpochLoop` in the place of Lightning's, on a version of Lightning that it was tested on."""
    before = trainer.fit_loop.epoch_loop
    minor = ".".join(lightning.__version__.split(".")[:2])
    if minor not in TESTED:
        _say(f"it was tested on Lightning {', '.join(TESTED)}, and this is {lightning.__version__}")
    elif type(before) is _TrainingEpochLoop:
        trainer.fit_loop.epoch_loop = FastEpochLoop(trainer, min_steps=before.min_steps, max_steps=before.max_steps)


@rank_zero_only
def _say(reason: str) -> None:
    print(f"Lightning's own loop trains, not the fast one: {reason}.", file=sys.stderr, flush=True)


def why_not(trainer: Any) -> str | None:
    """The first reason why `FastEpochLoop` would not do all that Lightning's loop does in this training, or None."""
    return next(_reasons(trainer), None)


def _reasons(trainer: Any) -> Iterator[str]:
    module, precision, optimizers = trainer.lightning_module, trainer.precision_plugin, trainer.optimizers
    if len(optimizers) != 1:
        yield f"there are {len(optimizers)} optimisers"
    if not module.automatic_optimization:
        yield f"{type(module).__name__} optimises by hand"
    if type(trainer.strategy) is not SingleDeviceStrategy:
        yield f"the strategy is {type(trainer.strategy).__name__}"
    if type(precision) not in (Precision, MixedPrecision) or getattr(precision, "scaler", None) is not None:
        yield f"the precision is {precision.precision}"
    if type(trainer.profiler) is not PassThroughProfiler:
        yield f"the profiler is {type(trainer.profiler).__name__}"
    if trainer.accumulate_grad_batches != 1 or trainer.fit_loop._skip_backward:
        yield "gradients are accumulated over batches"
    if not isinstance(trainer.datamodule, LightningDataModule):
        yield "the batches come from no LightningDataModule"
        return
    step = inspect.signature(module.training_step)
    if list(step.parameters) != ["batch", "batch_idx"] or step.return_annotation not in (Tensor, "Tensor"):
        yield f"{type(module).__name__}.training_step is not declared as (batch, batch_idx) -> Tensor"
    for owner, hooks in REPLACED.items():
        for hook in hooks:
            if _defines(getattr(trainer, owner), hook):
                yield f"{type(getattr(trainer, owner)).__name__} defines {hook}"


class FastEpochLoop(_TrainingEpochLoop):
    """An epoch of training steps; its state, and so a checkpoint, is that of Lightning's loop."""

    _why_not: str | None = None
    _said = False
    _listeners: dict[str, list[Callable[..., Any]]] = {}  # noqa: RUF012 (set anew at each epoch)
    _clips = False

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        trainer: Any = self.trainer
        self._why_not = why_not(trainer)
        if self._why_not and not self._said:
            self._said = True
            _say(self._why_not)
        clipping = _plain(trainer.lightning_module.configure_gradient_clipping)
        own = (LightningModule.configure_gradient_clipping, ClipsFused.configure_gradient_clipping)
        self._clips = bool(trainer.gradient_clip_val) or clipping not in own
        self._listeners = {hook: _listeners(trainer, hook) for hook in CALLED}

    def _call(self, hook: str, *args: Any) -> None:
        if listeners := self._listeners[hook]:
            self._inside(hook)
            for listener in listeners:
                listener(*args)

    def _inside(self, hook: str | None) -> None:
        """Where in a step it is, which self.log asks for."""
        self.trainer.lightning_module._current_fx_name = hook

    def advance(self, data_fetcher: Any) -> None:
        if self.restarting or self._why_not:
            super().advance(data_fetcher)
            return
        trainer: Any = self.trainer
        batch, _, _ = next(data_fetcher)
        index = self.batch_idx + 1
        self.val_loop.restarting = False
        self.batch_progress.is_last_batch = data_fetcher.done
        batch = trainer.datamodule.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)
        batch = trainer.datamodule.on_after_batch_transfer(batch, 0)
        self.batch_progress.increment_ready()
        trainer._logger_connector.on_batch_start(batch)
        self._call("on_train_batch_start", batch, index)
        self.batch_progress.increment_started()
        outputs = {"loss": self._step(batch, index)}
        self.batch_progress.increment_processed()
        self.update_lr_schedulers("step", update_plateau_schedulers=False)
        if self._num_ready_batches_reached():
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        self._call("on_train_batch_end", outputs, batch, index)
        self._inside(None)
        trainer._logger_connector.on_batch_end()
        self.batch_progress.increment_completed()
        trainer._logger_connector.update_train_step_metrics()

    def _step(self, batch: Any, index: int) -> Tensor:
        """Loss, gradient and the optimiser's step; returns the loss."""
        trainer: Any = self.trainer
        module, strategy, optimizer = trainer.lightning_module, trainer.strategy, trainer.optimizers[0]
        progress = self.automatic_optimization.optim_progress.optimizer
        result: Tensor | None = None

        def closure() -> Tensor:
            nonlocal result
            self._inside("training_step")
            loss: Tensor = strategy.training_step(batch, index)
            progress.zero_grad.increment_ready()
            self._call("on_before_zero_grad", optimizer)
            progress.zero_grad.increment_started()
            optimizer.zero_grad()
            progress.zero_grad.increment_completed()
            self._call("on_before_backward", loss)
            loss.backward()
            self._call("on_after_backward")
            result = loss.detach()
            self._call("on_before_optimizer_step", optimizer)
            if self._clips:
                clip, how = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
                self._inside("configure_gradient_clipping")
                module.configure_gradient_clipping(optimizer, gradient_clip_val=clip, gradient_clip_algorithm=how)
            return result

        progress.step.increment_ready()
        optimizer.step(torch.enable_grad()(closure))
        progress.step.increment_completed()
        if result is None:
            raise RuntimeError(
                f"{type(optimizer).__name__}.step: expected a call of the closure that it was given, got none: call it "
                "there, for the loss and its gradient."
            )
        return result


def _plain(method: Any) -> Any:
    """The function of a bound method."""
    return getattr(method, "__func__", None)


def _defines(listener: Callback | LightningModule | LightningDataModule, name: str) -> bool:
    """Whether it has a hook of its own in the place of Lightning's, by its class or set on it (LambdaCallback)."""
    base = next(kind for kind in (Callback, LightningModule, LightningDataModule) if isinstance(listener, kind))
    hook = getattr(listener, name)
    return callable(hook) and _plain(hook) is not getattr(base, name)


def _listeners(trainer: Any, hook: str) -> list[Callable[..., Any]]:
    """The hook of each callback that has one, with the trainer and the module in front of its arguments, and the
    module's."""
    module = trainer.lightning_module
    bound = [partial(getattr(it, hook), trainer, module) for it in trainer.callbacks if _defines(it, hook)]
    return [*bound, *([getattr(module, hook)] if _defines(module, hook) else [])]


class ClipsFused(LightningModule):
    """A module whose gradients are clipped for fused optimisers, too.

    Lightning refuses that under any mixed precision; only loss scaling forbids it. Without it, a clipped run in bf16
    would have to leave fused Adam for torch's default: 0.93 ms a step of the digits' configuration instead of 0.17.
    """

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        precision: Any = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(precision, MixedPrecision) and precision.scaler is None:
            how = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(precision, optimizer, gradient_clip_val, how)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)


def ask_cuda_directly() -> None:
    """torch's optimisers ask at each step whether there is a GPU; Lightning makes it a search for driver libraries.

    Without one, the question takes 1 us instead of 39: 1.3 % of a step of the digits' configuration.
    """
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
