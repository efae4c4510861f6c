"""Runs of a benchmark: each trained and tested by the command line, and kept."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

Found = dict[str, tuple[float, float]]
"""{row of `vae-lightning test`: (mean, standard error)}."""


def results_of(run: Path, fit: Sequence[str | Path], test: Sequence[str] = ()) -> Found:
    """What the test of a run says, which is trained and tested unless it was, and goes on where it was stopped.

    Args:
        run: its folder, of whose path the last three parts become --run.root, --run.experiment and --run.name.
        fit: flags of its training.
        test: flags of its test.
    """
    if not (run / "results.json").is_file():
        if (run / "checkpoints" / "last.ckpt").is_file():
            _command("fit", "--ckpt_path", run)
        else:
            shutil.rmtree(run, ignore_errors=True)  # stopped before its first checkpoint
            root, experiment = run.parent.parent, run.parent.name
            place = [f"--run.root={root}", f"--run.experiment={experiment}", f"--run.name={run.name}"]
            _command("fit", *fit, *place)
        _command("test", "--ckpt_path", run, *test)
    sections = json.loads((run / "results.json").read_text())["sections"]
    return {row["name"]: (row["mean"], row["error"]) for section in sections for row in section["rows"]}


def _command(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "vae_lightning", *map(str, words)], check=True)
