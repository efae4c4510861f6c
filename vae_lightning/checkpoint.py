"""Checkpoint files: finding them, reading them safely, and loading their weights."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae_lightning.files import age

RECORD = "vae_lightning"
"""The checkpoint's key for what rebuilds the model without arguments, in plain data."""
LAST = "last.ckpt"
"""What the run's last checkpoint is called."""
BEST = "best"
"""The record's key for the file name of the run's best checkpoint when this one was written; None for none."""
BOUND = "bound_samples"
"""The record's key for the importance samples of the bound by which that was chosen, 1 for the ELBO."""
REQUIRED = {"config", "image_shape", "levels", "classes"}
SECTIONS = {"seed_everything", "model", "data", "trainer", "checkpoint", "run"}


def find_checkpoint(path: str | Path, prefer: str = "best") -> Path:
    """The checkpoint file that a path means: a file itself, the best (or last) of a run's folder, or that of the newest
    run in an experiment's folder. What a user's own callbacks keep beside the run's two is neither.

    Raises:
        FileNotFoundError: nothing there, or a folder without checkpoints.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected a checkpoint file or the folder of a run, got nothing there.")
    run = path if (path / "checkpoints").is_dir() else max(path.glob("*/"), key=age, default=path)
    files = sorted((run / "checkpoints").glob("*.ckpt"), key=lambda file: (file.stat().st_mtime, file.name))
    if not files:
        raise FileNotFoundError(f"{path}: expected checkpoints/*.ckpt in it or in a run below it, got none.")
    last = run / "checkpoints" / LAST
    others = [file for file in files if file != last]
    if last.is_file() and (prefer == "last" or not others):
        return last
    return _best(others, last) if last.is_file() else _called_best(others) or others[-1]


def _called_best(files: list[Path]) -> Path | None:
    return next((file for file in files if file.name == "best.ckpt"), None)  # no other callback may call its files so


def _best(files: list[Path], last: Path) -> Path:
    """The run's best checkpoint, or its last where it keeps none."""
    if called := _called_best(files):
        return called
    content = read_checkpoint(last)
    if BEST in content[RECORD]:
        name = content[RECORD][BEST]
        if name is None:
            return last
    else:  # of version 0.2, which did not say so
        states = [state for state in content["callbacks"].values() if state.get("monitor") is not None]
        name = Path(states[0]["best_model_path"]).name if states else files[-1].name
    found = [file for file in files if file.name == name]
    if not found:  # stopped between a new best one and the epoch's end
        found = [file for file in files if read_checkpoint(file)[RECORD].get(BEST) == file.name]
    return found[-1] if found else last


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint's content, on the CPU, by torch's safe loading only.

    Raises:
        ValueError: not a checkpoint, damaged, or not one of this project.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (broken := archive.testzip()) is not None:  # torch does not look at the checksums
                raise zipfile.BadZipFile(f"{broken} has not the checksum it was written with")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path}: expected a checkpoint that torch can load safely, got a file that is none, is damaged or holds "
            f"more than plain data ({first}): give a checkpoint that `vae-lightning fit` wrote."
        ) from error
    if not isinstance(content, dict) or RECORD not in content or "state_dict" not in content:
        raise ValueError(
            f"{path}: expected a checkpoint that `vae-lightning fit` wrote, got a file of another program."
        )
    if not isinstance(content[RECORD], dict) or not content[RECORD].keys() >= REQUIRED:
        raise ValueError(
            f"{path}: expected a checkpoint of vae_lightning 0.2 or later, got one of an earlier version, whose models "
            "this one does not build: train it anew, or use the version that wrote it."
        )
    if content[RECORD]["config"] is None:
        raise ValueError(
            f"{path}: expected a checkpoint that holds its configuration, got one of an Experiment built in Python: "
            "rebuild it there and use load_weights, or train it from a configuration file."
        )
    if not isinstance(content[RECORD]["config"], dict) or not content[RECORD]["config"].keys() >= SECTIONS:
        raise ValueError(f"{path}: expected a configuration with {sorted(SECTIONS)} in the checkpoint, got another.")
    return content


def load_weights(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Loads a checkpoint's weights; raises ValueError where they are another model's."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        own = module.state_dict()
        odd = [
            f"{name} is {tuple(state[name].shape)} there, {tuple(own[name].shape)} here"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ]
        odd += [f"{name} is not there" for name in own if name not in state]
        odd += [f"{name} is not here" for name in state if name not in own]
        detail = "; ".join(odd[:2]) or " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: expected weights of the model configured here, got those of another one ({detail}): leave "
            "the model's settings to the checkpoint, or give the checkpoint of this model."
        ) from error


def folder_of(checkpoint: Path) -> Path:
    """The run that a checkpoint lies in, or the checkpoint's own folder where it was moved out of one."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
