"""The folder of a run: runs/<experiment>/<name>/ with its configuration, checkpoints, metrics and images."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger

import vae_lightning
from vae_lightning.files import age, write_atomically
from vae_lightning.run.loggers import aside, summarise_by_best

INHERITED = "VAE_LIGHTNING_RUN"
"""Environment variable through which a distributed run's other processes learn the folder that the first one chose."""


@dataclass
class Run:
    """Where a run is kept.

    Args:
        experiment: what is being tried: the folder of its runs.
        name: this run; null takes the next free number.
        root: folder of all runs.
        warm_start: checkpoint or run whose weights the training begins with, instead of random ones.
    """

    experiment: str = "default"
    name: str | None = None
    root: str = "runs"
    warm_start: str | None = None


def claim(run: Run) -> Path:
    """Makes the folder of a new run.

    Raises:
        FileExistsError: a run of that name exists: it is never overwritten.
    """
    if inherited := os.environ.get(INHERITED):
        return Path(inherited)
    for key, value in (("experiment", run.experiment), ("name", run.name or "1")):
        if Path(value).name != value or value in (".", ".."):
            raise ValueError(
                f"--run.{key}: expected the name of a folder, got {value!r}; --run.root says where it lies."
            )
    parent = Path(run.root).expanduser() / run.experiment
    parent.mkdir(parents=True, exist_ok=True)
    if run.name is not None:
        folder = parent / run.name
        try:
            folder.mkdir()
        except FileExistsError:
            raise FileExistsError(
                f"the run {folder} exists and is not overwritten: go on with it (--ckpt_path {folder}), choose another "
                "--run.name, or remove the folder."
            ) from None
        return folder
    number = 1 + max((int(path.name) for path in parent.iterdir() if path.name.isdigit()), default=0)
    while True:  # another process may take the same number
        folder = parent / str(number)
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def newest_run(run: Run, everywhere: bool = False) -> Path:
    """The run that `--ckpt_path last` means: the named one, else the newest of the experiment, or of all experiments.

    Raises:
        FileNotFoundError: there is none.
    """
    root = Path(run.root).expanduser()
    pattern = f"{'*' if everywhere else run.experiment}/{run.name or '*'}/checkpoints"
    found = [folder.parent for folder in root.glob(pattern)]
    if not found:
        raise FileNotFoundError(f"--ckpt_path last: expected a run with checkpoints in {root / pattern}, got none.")
    return max(found, key=age)


def drop_if_unused(folder: str | None) -> None:
    """Removes the folder of a run that failed before its first step, when it holds no more than what was asked for."""
    if folder is None or not (path := Path(folder)).is_dir():
        return
    if {file.name for file in path.iterdir()} <= {"config.yaml", "run.json", "wandb", "wandb_id"}:
        shutil.rmtree(path)


def keep_earlier(path: Path, text: str) -> None:
    """Puts a file of other content aside as name.1.suffix, name.2.suffix, ..., in the order of the run's starts."""
    if not path.is_file() or path.read_text() == text:
        return
    path.rename(aside(path))


def environment(command: list[str]) -> dict[str, Any]:
    """What else the numbers depend on: code, versions, machine."""

    def git(*words: str) -> str | None:
        here = Path(vae_lightning.__file__).parent
        result = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=False)
        return result.stdout.strip() if result.returncode == 0 else None

    return {
        "vae_lightning": vae_lightning.__version__,
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": bool(git("status", "--porcelain")),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": command,
    }


class RecordRun(SaveConfigCallback):
    """Writes config.yaml and run.json (git commit, versions, data split) into the run's folder; tells the loggers. What
    an earlier start of the run wrote is kept beside it."""

    def __init__(self, parser: Any, config: Any, folder: Path, text: str, command: list[str]) -> None:
        super().__init__(parser, config, overwrite=True, save_to_log_dir=False)
        self.folder, self.text, self.command = folder, text, command

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        text = self.text
        record = {**environment(self.command), "data": trainer.datamodule.record()}  # type: ignore[attr-defined]
        for name, content in (("config.yaml", text), ("run.json", json.dumps(record, indent=1))):
            keep_earlier(self.folder / name, content)
            write_atomically(self.folder / name, content)
        summary = {key: value for key, value in record.items() if key != "data"}
        split = {key: value for key, value in record["data"].items() if key != "val_index"}
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                continue  # config.yaml says it
            logger.log_hyperparams({"config": yaml.safe_load(text), "environment": summary, "split": split})
            headline: Any = pl_module.headline
            summarise_by_best(logger, f"val/{headline.name}", headline.mode)
