"""What `detect` found, as a page that sorts itself, and as a table for programs."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from vae_lightning.files import write_atomically
from vae_lightning.report.document import document
from vae_lightning.report.page import paragraphs, scrolling

MOST_BYTES = 30_000_000
"""Of pictures within the page; the others lie beside it."""
SORT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const numeric = head.classList.contains("number");
      const compare = (a, b) => numeric ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b));
      const rows = [...table.tBodies[0].rows].sort((a, b) => (up ? 1 : -1) * compare(a, b));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      table.tBodies[0].append(...rows);
    });
  });
}
"""
STYLE = (
    "<style>button{font:inherit;color:inherit;background:none;border:0;padding:0;cursor:pointer;text-align:inherit}"
    '[aria-sort="descending"] button::after{content:" \\2193"}[aria-sort="ascending"] button::after{content:" \\2191"}'
    ".verdict{font-weight:700;color:var(--warn)}td img{min-width:max-content}</style>"
)


@dataclass(frozen=True)
class Scored:
    """One image of the table.

    Args:
        name: its file.
        anomalous: the verdict.
        scores: name -> value.
        kind: what is wrong with it, where that is known; None where it is not.
        picture: file of its maps, relative to the table's folder, and the PNG itself; None where there is none.
        size: of the picture, width and height.
    """

    name: str
    anomalous: bool
    scores: Mapping[str, float]
    kind: str | None = None
    picture: tuple[str, bytes] | None = None
    size: tuple[int, int] = (0, 0)


def write_table(images: Sequence[Scored], path: Path) -> None:
    """A CSV with a row an image, in the order given: image, verdict, kind where it is known, scores, picture."""
    text = io.StringIO()
    writer = csv.writer(text)
    kinds = any(image.kind is not None for image in images)
    writer.writerow(["image", "verdict", *(["kind"] if kinds else []), *images[0].scores, "picture"])
    for image in images:
        known = [image.kind or ""] if kinds else []
        where = image.picture[0] if image.picture else ""
        writer.writerow([image.name, verdict(image), *known, *image.scores.values(), where])
    write_atomically(path, text.getvalue())


def verdict(image: Scored) -> str:
    return "anomalous" if image.anomalous else "normal"


def write_page(
    title: str,
    sentences: Sequence[str],
    labels: Mapping[str, str],
    by: str,
    images: Sequence[Scored],
    path: Path,
    areas: str = "",
) -> None:
    """The page: what was found in sentences, then a table of all images whose columns sort it.

    Args:
        title: what was looked at.
        sentences: above the table.
        labels: score -> what its column is called.
        by: the score that verdicts are by; the table comes sorted by it.
        images: in that order.
        path: of the page.
        areas: a table above, HTML.
    """
    kinds, room, rows = any(image.kind is not None for image in images), MOST_BYTES, []
    for image in images:
        shown = "" if image.picture is None else escape(image.picture[0])
        if image.picture is not None and (room := room - len(image.picture[1])) > 0:
            width, height = image.size
            source = base64.b64encode(image.picture[1]).decode()
            shown = (
                f'<img class="small" loading="lazy" alt="{escape(image.name)}: image, reconstruction, maps" '
                f'width="{width}" height="{height}" src="data:image/png;base64,{source}">'
            )
        mark = ' class="verdict"' if image.anomalous else ""
        cells = [f'<th scope="row">{escape(image.name)}</th>', f"<td{mark}>{verdict(image)}</td>"]
        cells += [f"<td>{escape(image.kind or '')}</td>"] if kinds else []
        cells += [f'<td class="number" data-value="{_key(value)}">{value:.4g}</td>' for value in image.scores.values()]
        rows.append(f"<tr>{''.join(cells)}<td>{shown}</td></tr>")
    names = ["image", "verdict", *(["kind"] if kinds else [])]
    head = "".join(f'<th scope="col"><button>{name}</button></th>' for name in names)
    for name in images[0].scores:
        order = ' aria-sort="descending"' if name == by else ""
        head += f'<th scope="col" class="number"{order}><button>{escape(labels[name])}</button></th>'
    head += f'<th scope="col">image, reconstruction, bits, squared error{", mask" if kinds else ""}</th>'
    table = scrolling("Images", f"<tr>{head}</tr>", rows, kind="results sortable")
    body = f"{STYLE}{paragraphs(sentences)}{areas}{table}"
    write_atomically(path, document(title, "detect", body, SORT).encode(errors="replace"))


def _key(value: float) -> str:
    """As JavaScript's Number reads it; what is not a number above all."""
    return repr(value) if math.isfinite(value) else ("-Infinity" if value == -math.inf else "Infinity")
