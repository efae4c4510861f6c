"""The rate-distortion curve of a model over beta, beside that of principal components."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import math
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from vae_lightning.checkpoint import RECORD, read_checkpoint
from vae_lightning.commands.errors import INTERRUPTED, TERMINATED, Stopped
from vae_lightning.commands.main import main
from vae_lightning.data import ImageData
from vae_lightning.files import write_atomically
from vae_lightning.images.input import read_data
from vae_lightning.measure.measure import PCA_LIMIT
from vae_lightning.metrics import gaussian_rate_distortion
from vae_lightning.report.results import FILE, Results
from vae_lightning.train.resume import epochs_done

BETAS = [0.1, 0.3, 1.0, 3.0, 10.0]
SPAN = 1.05
"""Of the axis of rates, over the largest."""
NAMES = ("rate", "distortion", "elbo", "sampled_squared_error")


def run(command: str, arguments: list[str]) -> None:
    """vae-lightning sweep-rd -c CONFIG [--betas B ...] [--output DIR] [options of fit]"""
    parser = argparse.ArgumentParser(
        f"vae-lightning {command}",
        description="The rate-distortion curve over beta: one run a beta, each begun with the weights of the one "
        "before; what is done is not done again. Whatever else is given goes to each fit.",
        allow_abbrev=False,
    )
    parser.add_argument("--betas", nargs="+", type=float, default=BETAS, help="weights of the rate, above 0")
    parser.add_argument("--output", type=Path, default=Path("runs/rd"), help="folder of the runs, rd.csv and rd.png")
    options, rest = parser.parse_known_args(arguments)
    print(sweep(options.betas, options.output, rest))


def sweep(betas: Sequence[float], folder: Path, flags: list[str]) -> str:
    """Trains and tests one run a beta, from the smallest on, each with the weights of the one before; writes rd.csv and
    rd.png; returns the table.

    A run that has been tested is done, and one that was stopped goes on, so that the sweep can be stopped at any time.
    Each minimises beta's ELBO, whatever objective the configuration names, and is tested as its last epoch left it.

    Args:
        betas: weights of the rate in the ELBO, above 0.
        folder: the runs are beta_<beta> in it.
        flags: of `fit`: configuration files and settings.

    Raises:
        ValueError: no beta or one that is not above 0; another sweep at work in the folder; other flags than those
            that the folder's runs were trained with; a run that failed, whose own error stands above.
    """
    if not betas or min(betas) <= 0:
        raise ValueError(f"--betas: expected weights above 0, got {list(betas)}.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "sweep.lock", timeout=0):  # which ends with the process, however that dies
            return _sweep(betas, folder, flags)
    except Timeout:
        raise ValueError(
            f"--output {folder}: expected a folder in which no other sweep-rd is at work, got one of another process: "
            "wait until it has ended, or choose another --output."
        ) from None


def _sweep(betas: Sequence[float], folder: Path, flags: list[str]) -> str:
    _require_same(folder / "sweep.yaml", flags)
    before: Path | None = None
    for beta in sorted(set(betas)):
        run = folder / f"beta_{beta:g}"
        if not (run / FILE).is_file():
            _train(run, beta, before, flags)
            _call("test", f"--ckpt_path={run}", "--model.evaluation.samples=0", "--model.evaluation.studies=false")
        before = run
    runs = [(beta, Results.read(folder / f"beta_{beta:g}")) for beta in sorted(set(betas))]
    points = [{"beta": beta, **{name: r.rows[name].mean for name in NAMES}} for beta, r in runs]
    grid = torch.linspace(0, SPAN * max(point["rate"] for point in points), 60).tolist()
    limit = _limit(read_data(folder / f"beta_{runs[0][0]:g}"), [*(point["rate"] for point in points), *grid])
    if limit:
        points = [{**point, "pca_squared_error": error} for point, error in zip(points, limit, strict=False)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(points[0]))
    writer.writeheader()
    writer.writerows(points)
    write_atomically(folder / "rd.csv", text.getvalue())
    _draw(points, list(zip(grid, limit[len(points) :], strict=False)), folder / "rd.png")
    rows = [" ".join(f"{value:>18.4f}" for value in point.values()) for point in points]
    return "\n".join([" ".join(f"{name:>18}" for name in points[0]), *rows, f"kept: {folder / 'rd.csv'}, rd.png"])


def _call(*arguments: str) -> None:
    status = main(list(arguments))
    if status in (INTERRUPTED, TERMINATED):
        raise Stopped("stopped before the sweep's end: run the same command again to go on.", status)
    if status:
        raise ValueError(
            f"sweep-rd: `vae-lightning {' '.join(arguments)}` failed, as said above; mend it and run this again."
        )


def _require_same(file: Path, flags: list[str]) -> None:
    """Keeps what `fit` makes of the flags, or raises ValueError where a run was begun with something else."""
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            _call("fit", *flags, "--print_config")
    except SystemExit as stop:  # how printing ends
        if stop.code:
            raise
    asked = "".join(line for line in text.getvalue().splitlines(keepends=True) if line[0] != "#")  # but for versions
    begun = file.is_file() and any(file.parent.glob("beta_*/checkpoints/*.ckpt"))
    if begun and (kept := file.read_text()) != asked:
        lines = itertools.zip_longest(kept.splitlines(), asked.splitlines(), fillvalue="nothing")
        before, now = next((a.strip(), b.strip()) for a, b in lines if a != b)
        raise ValueError(
            f"{file.parent}: expected the settings that its runs were trained with ({file.name}: {before}), got {now}: "
            "choose another --output, or remove this folder."
        )
    write_atomically(file, asked)


def _train(run: Path, beta: float, before: Path | None, flags: list[str]) -> None:
    """Begins a run, or goes on with one that was stopped."""
    last = run / "checkpoints" / "last.ckpt"
    if last.is_file():
        content = read_checkpoint(last)
        asked = content[RECORD]["config"]["trainer"]
        done = {"max_epochs": epochs_done(content), "max_steps": content["global_step"]}
        if all(asked[limit] in (None, -1) or count < asked[limit] for limit, count in done.items()):
            _call("fit", f"--ckpt_path={run}")
        return
    if run.is_dir():
        shutil.rmtree(run)  # stopped before its first epoch's end: nothing of it is kept
    warm = [] if before is None else [f"--run.warm_start={before}"]
    objective = ["--model.objective=ELBO", f"--model.objective.beta={beta}", "--checkpoint.monitor=null"]
    place = [f"--run.root={run.parent.parent}", f"--run.experiment={run.parent.name}", f"--run.name={run.name}"]
    _call("fit", *flags, *objective, *place, *warm)


def _limit(data: ImageData, rates: list[float]) -> list[float]:
    """The squared error that principal components reach at each rate; none where images are too large for them."""
    if math.prod(data.image_shape) > PCA_LIMIT:
        return []
    found: list[float] = gaussian_rate_distortion(data.fixed("train").chunks(), data.levels, rates).tolist()
    return found


def _draw(points: list[dict[str, Any]], limit: list[tuple[float, float]], file: Path) -> None:
    """Distortion over rate with the lines of equal ELBO, and squared error over rate beside the limit."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rates = [point["rate"] for point in points]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    best = max(point["elbo"] for point in points)
    span = [0.0, SPAN * max(rates)]
    axes[0].plot(span, [-best - rate for rate in span], "--", color="0.6", label=f"ELBO = {best:.1f} nats")
    axes[0].plot(rates, [point["distortion"] for point in points], "o-", label="model")
    axes[0].set_ylabel("distortion, -E log p(x|z), nats/image")
    if limit:
        axes[1].plot(*zip(*limit, strict=True), "--", color="0.6", label="principal components (Gaussian limit)")
    axes[1].plot(rates, [point["sampled_squared_error"] for point in points], "o-", label="model")
    axes[1].set_ylabel("squared error, images in [0, 1]")
    for axis, name in zip(axes, ("distortion", "sampled_squared_error"), strict=True):
        for point in points:
            axis.annotate(f"{point['beta']:g}", (point["rate"], point[name]), (4, 4), textcoords="offset points")
        axis.set_xlabel("rate, KL(q || p), nats/image")
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    plt.close(figure)
    write_atomically(file, stream.getvalue())
