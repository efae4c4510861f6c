"""What `detect` found, in sentences, as lines, and as files: a page, a table, maps."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from vae_lightning.compression.form import output_name
from vae_lightning.data import Images
from vae_lightning.files import write_atomically
from vae_lightning.measure.detect import Areas, Detection
from vae_lightning.measure.looked import SCORES
from vae_lightning.metrics.anomaly import AUROC
from vae_lightning.metrics.detection import share
from vae_lightning.report.detections import Scored, write_page, write_table
from vae_lightning.report.page import scrolling
from vae_lightning.report.results import plain

RECORD, TABLE, PAGE, MAPS = "detect.json", "detect.csv", "detect.html", "maps.npz"
LISTED = 20
"""Images that the command prints, the least likely first."""


def describe(found: Detection, normal: str) -> list[str]:
    """The threshold, what it promises, and what came of it.

    Args:
        found: what detect found.
        normal: what the threshold was set on, such as "validation images".
    """
    limit, label, unit = found.threshold, *SCORES[found.score]
    flagged = int(found.anomalous.sum())
    promise = f"between {_percent(limit.rate_low)} and {_percent(limit.rate_high)} (95 % interval)"
    lines = [
        f"Threshold {limit.value:.4g} {unit} of {label}, from {limit.images} {normal}; "
        f"95 % interval {limit.low:.4g} to {limit.high:.4g}. "
        f"False alarms to be expected on images of their kind: {_percent(limit.rate)}, {promise}."
    ]
    if not limit.suffices:
        needed = int(np.ceil(1 / limit.asked)) - 1
        lines.append(
            f"Not the {_percent(limit.asked)} asked for: {limit.images} images promise no less than "
            f"{_percent(limit.rate)}; it takes {needed} or more (--normal, or a larger --data.val_size in fit)."
        )
    lines.append(f"{flagged} of {len(found.names)} images are anomalous.")
    if found.defects is not None:
        good = [row for row, defect in enumerate(found.defects) if defect is None]
        bad = [row for row, defect in enumerate(found.defects) if defect is not None]
        for rows, what in ((good, "images without a defect are called anomalous"), (bad, "defective images are found")):
            if rows:
                part = share(int(found.anomalous[rows].sum()), len(rows))
                lines.append(
                    f"{part.part} of {part.images} {what}: {_percent(part.value)}, "
                    f"{_percent(part.low)} to {_percent(part.high)}."
                )
        if found.masks is not None and (without := [row for row in bad if not found.masks[row].any()]):
            lines.append(
                f"{len(without)} of {len(bad)} defective images have no mask, and take no part in the pixels' areas."
            )
    if not found.looked.is_discrete:
        lines.append(
            "The likelihood is a density: its bits are no length of any code, and only compare with each other."
        )
    return lines


def listed(found: Detection) -> list[str]:
    """The least likely images, a line each."""
    _, unit = SCORES[found.score]
    lines = [f"{found.score}, {unit}; verdict; image"]
    for row in found.order[:LISTED]:
        verdict = "ANOMALOUS" if found.anomalous[row] else "normal"
        lines.append(f"{found.values[row].item():12.4g}  {verdict:9}  {found.names[row]}")
    if (more := len(found.names) - LISTED) > 0:
        lines.append(f"... and {more} more in {TABLE}")
    return lines


def areas_as_lines(areas: Sequence[Areas]) -> list[str]:
    """Areas under the ROC curve, %, by defect."""
    if not areas:
        return []
    lines = ["area under the ROC curve, % (95 % interval), images without a defect and with it"]
    width = max(len(area.defect) for area in areas)
    for area in areas:
        counts = f"{area.counts[0]} and {area.counts[1]}"
        for kind, values in (("image", area.image), ("pixel", area.pixel)):
            for name, value in values.items():
                which = name if kind == "image" else f"pixels by {name}, {area.masked} masks"
                lines.append(f"  {area.defect:{width}}  {_area(value):24}  {which}, {counts}")
    return lines


def write(
    found: Detection,
    images: Images,
    levels: int,
    pictures: int,
    sentences: list[str],
    folder: Path,
    facts: dict[str, str],
) -> None:
    """Writes page, table, record and maps into a folder.

    Args:
        found: what detect found.
        images: that it looked at.
        levels: how many.
        pictures: how many images get a picture, the least likely first.
        sentences: that stand above the table.
        folder: to write to.
        facts: what else the record holds, such as the checkpoint.
    """
    order, scored = found.order, list[Scored]()
    for place, row in enumerate(order):
        scores = {name: values[row].item() for name, values in found.looked.scores.items()}
        kind = None if found.defects is None else found.defects[row] or "good"
        picture, size = None, (0, 0)
        if place < pictures:
            png, size = _png(found, images, row, levels)
            picture = f"maps/{output_name(found.names[row])}", png
            write_atomically(folder / picture[0], png)
        scored.append(Scored(found.names[row], bool(found.anomalous[row]), scores, kind, picture, size))
    write_table(scored, folder / TABLE)
    if pictures:
        shown = order[:pictures]
        names = np.array([found.names[row] for row in shown])
        maps = {name: getattr(found.looked, name)[shown].numpy().astype(np.float32) for name in ("bits", "error")}
        write_atomically(folder / MAPS, lambda stream: np.savez_compressed(stream, image=names, **maps))
    labels = {name: f"{label}, {unit}" for name, (label, unit) in SCORES.items()}
    title, above = facts.get("images", ""), _areas_as_html(found.areas)
    (low, high), (least, most) = found.shades["bits"], found.shades["error"]
    legend = [
        f"Maps go from black, {low:.3g} bits or a squared error of {least:.3g} a pixel, the normal images' least, to "
        f"white, {high:.3g} bits or {most:.3g}, which a thousandth of the normal images' pixels reach."
    ]
    if pictures < len(order):
        legend.append(f"The {pictures} least likely of {len(order)} images have maps (--pictures).")
    write_page(title, [*sentences, *legend], labels, found.score, scored, folder / PAGE, above)
    record = {
        **facts,
        "count": len(found.names),
        "anomalous": int(found.anomalous.sum()),
        "score": found.score,
        "thresholds": found.thresholds,
        "areas": [vars(area) for area in found.areas],
    }
    write_atomically(folder / RECORD, json.dumps(plain(record), indent=1, allow_nan=False))


def _png(found: Detection, images: Images, row: int, levels: int) -> tuple[bytes, tuple[int, int]]:
    picture = Image.fromarray(found.picture(images, row, levels).permute(1, 2, 0).numpy())
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_level=1)
    return stream.getvalue(), picture.size


def _areas_as_html(areas: Sequence[Areas]) -> str:
    if not areas:
        return ""
    rows = []
    for area in areas:
        pixels = [(f"pixels, map of {name}", value) for name, value in area.pixel.items()]
        counts = f"{area.counts[0]} good, {area.counts[1]} defective, {area.masked} with masks"
        for what, value in (*((SCORES[name].label, value) for name, value in area.image.items()), *pixels):
            cells = f'<td>{escape(what)}</td><td class="number">{_area(value)}</td><td>{counts}</td>'
            rows.append(f'<tr><th scope="row">{escape(area.defect)}</th>{cells}</tr>')
    columns = ('scope="col">defect', 'scope="col">score', 'scope="col" class="number">area, %', 'scope="col">images')
    head = "".join(f"<th {column}</th>" for column in columns)
    return scrolling("Area under the ROC curve, % (95 % interval)", f"<tr>{head}</tr>", rows)


def _area(value: AUROC) -> str:
    return f"{100 * value.value:.1f} ({100 * value.low:.1f} to {100 * value.high:.1f})"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
