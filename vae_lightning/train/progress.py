"""The progress bar: one line, the numbers that matter."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm


class Progress(TQDMProgressBar):
    """Lightning's bar without its version number and without a second bar for validation; where the output is no
    terminal, one line an epoch instead. The loss is the mean over the epoch's steps so far, and a bound stands there
    as long as it is the newest epoch's.

    Args:
        refresh_rate: steps between two drawings: each costs about as much as a small model's step.
    """

    def __init__(self, refresh_rate: int = 50) -> None:
        self._terminal = sys.stderr.isatty()
        super().__init__(refresh_rate=refresh_rate if self._terminal else 0)
        self._started, self._validated = 0.0, -1

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return self._fresh(metrics, trainer, pl_module, 1)

    def _fresh(self, metrics: dict[str, Any], trainer: Trainer, pl_module: LightningModule, old: int) -> dict[str, Any]:
        """Without a bound that is more than `old` epochs old, and with the epoch's mean loss."""
        if trainer.current_epoch - self._validated > old:
            metrics = {name: value for name, value in metrics.items() if not name.startswith("val/")}
        mean = getattr(pl_module, "mean_loss", math.nan)
        if math.isnan(mean):  # another module than Experiment, or an epoch's first moment
            return metrics
        return {"loss": mean, **{name: value for name, value in metrics.items() if name != "loss"}}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated = trainer.current_epoch
        super().on_validation_end(trainer, pl_module)

    def init_validation_tqdm(self) -> Any:
        return tqdm(disable=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()
        super().on_train_start(trainer, pl_module)

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if not self._terminal:
            numbers = self._fresh(dict(trainer.progress_bar_metrics), trainer, pl_module, 0)
            shown = ", ".join(f"{name} {float(value):.2f}" for name, value in numbers.items())
            elapsed = time.monotonic() - self._started
            of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
            print(f"epoch {trainer.current_epoch + 1}{of}: {shown} ({elapsed:.0f} s)", flush=True)
