"""The one LightningModule: a latent model, an objective and an optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

import vae_lightning
from vae_lightning.checkpoint import BEST, BOUND, RECORD
from vae_lightning.core import Batch, Loss, Model, Objective, Spec, TextSpec, rows, seeded
from vae_lightning.data import ImageData
from vae_lightning.images.embeddings import remember
from vae_lightning.metrics import Evaluation, ImageEvaluation
from vae_lightning.models.build import record_of
from vae_lightning.modules import KEY as MODULES
from vae_lightning.modules import modules_of
from vae_lightning.objectives.schedules import Schedule
from vae_lightning.train.averaging import AveragedSteps
from vae_lightning.train.best import best_name, follow_headline
from vae_lightning.train.groups import optimizer_of, parameter_groups, scale_rates
from vae_lightning.train.loop import ClipsFused
from vae_lightning.train.process import require_compiler
from vae_lightning.train.resume import (
    begin_anew,
    end_epochs,
    follow_moved_run,
    judge_as_before,
    resettle,
    restore_noise,
    state_of_noise,
    with_own_objective,
)
from vae_lightning.train.scheduled import Scheduled
from vae_lightning.train.scheduler import Interval, TorchScheduler
from vae_lightning.train.share import Share

INIT_IMAGES, INIT_VALUES = 10_000, 2**27
"""Training images that a model is begun from, and their values, at most: half a GiB."""
SCHEDULE = ("optimizer", "lr_schedule", "lr_scheduler", "lr_interval")
"""Settings whose change a run that goes on is resettled for."""


class Experiment(ClipsFused, Scheduled, AveragedSteps):
    """Trains `latent_model` on `objective`; validates and tests on the plain bound, whatever training weighs.

    Args:
        latent_model: (spec of the data) -> the model.
        objective: what training minimises.
        optimizer: parameter groups -> optimiser.
        lr_schedule: share of the training -> factor on the optimiser's learning rates, set before every step; null for
            constant ones. It spans the training, be its length given in epochs, steps or time.
        lr_scheduler: optimiser -> a scheduler of torch's instead, whose course has to fit the training: `fit` and
            `doctor` say where it does not. ReduceLROnPlateau follows the headline where it names no `monitor`.
        lr_interval: how often that is stepped, epoch or step; null for what its kind is meant for: OneCycleLR and
            CyclicLR at every step, and a warm-up (LinearLR, ConstantLR) longer than the epochs; others once an epoch.
        averaging: decay of an exponential moving average of the weights, such as 0.999, which is what validation, test,
            pictures and checkpoints then show (train/averaging.py); null for the weights themselves.
        compile: runs training steps through torch.compile: some seconds to half a minute before the first step, and
            faster steps after it. Needs a C++ compiler on a CPU.
        channels_last: memory layout of the convolutions: some 5 % faster on a CPU, and more on a GPU in half precision.
        evaluation: what validation and test measure; null for `ImageEvaluation`.
        image_shape: (C, H, W); the command line takes it from the data.
        levels: how many grey levels a value can take; the command line takes it from the data.
        classes: the classes' names, null where there are none; the command line takes them from the data.
        text: what captions are made of, null where there are none; the command line takes it from the data.
    """

    def __init__(
        self,
        latent_model: Callable[[Spec], Model],
        objective: Objective,
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=1e-3, fused=True),
        lr_schedule: Schedule | None = None,
        lr_scheduler: TorchScheduler | None = None,
        lr_interval: Interval | None = None,
        averaging: float | None = None,
        compile: bool = False,
        channels_last: bool = False,
        evaluation: Evaluation | None = None,
        image_shape: list[int] | None = None,
        levels: int | None = None,
        classes: list[str] | None = None,
        text: TextSpec | None = None,
    ) -> None:
        super().__init__(averaging, ImageEvaluation() if evaluation is None else evaluation)
        if image_shape is None or levels is None:
            raise ValueError("Experiment: expected image_shape and levels, got none: take them from the data.")
        if lr_schedule is not None and lr_scheduler is not None:
            raise ValueError(
                "expected one schedule of the learning rate, got model.lr_schedule and model.lr_scheduler: set "
                "--model.lr_schedule null for the second."
            )
        self.spec = Spec(tuple(image_shape), levels, None if classes is None else tuple(classes), text)
        self.latent_model = latent_model(self.spec)
        if channels_last:
            self.latent_model = self.latent_model.to(memory_format=torch.channels_last)
        self.objective = objective
        self.evaluation.follow(objective)
        self.loss: Callable[[Model, Batch, float], Loss] = objective.forward
        if compile:
            self.loss = torch.compile(objective.forward)
        self.compile_steps = compile
        self.optimizer, self.lr_schedule = optimizer, lr_schedule
        self.lr_scheduler, self.lr_interval = lr_scheduler, lr_interval
        self.config: dict[str, Any] | None = None
        """What the command line was given: saved in checkpoints, so that they rebuild the model."""
        self.is_warm = False
        """Whether the weights come from another run, and are not to be set from the data."""
        self._seed, self._resettle = 0, False
        self._noise: list[Tensor] | None = None

    # -- set-up --------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_of(self.optimizer, parameter_groups(self.latent_model, self.objective))
        self._rates = [group["lr"] for group in optimizer.param_groups]
        return self.scheduled(optimizer)

    def setup(self, stage: str) -> None:
        data: Any = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ImageData):
            return
        data.check_matches(self.spec, self.latent_model.needs)
        split = data.splits["train" if stage == "fit" else "val" if stage == "validate" else "test"]
        count = split.at_most(INIT_IMAGES, INIT_VALUES) if stage == "fit" else 2
        some = split.batch(torch.arange(0, len(split), max(1, len(split) // count)))
        batch = {name: value.to(self.device) for name, value in data.on_after_batch_transfer(some, 0).items()}
        if stage == "fit":
            self._setup_fit(data, batch)
        training = self.latent_model.training
        self.latent_model.eval()
        with torch.no_grad(), seeded(0, self.device):
            two = rows(batch, slice(0, 2))
            if stage == "fit":
                self.objective.check(self.latent_model, two)
            if stage != "predict":
                self.headline = self.evaluation.headline(self.latent_model, two)
        self.latent_model.train(training)
        if stage == "fit":
            follow_headline(self.trainer, self.headline)
            self.check_monitors(data)

    def _setup_fit(self, data: ImageData, batch: Batch) -> None:
        if self.compile_steps and self.device.type == "cpu":
            require_compiler()
        self._seed = data.seed = self.trainer.strategy.broadcast(torch.initial_seed())
        if not self.is_warm:
            self.latent_model.init_from_data(batch)
        self.objective.begin(len(data.splits["train"]))

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data: Any = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ImageData):
            folder = self.trainer.log_dir if self.loggers else None
            remember(self.latent_model, data, None if folder is None else Path(folder))
        end_epochs(self.trainer)
        self.say_schedule()

    def on_train_start(self) -> None:
        self._loss_sum, self._losses = torch.zeros((), device=self.device), 0  # finite as long as every loss was
        if self._noise is not None:  # within an epoch; the next one's depends on seed and epoch alone
            restore_noise(self._noise, self.trainer)
            self._noise = None
        if self._resettle:
            self._resettle = False
            resettle(self.trainer, self.configure_optimizers())
        self._share_done = Share(self.trainer)

    # -- training ------------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        # Order and noise depend on seed and epoch alone, so that a resumed run equals an unbroken one.
        self._loss_sum, self._losses = torch.zeros_like(self._loss_sum), 0
        torch.manual_seed((self._seed + 1_000_003 * (self.current_epoch + 1) + 7_919 * self.global_rank) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        step, every = self.global_step, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        share: Any = self._share_done(batch_idx)
        if self.lr_schedule is not None:
            scale_rates(self.trainer.optimizers[0], self._rates, self.lr_schedule(share))
        share = torch.tensor(share) if self.compile_steps else share
        loss = self.loss(self.latent_model, batch, share)
        self._loss_sum += loss.value.detach()
        self._losses += 1
        self.latent_model.observe(loss.statistics)
        self.objective.observe(loss.statistics)
        logging = every > 0 and step % every == 0
        if logging or loss.value.device.type == "cpu":  # a GPU is not waited for at every step
            self._require_finite()
        if logging:
            logs = {f"train/{name}": value.item() for name, value in loss.logs.items()}
            logs["train/loss"] = loss.value.item()
            logs["optim/lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
            for logger in self.loggers:
                logger.log_metrics(logs, step)
            self.log("loss", loss.value.detach(), prog_bar=True, logger=False)
        return loss.value

    @property
    def mean_loss(self) -> float:
        """Of the epoch's steps up to here; nan before the first."""
        return self._loss_sum.item() / self._losses if self._losses else math.nan

    def on_train_end(self) -> None:
        super().on_train_end()
        self.is_warm = True  # another fit of the same module goes on from its weights

    def on_train_epoch_end(self) -> None:
        self._require_finite()
        self.log("loss", self.mean_loss, prog_bar=True, logger=False, sync_dist=self.trainer.world_size > 1)

    def _require_finite(self) -> None:
        if not math.isfinite(self._loss_sum.item()):
            kept = "The checkpoint of the epoch before is kept" if self.current_epoch else "No checkpoint was kept yet"
            raise FloatingPointError(
                f"the loss became nan or infinite by step {self.global_step}, epoch {self.current_epoch}: expected a "
                f"finite number. {kept}; lower the learning rate (--model.optimizer.lr {self._rates[0] / 10:g}), clip "
                "the gradient (--trainer.gradient_clip_val 500), or look for NaN in the data."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[RECORD] = {
            "version": vae_lightning.__version__,
            "config": self.config,
            **record_of(self.spec),
            "noise": state_of_noise(self.trainer),
            BEST: best_name(self.trainer),
            BOUND: self.evaluation.bound_samples,
            MODULES: modules_of(self.config),
        }
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes note of what was said of the optimiser then; lets a run that was moved keep its best checkpoint."""
        before = (checkpoint.get(RECORD, {}).get("config") or {}).get("model", {})
        now = (self.config or {}).get("model", {})
        self._resettle = any(before.get(key) != now.get(key) for key in SCHEDULE)
        judge_as_before(self, checkpoint.get(RECORD, {}).get(BOUND, 1))
        begin_anew(checkpoint, before, now)
        checkpoint["state_dict"] = with_own_objective(checkpoint["state_dict"], self.objective)
        self._noise = checkpoint.get(RECORD, {}).get("noise")
        super().on_load_checkpoint(checkpoint)
        follow_moved_run(checkpoint, self.trainer)
