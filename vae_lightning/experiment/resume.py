"""What a run that goes on needs beyond what Lightning restores."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer


def follow_moved_run(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Lets the checkpoint callback of a run that goes on in its own folder, wherever that is now, know its best
    checkpoint again: Lightning forgets it when the folder is not called as it was."""
    if trainer.ckpt_path is None or trainer.checkpoint_callback is None:
        return
    here = Path(trainer.ckpt_path).resolve().parent
    now = getattr(trainer.checkpoint_callback, "dirpath", None)
    if now is None or Path(now).resolve() != here:
        return  # a new run that begins with another's weights
    for state in checkpoint["callbacks"].values():
        if not isinstance(state, dict) or "dirpath" not in state:
            continue

        def moved(path: str) -> str:
            return str(Path(now) / Path(path).name) if path else path

        state.update({key: moved(state[key]) for key in ("best_model_path", "last_model_path", "kth_best_model_path")})
        state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
        state["dirpath"] = now


def resettle(trainer: Trainer, fresh: Any) -> None:
    """After a resume with other settings of optimiser or schedule: both go on as if these had held from the start, the
    optimiser with its moments.

    Args:
        trainer: with optimiser and schedule restored as they were.
        fresh: what configure_optimizers returns with the new settings.
    """
    restored = trainer.lr_scheduler_configs
    optimizer = fresh["optimizer"] if isinstance(fresh, dict) else fresh
    if isinstance(fresh, dict) and restored and not hasattr(restored[0].scheduler, "monitor"):
        scheduler = fresh["lr_scheduler"]["scheduler"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no optimiser step comes between these
            for _ in range(restored[0].scheduler.last_epoch):
                scheduler.step()
        restored[0].scheduler.load_state_dict(scheduler.state_dict())
    for group, new in zip(trainer.optimizers[0].param_groups, optimizer.param_groups, strict=True):
        group.update({key: value for key, value in new.items() if key != "params"})
