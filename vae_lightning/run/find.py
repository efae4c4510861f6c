"""Which run a path means. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from vae_lightning.files import age


def find_run(path: Path) -> Path:
    """The run that a path means: a run's folder, or an experiment's folder for its newest run.

    Raises:
        FileNotFoundError: neither.
    """
    path = path.expanduser()
    if (path / "config.yaml").is_file():
        return path
    runs = [config.parent for config in path.glob("*/config.yaml")]
    if not runs:
        raise FileNotFoundError(f"{path}: expected the folder of a run or of an experiment, got none.")
    return max(runs, key=age)
