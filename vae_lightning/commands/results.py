"""Commands that read what runs have left, and need no model."""

from __future__ import annotations

import argparse
from pathlib import Path

from vae_lightning.files import require_new
from vae_lightning.run.find import find_run

FILES = ("compare.txt", "compare.csv", "compare.html")


def compare(command: str, arguments: list[str]) -> None:
    """vae-lightning compare RUN RUN ... [--output DIR]"""
    from vae_lightning.report.compare import compare as put_side_by_side
    from vae_lightning.report.compare import text, write

    parser = argparse.ArgumentParser(
        f"vae-lightning {command}", description="The numbers of several runs side by side."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a tested run, or of an experiment")
    parser.add_argument(
        "--output", type=Path, help="folder for compare.txt, .csv and .html; the first run's by default"
    )
    parser.add_argument("--overwrite", action="store_true", help="an older comparison in --output may be lost")
    options = parser.parse_args(arguments)
    runs = [find_run(path) for path in options.runs]
    for name in FILES if options.output is not None else ():
        require_new(options.output / name, options.overwrite)
    comparison, folder = put_side_by_side(runs), options.output or runs[0]
    print(text(comparison))
    write(comparison, folder)
    print(f"kept: {folder / 'compare.txt'}, .csv, .html")


def report(command: str, arguments: list[str]) -> None:
    """vae-lightning report RUN"""
    from vae_lightning.report import page
    from vae_lightning.report.verdict import print_verdict

    parser = argparse.ArgumentParser(f"vae-lightning {command}", description="A run as one self-contained HTML page.")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or of an experiment")
    options = parser.parse_args(arguments)
    run = find_run(options.run)
    written = page.report(run)
    print_verdict(run)
    print(f"report: {written}")
