"""The progress bar: one line, the numbers that matter."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm


class Progress(TQDMProgressBar):
    """Lightning's bar without its version number and without a second bar for validation; where the output is no
    terminal, one line an epoch instead.

    Args:
        refresh_rate: steps between two drawings: each costs about as much as a small model's step.
    """

    def __init__(self, refresh_rate: int = 50) -> None:
        self._terminal = sys.stderr.isatty()
        super().__init__(refresh_rate=refresh_rate if self._terminal else 0)
        self._started = 0.0

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def init_validation_tqdm(self) -> Any:
        return tqdm(disable=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()
        super().on_train_start(trainer, pl_module)

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if not self._terminal:
            numbers = {name: float(value) for name, value in trainer.progress_bar_metrics.items()}
            shown = ", ".join(f"{name} {value:.2f}" for name, value in numbers.items())
            elapsed = time.monotonic() - self._started
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {shown} ({elapsed:.0f} s)", flush=True)
