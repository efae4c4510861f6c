"""What a test prints and keeps: the model's numbers with their errors, beside the baselines, and the training curve."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import torch
from torch import Tensor

from vae_lightning.data import ImageData
from vae_lightning.experiment.files import write_atomically
from vae_lightning.experiment.module import Experiment
from vae_lightning.metrics import independent_pixels_nll, nats_per_bit_per_dim, pca_squared_error

PCA_LIMIT = 4096
"""Values an image above which the principal components, a matter of their cube, are left out."""
Row = tuple[str, float, float, str]  # what, mean, standard error, unit

LABELS = {
    "elbo": ("ELBO", "nats/image"),
    "rate": ("rate, KL(q || p)", "nats/image"),
    "distortion": ("distortion, -E log p(x|z)", "nats/image"),
    "bits_per_dim": ("-ELBO", "bits/dim"),
    "nll": ("-log p(x), {samples} samples", "nats/image"),
    "nll_bits_per_dim": ("-log p(x), {samples} samples", "bits/dim"),
    "squared_error": ("squared error, images in [0, 1]", "per image"),
    "noisy_squared_error": ("squared error of the noisy images", "per image"),
    "denoised_squared_error": ("squared error after denoising", "per image"),
}


def _mean(values: Tensor) -> tuple[float, float]:
    """Mean over images and its standard error."""
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def baselines(data: ImageData, images: int, latent_size: int) -> list[Row]:
    """The independent-pixel model's code length, and PCA's squared error at the model's latent size, on the first
    `images` test images."""
    train, test = data.fixed("train"), data.fixed("test")[torch.arange(images)]
    mean, error = _mean(independent_pixels_nll(train.chunks(), test.chunks(), data.levels))
    scale, values = nats_per_bit_per_dim(test.stored), test.stored[0].numel()
    rows: list[Row] = [
        ("independent pixels, -log p(x)", mean, error, "nats/image"),
        ("independent pixels, -log p(x)", mean / scale, error / scale, "bits/dim"),
    ]
    if values <= PCA_LIMIT:
        error_of_pca = pca_squared_error(train.chunks(), test.chunks(), data.levels, min(latent_size, values))
        rows.append((f"PCA with {latent_size} components, squared error", *_mean(error_of_pca), "per image"))
    return rows


def table(rows: list[Row]) -> str:
    """Fixed columns, one row a number."""
    width = max(len(row[0]) for row in rows)
    lines = [f"{'':{width}}  {'mean':>10}  {'+-':>8}  unit"]
    for label, mean, error, unit in rows:
        lines.append(f"{label:{width}}  {mean:>10.4f}  {error:>8.4f}  {unit}")
    return "\n".join(lines)


def write_report(experiment: Experiment, data: ImageData, folder: Path) -> str:
    """Writes test.json into the folder and returns the table to print."""
    rows: list[Row] = []
    for name, (mean, error) in experiment.results.items():
        label, unit = LABELS[name]
        rows.append((label.format(samples=experiment.test_samples), mean, error, unit))
    images = experiment.evaluation.images
    base = baselines(data, images, experiment.evaluation.latent_size)
    content = {
        "images": images,
        "model": {name: {"mean": m, "standard_error": e} for name, (m, e) in experiment.results.items()},
        "test_samples": experiment.test_samples,
        "baselines": [{"what": w, "mean": m, "standard_error": e, "unit": u} for w, m, e, u in base],
    }
    write_atomically(folder / "test.json", json.dumps(content, indent=1).replace("NaN", "null"))
    return table(rows + base)


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
