"""Where a run's numbers go: metrics.csv always, Weights & Biases where a configuration says so."""

from __future__ import annotations

import csv
import secrets
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from vae_lightning.files import write_atomically


class CSVHistory(CSVLogger):
    """Lightning's CSV logger in a run's folder, keeping the rows of an earlier start of the same run up to `until`,
    which Lightning's own deletes."""

    def __init__(self, folder: Path, until: int | None = None) -> None:
        super().__init__(save_dir=folder, name="", version="")
        path = folder / "metrics.csv"
        if until is None or not path.is_file():
            return
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(float(row["step"])) < until]
        path.unlink()
        self._restore(rows)

    @rank_zero_only
    def _restore(self, rows: list[dict[str, Any]]) -> None:
        self.experiment.metrics.extend(rows)
        self.experiment.save()


def as_list(loggers: Any) -> list[Any]:
    """--trainer.logger is one, a list, a flag or nothing."""
    if isinstance(loggers, list):
        return loggers
    return [] if loggers is None or isinstance(loggers, bool) else [loggers]


def place_wandb(loggers: Any, folder: Path, name: str) -> None:
    """Completes the settings of W&B loggers: its files go into the run's folder, and every command of one run into one
    run there."""
    for logger in as_list(loggers):
        if logger.class_path.endswith("WandbLogger"):
            logger.init_args.save_dir = str(folder.resolve())  # of a service that may have begun in another folder
            logger.init_args.name = logger.init_args.name or name
            logger.init_args.id = wandb_id(folder)
            logger.init_args.resume = "allow"


def wandb_id(folder: Path) -> str:
    """The run's id at W&B, made once, so that a resumed run goes on there too."""
    path = folder / "wandb_id"
    if not path.is_file():
        write_atomically(path, secrets.token_hex(4))
    return path.read_text()


def summarise_by_best(logger: Any, name: str, mode: str) -> None:
    """Makes W&B's summary of the headline its best value; others have none to choose from."""
    define = getattr(getattr(logger, "experiment", None), "define_metric", None)
    if define is not None:
        define(name, summary=mode)


def attach(loggers: list[Any], file: Path, kind: str) -> None:
    """Gives a file to those loggers that keep files with a run (W&B's artifacts)."""
    for logger in loggers:
        keep = getattr(getattr(logger, "experiment", None), "log_artifact", None)
        if keep is not None:
            keep(str(file), name=f"{kind}-{file.parent.parent.name}-{file.parent.name}", type=kind)


def finish(loggers: list[Any]) -> None:
    """Lets W&B write what it still holds."""
    for logger in loggers:
        close = getattr(getattr(logger, "experiment", None), "finish", None)
        if close is not None:
            close()
