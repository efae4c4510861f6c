"""A module whose learning rate one of torch's schedulers may set, and what callbacks and schedulers can monitor."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from vae_lightning.core import Model, seeded
from vae_lightning.data import ImageData
from vae_lightning.train.evaluation import EvaluationSteps
from vae_lightning.train.monitors import check_direction, check_monitor, monitored, only_ours_log, say
from vae_lightning.train.scheduler import Interval, Length, Misfit, Scheduler, TorchScheduler, interval_of, misfit

SOME = 32
"""Validation images that are looked at for the names of what is measured."""


class Scheduled(EvaluationSteps):
    """What `lr_scheduler` and `lr_interval` say, completed and checked before the first step."""

    latent_model: Model
    optimizer: Any
    lr_scheduler: TorchScheduler | None
    lr_interval: Interval | None
    logged: tuple[str, ...] | None = None
    """What will be logged, where that is known: what can be monitored."""

    def scheduled(self, optimizer: Optimizer) -> Any:
        """What `configure_optimizers` returns for this optimiser.

        Raises:
            ValueError: the scheduler waits for a number that is never logged.
        """
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        interval = interval_of(scheduler, self.lr_interval, self.length)
        settings: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            monitor = getattr(scheduler, "monitor", "headline")
            if monitor == "headline":
                monitor, scheduler.mode = f"val/{self.headline.name}", self.headline.mode
                scheduler.best = scheduler.mode_worse = -math.inf if scheduler.mode == "max" else math.inf
            flags = "--model.lr_scheduler"
            if self.logged is not None:
                check_monitor("ReduceLROnPlateau", f"{flags}.monitor", monitor, self.logged)
            check_direction("ReduceLROnPlateau", f"{flags}.mode", monitor, scheduler.mode, self.headline)
            every = getattr(self._trainer, "check_val_every_n_epoch", None) or 1
            settings |= {"monitor": monitor, "frequency": every if monitor.startswith("val/") else 1}
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def dry_scheduler(self) -> Scheduler:
        """The scheduler of an optimiser of the same kind and settings that trains nothing."""
        if self.lr_scheduler is None:
            raise ValueError("expected a scheduler, got none: set model.lr_scheduler.")
        return self.lr_scheduler(self.optimizer([{"params": [nn.Parameter(torch.zeros(1))], "name": "none"}]))

    def complaint(self, length: Length) -> Misfit | None:
        """What does not fit between the scheduler and a training of this length, and what to do."""
        if self.lr_scheduler is None:
            return None
        interval = interval_of(self.dry_scheduler(), self.lr_interval, length)
        return misfit(self.dry_scheduler, interval, length)

    @property
    def length(self) -> Length:
        """Of the training; of none where its batches come from elsewhere than ImageData, or time limits it."""
        trainer: Any = self._trainer
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageData) or any(hasattr(it, "time_remaining") for it in trainer.callbacks):
            return Length(None, None)
        images = math.ceil(len(data.splits["train"]) / trainer.world_size)
        batches, limit = math.ceil(images / data.batch_size), trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        steps = math.ceil(batches / trainer.accumulate_grad_batches)
        return Length.of(trainer.max_epochs, trainer.max_steps, max(1, steps))

    def say_schedule(self) -> None:
        """Before the first step: how often the scheduler is stepped, and what does not fit.

        Raises:
            ValueError: torch would end the training with an error.
        """
        if self.lr_scheduler is None:
            return
        config = self.trainer.lr_scheduler_configs[0]
        say(f"{type(config.scheduler).__name__} sets the learning rate once every {config.interval}.")
        if complaint := self.complaint(self.length):
            if complaint.fatal:
                raise ValueError(f"model.lr_scheduler: {complaint.what} {complaint.remedy}")
            say(f"the learning rate does not fit the training: {complaint.what} {complaint.remedy}")

    def check_monitors(self, data: ImageData) -> None:
        """Raises ValueError where a callback waits for what is never logged; callbacks of a user's own may log what is
        not known before."""
        waiting, trainer = monitored(self.trainer), self.trainer
        for it in waiting:
            who = type(it).__name__
            check_direction(who, "--trainer.callbacks.mode", it.monitor, it.mode, self.headline)
        theirs = [it for it in waiting if it.monitor != f"val/{self.headline.name}"]
        if not (theirs or self.lr_scheduler) or not only_ours_log(trainer) or self._logs_more():
            return
        self.logged = ("loss", *(self._names(data) if getattr(trainer, "limit_val_batches", 1) else ()))
        for it in theirs:
            counts = ("epoch", "step") if type(it).__name__ != "EarlyStopping" else ()
            check_monitor(type(it).__name__, "its monitor", it.monitor, (*self.logged, *counts))

    def _logs_more(self) -> bool:
        """Whether a subclass of a user's own may log more."""
        return not type(self).__module__.startswith("vae_lightning.")

    def _names(self, data: ImageData) -> list[str]:
        """What validation logs, by a pass over a few images."""
        few = data.splits["val"].batch(torch.arange(min(SOME, len(data.splits["val"]))))
        batch = {name: value.to(self.device) for name, value in data.on_after_batch_transfer(few, 0).items()}
        training = self.latent_model.training
        self.latent_model.eval()
        with torch.no_grad(), seeded(0, self.device):
            self.evaluation.start(self.device, False)
            self.evaluation.update(self.latent_model, self.spec, batch, "val")
            names = [f"val/{name}" for name in self.evaluation.results()]
        self.latent_model.train(training)
        return names
