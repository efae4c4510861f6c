"""A callback that takes the time."""

from __future__ import annotations

import time

from lightning.pytorch import Callback, LightningModule, Trainer


class Clock(Callback):
    """Seconds of each epoch with its validation, logging, pictures and checkpoints: from start to start."""

    epochs: list[float] = []  # noqa: RUF012 (read by whoever called main)
    _started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = time.perf_counter()
        if trainer.current_epoch:
            Clock.epochs.append(now - self._started)
        self._started = now

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Clock.epochs.append(time.perf_counter() - self._started)
