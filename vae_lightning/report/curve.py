"""The training curve as a picture."""

from __future__ import annotations

import csv
import math
from pathlib import Path


def draw_curve(folder: Path, headline: str = "") -> Path | None:
    """metrics.csv -> curve.png: what was trained and what was validated, over steps. None where nothing was logged."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    first = headline or next(iter(name.removeprefix("val/") for name in rows[0] if name.startswith("val/")), "loss")
    parts = [name for name in ("rate", "distortion") if _logged(rows, f"val/{name}")]
    panels = [([first], first), (["loss"], "loss") if parts in ([], [first]) else (parts, "nats/image")]
    panels = panels[: 1 if first == "loss" else 2]
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.5), layout="constrained", squeeze=False)
    for axis, (names, label) in zip(axes[0], panels, strict=True):
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
