"""What a run leaves to look at: the training curve, and the scores of each image."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import torch
from torch import Tensor

from vae_lightning.experiment.files import write_atomically


def write_predictions(batches: list[dict[str, Tensor]], path: Path) -> list[str]:
    """Scores of each image as CSV, an image a row; returns the scores' names."""
    scores = {name: torch.cat([batch[name] for batch in batches]).tolist() for name in batches[0]}
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["image", *scores])
    writer.writerows([i, *row] for i, row in enumerate(zip(*scores.values(), strict=True)))
    write_atomically(path, text.getvalue())
    return list(scores)


def draw_curve(folder: Path) -> Path | None:
    """metrics.csv -> curve.png: what was trained and what was validated, over steps. None where nothing was logged."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    panels = (
        (("elbo", "ELBO, nats/image"), ("rate", "nats/image"))
        if _logged(rows, "val/elbo")
        else (("distortion", "nats/image"),) * 2
    )
    for axis, (name, label) in zip(axes, panels, strict=True):
        names = ("rate", "distortion") if name == "rate" else (name,)
        for what in names:
            for part, style in (("train", {"alpha": 0.4}), ("val", {"marker": "."})):
                points = _logged(rows, f"{part}/{what}")
                if points:
                    axis.plot(*zip(*points, strict=True), label=f"{part} {what}", **style)
        axis.set_xlabel("step")
        axis.set_ylabel(label)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    out = folder / "curve.png"
    figure.savefig(out, dpi=120)
    plt.close(figure)
    return out


def _logged(rows: list[dict[str, str]], name: str) -> list[tuple[float, float]]:
    points = [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]
    return [point for point in points if math.isfinite(point[1])]
