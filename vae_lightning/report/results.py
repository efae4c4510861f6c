"""What a test found out: sections of numbers with their errors, kept as results.json, per image in results.npz."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vae_lightning.files import write_atomically

FILE, ARRAYS = "results.json", "results.npz"
VERSION = 1
Better = Literal["higher", "lower", ""]


@dataclass(frozen=True)
class Row:
    """One number.

    Args:
        name: its key, the same in every run; `compare` puts rows of one name side by side.
        label: what it is, for people.
        mean: its value.
        error: its standard error; nan where there is none to give.
        unit: of both.
        better: which way is better, where one is.
    """

    name: str
    label: str
    mean: float
    error: float
    unit: str
    better: Better = ""


@dataclass
class Section:
    """Numbers that belong together, with sentences that say what they mean."""

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, label: str, value: tuple[float, float], unit: str, better: Better = "") -> None:
        """A row from (mean, standard error)."""
        self.rows.append(Row(name, label, *value, unit, better))


@dataclass
class Results:
    """All that one test found out.

    Args:
        run: the folder it belongs to, as it was named.
        images: how many test images.
        settings: what was asked for, such as the number of importance samples.
        sections: in the order in which they are shown.
        per_image: name -> (N,), what `compare` takes paired differences of.
    """

    run: str
    images: int
    settings: dict[str, Any]
    sections: list[Section]
    per_image: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, Row]:
        """name -> row, of all sections."""
        return {row.name: row for section in self.sections for row in section.rows}

    def write(self, folder: Path) -> Path:
        """results.json and results.npz, each whole or not at all; returns the first one's path."""
        content = {"version": VERSION, **{k: v for k, v in asdict(self).items() if k != "per_image"}}
        arrays: dict[str, Any] = dict(self.per_image)
        write_atomically(folder / ARRAYS, lambda stream: np.savez(stream, **arrays))
        write_atomically(folder / FILE, json.dumps(plain(content), indent=1, allow_nan=False))
        return folder / FILE

    @classmethod
    def read(cls, folder: Path) -> Results:
        """What a test wrote into a run's folder.

        Raises:
            FileNotFoundError: the run has not been tested.
            ValueError: the file is not whole, or of another version.
        """
        path = folder / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: expected a test's results, got nothing there: run vae-lightning test --ckpt_path {folder}."
            )
        try:
            content = json.loads(path.read_text())
            if content.pop("version") != VERSION:
                raise ValueError("written by another version")
            sections = [
                Section(s["title"], [Row(**_floats(row)) for row in s["rows"]], s["notes"])
                for s in content.pop("sections")
            ]
            with np.load(folder / ARRAYS) as arrays:
                return cls(**content, sections=sections, per_image=dict(arrays))
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: expected results that can be read, got {error}: test the run again.") from error

    def table(self) -> str:
        """All sections as text, one row a number, the sentences below theirs."""
        width = max((len(row.label) for section in self.sections for row in section.rows), default=0)
        lines: list[str] = []
        for section in self.sections:
            lines += ["", section.title]
            for row in section.rows:
                error = f"+- {row.error:.4f}" if math.isfinite(row.error) else ""
                lines.append(f"  {row.label:{width}}  {row.mean:>11.4f}  {error:>11}  {row.unit}".rstrip())
            lines += [f"  {note}" for note in section.notes]
        return "\n".join(lines[1:])


def plain(value: Any) -> Any:
    """For JSON, which has no nan: null in its place. A NamedTuple becomes a mapping."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _floats(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, **{key: math.nan for key in ("mean", "error") if row[key] is None}}
