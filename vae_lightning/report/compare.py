"""Several tested runs side by side: one row a number, and how far each run is from the first on the same images."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vae_lightning.files import write_atomically
from vae_lightning.report.page import LEGEND, document, figures, label, paragraphs, scrolling, spread
from vae_lightning.report.results import Results, Row

KINDS, IMAGES = ("image_shape", "levels"), "test_images"
"""Settings of a test that runs put side by side must share, and the digest of the images that it looked at."""
UNSAID = {"density": "p(x)"}
"""What tests that say nothing of a setting were."""
NOISE = ("test_samples", "seed", "eval_batch_size", "processes", "device")
"""Settings of a test that decide which numbers it drew."""


@dataclass(frozen=True)
class Cell:
    """A run's value and its difference to the first run's, each with its error; nan and "" where there is none."""

    mean: float = math.nan
    error: float = math.nan
    difference: float = math.nan
    difference_error: float = math.nan
    paired: str = ""  # or "paired", "unpaired"


@dataclass(frozen=True)
class Line:
    """One row as the first run that has it calls it, and each run's cell."""

    row: Row
    cells: list[Cell]

    @property
    def best(self) -> set[int]:
        """The runs with the best value; none where all are equal or no way is better."""
        means = {i: cell.mean for i, cell in enumerate(self.cells) if math.isfinite(cell.mean)}
        if not self.row.better or len(set(means.values())) < 2:
            return set()
        top = (max if self.row.better == "higher" else min)(means.values())
        return {i for i, mean in means.items() if mean == top}


@dataclass(frozen=True)
class Comparison:
    """Runs by their names, all different; lines by their section's title; sentences to read beside them."""

    runs: list[str]
    sections: dict[str, list[Line]]
    notes: list[str]


def compare(runs: list[Path]) -> Comparison:
    """Puts the results of tested runs side by side.

    Raises:
        FileNotFoundError: a run that is not there, or was not tested.
        ValueError: fewer than two runs, one twice, or runs that were tested on images of another shape or other levels.
    """
    folders = [run.expanduser().resolve() for run in runs]
    if len(set(folders)) < max(2, len(folders)):
        got = ", ".join(map(str, runs)) or "none"
        raise ValueError(f"compare: expected two or more different runs, got {got}: name the folders of tested runs.")
    results = [Results.read(run.expanduser()) for run in runs]
    first, *others = [result.settings for result in results]
    for run, other in zip(runs[1:], others, strict=True):
        known = [kind for kind in KINDS if kind in first and kind in other]
        got = ", ".join(f"{kind} {other[kind]} for {first[kind]}" for kind in known if other[kind] != first[kind])
        if got:
            raise ValueError(
                f"{run}: expected a test on images like those of {runs[0]}, got {got}: compare runs of one data set."
            )
    sections: dict[str, list[Line]] = {}
    seen: dict[str, Row] = {}
    for title, row in ((part.title, row) for result in results for part in result.sections for row in part.rows):
        if seen.setdefault(row.name, row) is row:
            cells = [_cell(row.name, result, results[0]) for result in results]
            sections.setdefault(title, []).append(Line(row, cells))
    depth = 2  # experiment/name, or as much more of the path as tells the runs apart
    while len(set(names := ["/".join(folder.parts[-depth:]) for folder in folders])) < len(folders):
        depth += 1
    return Comparison(names, sections, _notes(names, results))


def _same_images(result: Results, first: Results) -> bool:
    """By what the tests themselves kept: the data of a test need not be those of its run's training."""
    digest = result.settings.get(IMAGES)
    return digest is not None and digest == first.settings.get(IMAGES) and result.images == first.images


def _cell(name: str, result: Results, first: Results) -> Cell:
    row, other = result.rows.get(name), first.rows.get(name)
    if row is None or other is None or result is first or not math.isfinite(row.mean - other.mean):
        return Cell() if row is None else Cell(row.mean, row.error)
    a, b = result.per_image.get(name), first.per_image.get(name)
    if a is not None and b is not None and len(a) == len(b) and _same_images(result, first):
        difference = a.astype(np.float64) - b
        difference = difference[~np.isnan(difference)]  # images that a study did not look at, or that have no value
        if len(difference):
            error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.nan
            return Cell(row.mean, row.error, float(difference.mean()), float(error), "paired")
    return Cell(row.mean, row.error, row.mean - other.mean, math.hypot(row.error, other.error), "unpaired")


def _notes(names: list[str], results: list[Results]) -> list[str]:
    """How differences are meant, in what the tests differed, and each run's own sentences."""
    notes = [f"Differences are to {names[0]}; a paired one is the mean over the same images, with that mean's error."]
    unlike = _unlike(names, [{"images": result.images, **result.settings} for result in results])
    if IMAGES in unlike or any(IMAGES not in result.settings for result in results):
        got = unlike.pop(IMAGES, "not kept")
        notes.append(
            f"Not the same test images: their digest is {got}. Where it is another than {names[0]}'s, differences are "
            "unpaired, and they are the models' only where both sets are drawn alike; test with the same data to pair."
        )
    if noise := [f"{key} is {unlike[key]}" for key in NOISE if key in unlike]:
        notes.append(
            f"Not the same noise: {'; '.join(noise)}. Differences, paired ones too, hold the noise of both samplings."
        )
    for key, got in unlike.items():
        if key not in (*KINDS, *NOISE[1:]):
            notes.append(f"Not tested alike: {key} is {got}; what depends on it does not compare.")
    sections = [(name, part) for name, result in zip(names, results, strict=True) for part in result.sections]
    return notes + [f"{name}: {note}" for name, part in sections for note in part.notes]


def _unlike(names: list[str], tested: list[dict[str, Any]]) -> dict[str, str]:
    """What was not the same in all tests -> what it was in each."""
    unlike = {}
    for key in dict.fromkeys(key for settings in tested for key in settings):
        values = [settings.get(key, UNSAID.get(key, "not kept")) for settings in tested]
        if values != values[:1] * len(values):
            unlike[key] = ", ".join(f"{value} in {name}" for name, value in zip(names, values, strict=True))
    return unlike


def text(comparison: Comparison) -> str:
    """For the terminal: aligned columns, * behind the best."""
    lines = [line for section in comparison.sections.values() for line in section]
    columns = [["", *(f"  {line.row.label}" for line in lines)]]
    for i, run in enumerate(comparison.runs):
        cells = [(line.cells[i], "*" if i in line.best else "") for line in lines]
        columns.append([run, *_aligned([(*figures(c.mean, c.error), star) for c, star in cells])])
        changes = [(*figures(c.difference, c.difference_error, "+"), c.paired) for c, _ in cells]
        columns += [["difference", *_aligned(changes)]] if i else []
    columns.append(["", *(line.row.unit for line in lines)])
    padded = [[entry.ljust(max(map(len, column))) for entry in column] for column in columns]
    rest = ("  ".join(entries).rstrip() for entries in zip(*padded, strict=True))
    out = [next(rest), *(s for title, own in comparison.sections.items() for s in ("", title, *islice(rest, len(own))))]
    return "\n".join([*out, "", "* marks the best.", *comparison.notes])


def _aligned(entries: list[tuple[str, str, str]]) -> list[str]:
    """Value, error and a word of one column, in one width."""
    left, right = (max((len(entry[i]) for entry in entries), default=0) for i in (0, 1))
    return [f"{mean:>{left}} {'+- ' * bool(error) + error:<{right + 3}} {word}" for mean, error, word in entries]


def table(comparison: Comparison) -> str:
    """As CSV, with all digits: one row a name, five columns a run; empty where there is nothing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [f"{run} {key.replace('_', ' ')}" for run in comparison.runs for key in vars(Cell())]
    writer.writerow(["section", "name", "label", "unit", "better", *columns])
    for title, line in ((title, line) for title, lines in comparison.sections.items() for line in lines):
        known = ["" if value != value else value for cell in line.cells for value in vars(cell).values()]  # not nan
        writer.writerow([title, line.row.name, line.row.label, line.row.unit, line.row.better, *known])
    return out.getvalue()


def page(comparison: Comparison) -> str:
    """As one self-contained HTML page, a star before the best."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("", *comparison.runs, "unit"))
    rows = []
    for title, lines in comparison.sections.items():
        rows.append(f'<tr><th scope="rowgroup" colspan="{len(comparison.runs) + 2}">{escape(title)}</th></tr>')
        for line in lines:
            cells = "".join(_html(cell, i in line.best) for i, cell in enumerate(line.cells))
            rows.append(f"<tr>{label(line.row)}{cells}<td>{escape(line.row.unit)}</td></tr>")
    body = f'{paragraphs(comparison.notes[:1])}<p class="legend soft">{LEGEND} &#9733; marks the best.</p>'
    body += scrolling("Side by side", f"<tr>{head}</tr>", rows, paragraphs(comparison.notes[1:]), "compare")
    return document(" / ".join(comparison.runs), "comparison", body)


def _html(cell: Cell, best: bool) -> str:
    below = spread(cell.difference, cell.difference_error, sign="+") + f" {cell.paired}" if cell.paired else ""
    mark = ' class="best"' if best else ""
    return f"<td><span{mark}>{spread(cell.mean, cell.error)}</span><small>{below}</small></td>"


def write(comparison: Comparison, folder: Path) -> None:
    """compare.txt, compare.csv and compare.html, each whole or not at all."""
    for suffix, content in (("txt", text(comparison) + "\n"), ("csv", table(comparison)), ("html", page(comparison))):
        write_atomically(folder / f"compare.{suffix}", content)
