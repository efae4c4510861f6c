"""Whether what callbacks and schedulers monitor is ever logged, and in which direction; what stopped a training."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from vae_lightning.metrics import Headline

OURS = ("lightning.", "vae_lightning.")


@rank_zero_only
def say(sentence: str) -> None:
    """One line to the user, from one process."""
    print(sentence, file=sys.stderr, flush=True)


def monitored(trainer: Trainer) -> list[Any]:
    """The callbacks that wait for a logged number."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    kinds = EarlyStopping | ModelCheckpoint
    return [it for it in callbacks if isinstance(it, kinds) and it.monitor is not None]


def only_ours_log(trainer: Trainer) -> bool:
    """Whether no callback of a user's own could log what is not known beforehand."""
    return all(type(it).__module__.startswith(OURS) for it in trainer.callbacks)  # type: ignore[attr-defined]


def check_monitor(who: str, flag: str, monitor: str, logged: Collection[str]) -> None:
    """Raises ValueError where nothing of this name is ever logged."""
    if monitor not in logged:
        names = sorted(logged, key=lambda name: -difflib.SequenceMatcher(None, monitor, name).ratio())
        raise ValueError(
            f"{who}: expected a number to monitor that is logged, got {monitor!r}, which never is: set {flag} to one "
            f"of headline, {', '.join(names)}."
        )


def check_direction(who: str, flag: str, monitor: str, mode: str, headline: Headline) -> None:
    """Says so where the headline is followed the wrong way around."""
    if monitor == f"val/{headline.name}" and mode != headline.mode:
        better = "higher" if headline.mode == "max" else "lower"
        say(
            f"{who} takes a {'lower' if better == 'higher' else 'higher'} {monitor} for better (mode: {mode}), and it "
            f"is the {better} the better: set {flag} {headline.mode}."
        )


def why_stopped(trainer: Trainer) -> str | None:
    """What ended a training before its limit, in one line."""
    for it in monitored(trainer):
        if isinstance(it, EarlyStopping) and it.stopping_reason_message and trainer.should_stop:
            reason = it.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
            return f"stopped early, in epoch {it.stopped_epoch + 1}, by EarlyStopping: {reason}"
    return None
