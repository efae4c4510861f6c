"""Commands that read what runs have left, and need no model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vae_lightning.experiment.files import age


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


def compare(given: list[str]) -> None:
    """vae-lightning compare RUN RUN ... [--output DIR]"""
    from vae_lightning.experiment.compare import compare as put_side_by_side
    from vae_lightning.experiment.compare import text, write

    parser = argparse.ArgumentParser("vae-lightning compare", description="The numbers of several runs side by side.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a tested run, or of an experiment")
    parser.add_argument(
        "--output", type=Path, help="folder for compare.txt, .csv and .html; the first run's by default"
    )
    options = parser.parse_args(given)
    runs = [find_run(path) for path in options.runs]
    comparison, folder = put_side_by_side(runs), options.output or runs[0]
    print(text(comparison))
    write(comparison, folder)
    print(f"kept: {folder / 'compare.txt'}, .csv, .html")


def report(given: list[str]) -> None:
    """vae-lightning report RUN"""
    from vae_lightning.experiment import page

    parser = argparse.ArgumentParser("vae-lightning report", description="A run as one self-contained HTML page.")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or of an experiment")
    options = parser.parse_args(given)
    print(f"report: {page.report(find_run(options.run))}")


def sweep(given: list[str]) -> None:
    """vae-lightning sweep-rd -c CONFIG [--betas B ...] [--output DIR] [options of fit]"""
    from vae_lightning.experiment import sweep as sweeping

    parser = argparse.ArgumentParser(
        "vae-lightning sweep-rd",
        description="The rate-distortion curve over beta: one run a beta, each begun with the weights of the one "
        "before; what is done is not done again. Whatever else is given goes to each fit.",
        allow_abbrev=False,
    )
    parser.add_argument("--betas", nargs="+", type=float, default=sweeping.BETAS, help="weights of the rate, above 0")
    parser.add_argument("--output", type=Path, default=Path("runs/rd"), help="folder of the runs, rd.csv and rd.png")
    options, rest = parser.parse_known_args(given)
    print(sweeping.sweep(options.betas, options.output, rest))


COMMANDS = {"compare": compare, "report": report, "sweep-rd": sweep}


def run(command: str, given: list[str]) -> int:
    """Runs one of them; returns its status."""
    try:
        COMMANDS[command](given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
