"""Steps whose gradient is of no use are skipped, and counted."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.optim import Optimizer

MANY = 0.05
"""Share of the steps from which on skipping is a symptom."""


class SkipSteps(Callback):
    """Leaves the weights as they are at steps whose gradient has a norm that is not finite or above `max_norm`, as deep
    ladders need (Child 2021). The norm is that of the whole gradient, before any
    clipping; the optimiser's state stays as it was, too.

    How many were skipped is logged as "train/skipped_steps" at the end of an epoch, said at the end of the training,
    and goes on from a checkpoint. A loss that is itself not finite ends the training as ever.

    Args:
        max_norm: nats for each unit of a weight; far above what `--trainer.gradient_clip_val` cuts, or training
            only ever skips.
    """

    def __init__(self, max_norm: float = 10_000.0) -> None:
        if not max_norm > 0:
            raise ValueError(f"SkipSteps.max_norm: expected a norm above 0, got {max_norm}.")
        self.max_norm, self.skipped, self.steps = max_norm, torch.tensor(0), 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.skipped = self.skipped.to(pl_module.device)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        gradients: list[Tensor] = [weight.grad for weight in weights]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.steps += 1
        if not bool(norm <= self.max_norm):  # nan, too
            self.skipped += 1
            for weight in weights:
                weight.grad = None

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({"train/skipped_steps": self.skipped.item()}, trainer.global_step - 1)

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if count := int(self.skipped):
            print(
                f"{count} of {self.steps} steps were skipped: the gradient was not finite, or above {self.max_norm:g}."
            )
            if count > MANY * self.steps:
                print(f"That is many: lower the learning rate (--model.optimizer.lr), or raise {type(self).__name__}.")

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": int(self.skipped), "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.steps = torch.tensor(state_dict["skipped"]), state_dict["steps"]
