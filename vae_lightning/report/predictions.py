"""The scores of each image, as a file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch
from torch import Tensor

from vae_lightning.files import write_atomically


def write_predictions(batches: list[dict[str, Tensor]], path: Path) -> list[str]:
    """Scores of each image as CSV, an image a row; returns the scores' names."""
    scores = {name: torch.cat([batch[name] for batch in batches]).tolist() for name in batches[0]}
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["image", *scores])
    writer.writerows([i, *row] for i, row in enumerate(zip(*scores.values(), strict=True)))
    write_atomically(path, text.getvalue())
    return list(scores)
