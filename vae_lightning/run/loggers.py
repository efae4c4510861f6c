"""Where a run's numbers go: metrics.csv always, Weights & Biases where a configuration says so."""

from __future__ import annotations

import csv
import io
import math
import secrets
import shutil
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from vae_lightning.files import write_atomically


class CSVHistory(CSVLogger):
    """Lightning's CSV logger in a run's folder, which goes on with metrics.csv where the run has one already; of
    several processes the first one alone touches it.

    Args:
        folder: the run's.
        until: the step from which the run goes on: rows of later ones, whose steps are taken again, are put aside as
            metrics.1.csv, in a copy of the whole file. None keeps them all.
    """

    def __init__(self, folder: Path, until: int | None = None) -> None:
        super().__init__(save_dir=folder, name="", version="")
        self._folder, self._until = folder, until

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = HistoryWriter(self._folder, self._until)
        return self._experiment


class HistoryWriter(ExperimentWriter):
    """Lightning's writer, which would delete what was there, and could lose it when it writes another header."""

    def __init__(self, folder: Path, until: int | None) -> None:
        super().__init__(str(folder))
        self.path, self.until = folder / "metrics.csv", until
        self._begun = False

    def _check_log_dir_exists(self) -> None:
        """Lightning deletes the file here."""

    def save(self) -> None:
        if self.metrics and not self._begun:
            self._begun = True
            self._go_on()
        super().save()

    def _go_on(self) -> None:
        """Reads the header that the file has, and leaves its rows of the steps before."""
        if not self.path.is_file():
            return
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows, self.metrics_keys = list(reader), list(reader.fieldnames or ())
        kept = [row for row in rows if self.until is None or _step(row) < self.until]
        if len(kept) < len(rows):
            shutil.copyfile(self.path, aside(self.path))
            self._write(kept, self.metrics_keys)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with self.path.open(newline="") as file:
            self._write(list(csv.DictReader(file)), fieldnames)

    def _write(self, rows: list[dict[str, Any]], fieldnames: list[str]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue())


def _step(row: dict[str, Any]) -> float:
    """Of a row; infinity where a line was torn when the process died."""
    try:
        return float(row["step"])
    except (KeyError, TypeError, ValueError):
        return math.inf


def aside(path: Path) -> Path:
    """The next free of name.1.suffix, name.2.suffix, ..., in the order of a run's starts."""
    number = 1
    while (free := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return free


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
