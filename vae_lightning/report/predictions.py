"""The scores of each image, as a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vae_lightning.files import write_atomically


def write_predictions(batches: list[dict[str, Tensor]], path: Path, names: Sequence[str] | None = None) -> list[str]:
    """Scores of each image as CSV, an image a row: its number, its file's name where there are names, its scores.
    Returns the scores' names."""
    scores = {name: torch.cat([batch[name] for batch in batches]).tolist() for name in batches[0]}
    columns = {"image": range(len(next(iter(scores.values())))), **({} if names is None else {"name": names}), **scores}
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_atomically(path, text.getvalue())
    return list(scores)
