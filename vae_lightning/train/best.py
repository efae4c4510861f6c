"""The run's own checkpoints, of its best epoch and of its last, and the headline as what any callback monitors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from vae_lightning.checkpoint import LAST
from vae_lightning.metrics import Headline

HEADLINE = "headline"
"""As `monitor`: the evaluation's own."""


class BestCheckpoint(ModelCheckpoint):
    """The checkpoint of the run's best epoch, by whatever number the evaluation calls its headline where the monitor is
    "headline" (a VAE's ELBO, an autoencoder's distortion)."""


class LastCheckpoint(ModelCheckpoint):
    """The checkpoint of the last epoch's end, from which a run goes on: the monitored callback's own `last` is written
    only beside a new best, and a kill would lose what came since."""

    def __init__(self) -> None:
        super().__init__(filename=Path(LAST).stem, save_on_train_epoch_end=True, enable_version_counter=False)


def follow_headline(trainer: Trainer, headline: Headline) -> None:
    """Lets every callback whose monitor is "headline" follow it, in its direction. Called before the first epoch, and
    before a resumed run's state is restored."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if getattr(callback, "monitor", None) != HEADLINE:
            continue
        worst = torch.tensor(-math.inf if headline.mode == "max" else math.inf)
        if isinstance(callback, ModelCheckpoint):
            callback.kth_value = worst
        elif isinstance(callback, EarlyStopping):
            callback.best_score = worst
            callback.min_delta = abs(callback.min_delta) * (1 if headline.mode == "max" else -1)
        callback.monitor, callback.mode = f"val/{headline.name}", headline.mode


def follow_instead(trainer: Trainer, before: Headline, now: Headline) -> None:
    """Lets what follows one headline follow another of the same direction; before a resumed run's state is restored."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if getattr(callback, "monitor", None) == f"val/{before.name}":
            callback.monitor = f"val/{now.name}"


def best_of(trainer: Trainer) -> BestCheckpoint | None:
    """The callback that keeps the run's best checkpoint."""
    return next((it for it in trainer.checkpoint_callbacks if isinstance(it, BestCheckpoint)), None)


def best_name(trainer: Trainer) -> str | None:
    """What the run's best checkpoint is called by now."""
    best = best_of(trainer)
    return Path(best.best_model_path).name if best is not None and best.best_model_path else None


def set_apart(callbacks: list[Any]) -> None:
    """Lets what a user's own ModelCheckpoint with `save_last` writes have another name than the run's last."""
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and not isinstance(callback, BestCheckpoint | LastCheckpoint):
            name = callback.filename or callback.monitor or "other"
            callback.CHECKPOINT_NAME_LAST = f"{name}-last".replace("/", "_")


def check_checkpoints(section: Any) -> None:
    """Raises ValueError where the configuration of `fit` would have one checkpoint overwrite another, or a user's own
    callback write over the run's.

    Args:
        section: the configuration of `fit`.
    """
    own = section.checkpoint
    if own.save_top_k not in (0, 1) and own.filename == "best":
        raise ValueError(
            f"--checkpoint.save_top_k {own.save_top_k}: expected names that differ, got the one name `best`: add "
            "--checkpoint.filename '{epoch}'."
        )
    if own.dirpath is not None:
        raise ValueError(
            f"--checkpoint.dirpath {own.dirpath}: expected none, since the run's best checkpoint lies in the run's "
            "folder: --run.root says where runs lie."
        )
    if "/" in (own.filename or "") or Path(LAST).stem == own.filename:
        raise ValueError(
            f"--checkpoint.filename {own.filename}: expected a file's name without '/' that is not `last`, which the "
            "run calls its last one: choose another, such as '{epoch}'."
        )
    callbacks = section.trainer.callbacks or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        settings, name = callback.get("init_args") or {}, callback.class_path.rsplit(".", 1)[-1]
        if name == BestCheckpoint.__name__:
            raise ValueError(
                "--trainer.callbacks BestCheckpoint: expected it once, as --checkpoint: use ModelCheckpoint with "
                "`monitor: headline` for more of the kind."
            )
        filename = settings.get("filename")
        if name == ModelCheckpoint.__name__ and filename and filename in (own.filename, "best", Path(LAST).stem):
            raise ValueError(
                f"--trainer.callbacks {name}: expected a filename of its own, got {filename!r}, which is the run's: "
                f"choose another --trainer.callbacks.filename, such as my-{filename}."
            )
