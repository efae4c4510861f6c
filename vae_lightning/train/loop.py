"""Lightning's training loop without what nobody here listens to.

Around each step Lightning opens some forty profiling contexts, looks a dozen hooks up in every callback, and passes the
loss through five closures: half a millisecond to a whole one on a CPU, as much as the arithmetic of a small model's
forward pass. This loop does what Lightning's does, in its order, and calls those hooks that somebody has defined. What
it does not know (several processes, accumulated gradients, loss scaling, a profiler) goes Lightning's own way.
tests/test_lean.py holds the two against each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
"""What callbacks and the module may define around a step; each is called as Lightning calls it."""


def use_lean_loop(trainer: Trainer) -> None:
    """Puts this loop in the place of Lightning's."""
    before = trainer.fit_loop.epoch_loop
    trainer.fit_loop.epoch_loop = LeanEpochLoop(trainer, min_steps=before.min_steps, max_steps=before.max_steps)


class LeanEpochLoop(_TrainingEpochLoop):
    """An epoch of training steps; its state, and so a checkpoint, is that of Lightning's loop."""

    _lean = False
    _listeners: dict[str, list[Callable[..., Any]]] = {}  # noqa: RUF012 (set anew at each epoch)

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        self._lean = self._knows_all(self.trainer)
        module, callbacks = self.trainer.lightning_module, self.trainer.callbacks  # type: ignore[attr-defined]
        self._listeners = {
            hook: [
                *(_bound(callback, hook, self.trainer, module) for callback in callbacks if _defines(callback, hook)),
                *([getattr(module, hook)] if _defines(module, hook) else []),
            ]
            for hook in HOOKS
        }

    @staticmethod
    def _knows_all(trainer: Any) -> bool:
        """Whether all that happens in a step of this training is spelt out below."""
        precision = trainer.precision_plugin
        return (
            type(trainer.strategy) is SingleDeviceStrategy
            and (type(precision) is Precision or (type(precision) is MixedPrecision and precision.scaler is None))
            and type(trainer.profiler) is PassThroughProfiler
            and trainer.accumulate_grad_batches == 1
            and isinstance(trainer.datamodule, LightningDataModule)
        )

    def _call(self, hook: str, *args: Any) -> None:
        if listeners := self._listeners[hook]:
            self.trainer.lightning_module._current_fx_name = hook  # what self.log asks for
            for listener in listeners:
                listener(*args)

    def advance(self, data_fetcher: Any) -> None:
        if self.restarting or not self._lean:
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
        trainer._logger_connector.on_batch_end()
        self.batch_progress.increment_completed()
        trainer._logger_connector.update_train_step_metrics()

    def _step(self, batch: Any, index: int) -> Tensor:
        """Loss, gradient and the optimiser's step; returns the loss."""
        trainer: Any = self.trainer
        module, strategy, optimizer = trainer.lightning_module, trainer.strategy, trainer.optimizers[0]
        progress = self.automatic_optimization.optim_progress.optimizer
        result = torch.empty(())

        def closure() -> Tensor:
            nonlocal result
            module._current_fx_name = "training_step"
            loss: Tensor = strategy.training_step(batch, index)
            progress.zero_grad.increment_ready()
            self._call("on_before_zero_grad", optimizer)
            progress.zero_grad.increment_started()
            for group in optimizer.param_groups:  # zero_grad does the same in ten times the time
                for parameter in group["params"]:
                    parameter.grad = None
            progress.zero_grad.increment_completed()
            self._call("on_before_backward", loss)
            loss.backward()
            self._call("on_after_backward")
            result = loss.detach()
            self._call("on_before_optimizer_step", optimizer)
            if trainer.gradient_clip_val:
                clip, how = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
                module.configure_gradient_clipping(optimizer, gradient_clip_val=clip, gradient_clip_algorithm=how)
            return result

        progress.step.increment_ready()
        optimizer.step(torch.enable_grad()(closure))
        progress.step.increment_completed()
        return result


def _defines(listener: Callback | LightningModule, name: str) -> bool:
    """Whether it has a hook of its own in the place of Lightning's, by its class or set on it (LambdaCallback)."""
    base = Callback if isinstance(listener, Callback) else LightningModule
    return getattr(getattr(listener, name), "__func__", None) is not getattr(base, name)


def _bound(callback: Callback, hook: str, *first: Any) -> Callable[..., Any]:
    """A callback's hook with the trainer and the module in front of its arguments."""
    method = getattr(callback, hook)
    return lambda *args: method(*first, *args)


def ask_cuda_directly() -> None:
    """torch's optimisers ask at each step whether there is a GPU; Lightning makes it a search for driver libraries."""
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
