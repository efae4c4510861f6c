"""A run as one HTML page that needs nothing beside it: numbers, pictures, configuration, environment."""

from __future__ import annotations

import base64
import json
import math
import re
import shlex
import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from vae_lightning.files import write_atomically
from vae_lightning.report.document import document, time_of
from vae_lightning.report.results import FILE, Results, Row, Section
from vae_lightning.report.verdict import TITLE, verdict_html

HEADLINES = ("nll", "nll_bits_per_dim", "elbo", "squared_error", "bits_per_dim", "distortion", "psnr", "ssim")
"""What a reader looks for first; the first four that a test found."""
ARROWS = {"higher": "&uarr;", "lower": "&darr;", "": ""}
LEGEND = "&plusmn; is the standard error. &uarr; higher is better, &darr; lower is better."
SMALL = 520
"""Width in pixels below which a picture's pixels are meant to be seen, and stay sharp."""
CAPTIONS = {
    "curve": "Training and validation over steps",
    "reconstructions": "Reconstructions: images, and below each row what comes back",
    "priorsamples": "Samples from the prior",
    "samples": "Samples from the prior",
    "surprise": "Test images: the least surprising first, then the most surprising",
    "neighbours": "Samples, and below each its nearest training images; then the samples that lie nearest to one",
    "traversals": "Traversals: each row moves one latent through ±3 standard deviations",
    "latentplane": "The two latents: left, codes of held-out images; right, images decoded over the same plane",
    "interpolations": "Interpolations: in a straight line from one image's code to another's, the images at the ends",
}


def report(run: Path) -> Path:
    """Writes report.html into a run's folder; returns its path.

    Raises:
        FileNotFoundError: no run there.
        ValueError: one of its files is not whole.
    """
    if not any((run / name).is_file() for name in ("config.yaml", "run.json", FILE)):
        got = "a folder without config.yaml" if run.is_dir() else "nothing there"
        raise FileNotFoundError(f"{run}: expected the folder of a run, got {got}: give one that fit has written.")
    results = Results.read(run) if (run / FILE).is_file() else None
    record = _record(run / "run.json")
    data = {key: value for key, value in record.pop("data", {}).items() if key != "val_index" or isinstance(value, str)}
    body = [verdict_html(run), _tested(run, results), _pictures(run), _config(run / "config.yaml")]
    body.append(f'<div class="columns">{_facts("Data", data)}{_facts("Environment", record)}</div>')
    path = run / "report.html"
    write_atomically(path, document(name_of(run), "report", "\n".join(body)).encode(errors="replace"))
    return path


def name_of(run: Path) -> str:
    """experiment/name of a run's folder, however it was given."""
    return "/".join(run.expanduser().resolve().parts[-2:])


def figures(mean: float, error: float = math.nan, sign: str = "") -> tuple[str, str]:
    """A value and its error as text, to two digits of the error; the value to four where there is no error.

    Args:
        sign: "+" for a value, such as a difference, that shows its sign.
    """
    if not math.isfinite(mean):
        return "-", ""
    if not math.isfinite(error) or error <= 0:
        whole = mean == int(mean) or abs(mean) >= 1000
        return f"{mean:{sign}{'.0f' if whole else '.4g'}}", "0" if error == 0 else ""
    decimals = 1 - math.floor(math.log10(error))
    if decimals > 12:
        return f"{mean:{sign}.4g}", f"{error:.2g}"
    return f"{mean:{sign}.{max(decimals, 0)}f}", f"{error:.{max(decimals, 0)}f}"


def spread(mean: float, error: float, between: str = " ", sign: str = "") -> str:
    """A value +- its error, with all digits kept in the page for programs."""
    shown, around = figures(mean, error, sign)
    value = f'<data value="{mean!r}">{shown}</data>'
    return value + (f'{between}&plusmn;&nbsp;<data value="{error!r}">{around}</data>' if around else between.strip())


def table(section: Section) -> str:
    """A section's numbers and the sentences below them; of one that was left out, the sentences."""
    if not section.rows:
        return f"<section><h2>{escape(section.title)}</h2>{paragraphs(section.notes)}</section>"
    head = '<tr><th scope="col"></th><th scope="col" class="number">mean</th>' + (
        '<th scope="col">&plusmn; error</th><th scope="col">unit</th></tr>'
    )
    return scrolling(section.title, head, [_row(row) for row in section.rows], paragraphs(section.notes))


def scrolling(title: str, head: str, rows: Iterable[str], below: str = "", kind: str = "results") -> str:
    """A table that scrolls in its own box where the screen is too narrow."""
    name = escape(title)
    return f"""<section><h2>{name}</h2>
<div class="scroll" role="region" aria-label="{name}" tabindex="0"><table class="{kind}"><thead>{head}</thead>
<tbody>
{chr(10).join(rows)}
</tbody></table></div>{below}</section>"""


def paragraphs(sentences: Iterable[str]) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def label(row: Row) -> str:
    """What a row is, and which way is better."""
    return f'<th scope="row">{escape(row.label)}&nbsp;{ARROWS.get(row.better, "")}</th>'


def _row(row: Row) -> str:
    numbers = spread(row.mean, row.error, "</td><td>")
    return f'<tr>{label(row)}<td class="number">{numbers}</td><td>{escape(row.unit)}</td></tr>'


def _tested(run: Path, results: Results | None) -> str:
    """When and how it was tested, the headline numbers, every section; or that it has not been, and what does it."""
    if results is None:
        command = escape(f"vae-lightning test --ckpt_path {shlex.quote(str(run))}")
        return (
            f'<p class="warn">This run has not been tested: run <code>{command}</code>, then make this page again.</p>'
        )
    when = time_of(datetime.fromtimestamp((run / FILE).stat().st_mtime, UTC))
    settings = "".join(f", {escape(key.replace('_', ' '))} {_value(value)}" for key, value in results.settings.items())
    rows = results.rows
    chosen = [rows[name] for name in HEADLINES if name in rows] or list(rows.values())
    tiles = "".join(_headline(row) for row in chosen[:4])
    sections = "\n".join(table(section) for section in results.sections if section.title != TITLE)
    return f"""<p>Tested {when} on {results.images} images{settings}.</p>
<dl class="headlines">{tiles}</dl>
<p class="legend soft">{LEGEND}</p>
<div class="columns">{sections}</div>"""


def _headline(row: Row) -> str:
    numbers = spread(row.mean, row.error, "<small>")
    return f"<div><dt>{escape(row.label)}</dt><dd>{numbers} {escape(row.unit)}</small></dd></div>"


def _pictures(run: Path) -> str:
    """The curve in full width; the newest picture of each kind and those that commands have left in the folder."""
    newest = [
        max(
            kind.glob("*.png"),
            key=lambda file: ([int(n) for n in re.findall(r"\d+", file.stem)], file.name),
            default=None,
        )
        for kind in sorted((run / "images").glob("*/"))
    ]
    found = [(file, file.parent.name, re.sub("_0*", " ", f", {file.stem}")) for file in newest if file is not None]
    found += [(file, file.stem, "") for file in sorted(run.glob("*.png")) if file.name != "curve.png"]
    curve = _figure(run / "curve.png", CAPTIONS["curve"]) if (run / "curve.png").is_file() else ""
    shown = "".join(_figure(file, CAPTIONS.get(kind, kind) + when) for file, kind, when in found)
    if not curve + shown:
        return ""
    return f'<section><h2>Pictures</h2>{curve}<div class="columns">{shown}</div></section>'


def _figure(path: Path, caption: str) -> str:
    """A PNG within the page; nothing where the file is none."""
    content = path.read_bytes()
    if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
        return ""
    width, height = struct.unpack(">II", content[16:24])
    enlarge = max(1, SMALL // max(width, 1)) if width < SMALL // 2 else 1
    small = ' class="small"' if width <= SMALL else ""
    return (
        f'<figure><figcaption>{escape(caption)}</figcaption><img{small} alt="{escape(caption)}" '
        f'width="{width * enlarge}" height="{height * enlarge}" '
        f'src="data:image/png;base64,{base64.b64encode(content).decode()}"></figure>'
    )


def _config(path: Path) -> str:
    if not path.is_file():
        return ""
    text = escape(path.read_text(errors="replace"))
    return (
        f"<section><h2>Configuration</h2><details><summary>config.yaml</summary><pre>{text}</pre></details></section>"
    )


def _record(path: Path) -> dict[str, Any]:
    """run.json, empty where there is none."""
    try:
        record = json.loads(path.read_text()) if path.is_file() else {}
        if not isinstance(record, dict) or not isinstance(record.get("data", {}), dict):
            raise ValueError("no record of a run")
    except ValueError as error:
        raise ValueError(
            f"{path}: expected what fit has written, got {error}: restore the file, or remove it."
        ) from error
    return record


def _facts(title: str, facts: dict[str, Any]) -> str:
    if not facts:
        return ""
    items = "".join(
        f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{_value(value, key)}</dd>" for key, value in facts.items()
    )
    return f'<section><h2>{escape(title)}</h2><dl class="facts">{items}</dl></section>'


def _value(value: Any, key: str = "") -> str:
    if key == "command":
        return f"<code>{escape(shlex.join(['vae-lightning', *map(str, value)]))}</code>"
    if isinstance(value, dict):
        return ", ".join(f"{escape(str(name))} {_value(item)}" for name, item in value.items())
    if isinstance(value, list):
        return " &times; ".join(_value(item) for item in value)
    return escape({"None": "none", "True": "yes", "False": "no"}.get(repr(value), str(value)))
