"""How much of a training is done, whichever way its length was given."""

from __future__ import annotations

import math

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_warn


class Share:
    """The share of a training that is done before a step, 0.0 .. 1.0: the largest that max_epochs, max_steps and
    max_time say, since the first of them to be reached ends the training.

    It follows from where the training stands and from its limits as they are now. So a run that goes on, or goes on for
    longer than it was to, has the share of one that was never stopped. A run's time counts over its stops.

    Args:
        trainer: one whose training begins; a training without any limit is warned of, and its share stays 0.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
        self.timers = [timer for timer in timers if timer.time_remaining() is not None]
        if self._epochs() < 0 and trainer.max_steps < 0 and not self.timers:
            rank_zero_warn(
                "a training without end has no share that is done: its schedules stay as they begin. Set "
                "--trainer.max_epochs, --trainer.max_steps or --trainer.max_time."
            )

    def __call__(self, batch_idx: int) -> float:
        """The share before the step that this batch of the current epoch belongs to; in several processes the same."""
        trainer, shares = self.trainer, [0.0]
        if self._epochs() > 0:
            shares.append(self._of_epochs(batch_idx))
        if trainer.max_steps > 0:
            shares.append(trainer.global_step / trainer.max_steps)
        for timer in self.timers:
            done, left = timer.time_elapsed(), timer.time_remaining() or 0.0
            shares.append(done / (done + left) if done + left > 0 else 1.0)
        share = min(1.0, max(shares))
        if self.timers and trainer.world_size > 1:  # clocks differ, and so would the weights
            share = trainer.strategy.broadcast(share)
        return share

    def _epochs(self) -> int:
        """The limit of epochs, -1 for none."""
        return -1 if self.trainer.max_epochs is None else self.trainer.max_epochs

    def _of_epochs(self, batch_idx: int) -> float:
        """The share of the epochs, in the optimiser's steps; in whole epochs where their length is not known."""
        trainer, batches, each = self.trainer, self.trainer.num_training_batches, self.trainer.accumulate_grad_batches
        if batches == math.inf:
            return trainer.current_epoch / self._epochs()
        steps = math.ceil(batches / each)
        return (trainer.current_epoch * steps + batch_idx // each) / (steps * self._epochs())
