"""A user's own pictures and what they wrote about them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from vae_lightning.data.captions import Captions
from vae_lightning.data.folder import ImageFolder
from vae_lightning.data.reading.decode import Reading
from vae_lightning.data.source import ImageSource, Shape, Splits

FILE, CAPTION = "file", "caption"
Said = dict[str, list[str]]
"""An image's name below the folder -> its captions, at least one."""


class CaptionedFolder(ImageSource):
    """The images of a folder with captions: `x.txt` beside `x.jpg`, several lines being several phrasings, or one CSV
    or JSON file for all. All in UTF-8.

    A CSV has the columns `file`, a name below the folder, and `caption`; several rows of a file are several phrasings,
    and other columns are left out. A JSON file holds such rows, `[{"file": ..., "caption": ...}, ...]`, or
    `{name: caption, ...}`; a caption may be a list of phrasings.

    Args:
        folder: the images.
        captions: the CSV or JSON file, as it stands, or from the folder on; null for text files beside the images.
        skip_uncaptioned: name and skip images that have no caption, instead of refusing them.
        held_out: regular expressions; images with a caption that one of them is found in are left out of training and
            validation, and are for test where the folder has no splits of its own (`Captions.held_out`).
    """

    def __init__(
        self,
        folder: ImageFolder,
        captions: str | None = None,
        skip_uncaptioned: bool = False,
        held_out: list[str] | None = None,
    ) -> None:
        self.folder, self.captions, self.skip_uncaptioned = folder, captions, skip_uncaptioned
        try:
            self.held_out = [re.compile(pattern, re.IGNORECASE) for pattern in held_out or []]
        except re.error as error:
            raise ValueError(
                f"CaptionedFolder.held_out: expected regular expressions, got {error.pattern!r}: {error}."
            ) from None

    @property
    def name(self) -> str:
        return f"{type(self).__name__}-{self.folder.path.name}"

    def find(self, root: Path) -> None:
        self.folder.find(root)

    @property
    def image_shape(self) -> Shape:
        return self.folder.image_shape

    @property
    def levels(self) -> int:
        return self.folder.levels

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.folder.classes

    @property
    def captioned(self) -> bool:
        return True

    @property
    def reading(self) -> Reading | None:
        return self.folder.reading

    @property
    def found(self) -> dict[str, Any]:
        return {f"folder.init_args.{name}": value for name, value in self.folder.found.items()}

    @cached_property
    def _said(self) -> Said | None:
        """What one file says of all images."""
        return None if self.captions is None else read_captions(self._place(self.captions), self.folder.path)

    def _place(self, captions: str) -> Path:
        path = Path(captions).expanduser()
        return path if path.is_file() else self.folder.path / path

    def _of(self, name: str) -> list[str]:
        """The captions of an image; none where there is none."""
        if self._said is not None:
            return self._said.get(name, [])
        file = (self.folder.path / name).with_suffix(".txt")
        return _lines(file.read_bytes(), file) if file.is_file() else []

    def _is_held_out(self, said: Iterable[str]) -> bool:
        return any(pattern.search(caption) for pattern in self.held_out for caption in said)

    def load(self, root: Path, download: bool) -> Splits:
        parts = self.folder.named(root, lambda name: self._is_held_out(self._of(name)))
        found: dict[str, Any] = {}
        missing: list[str] = []
        of_all: list[list[str]] = []  # so that a caption has one number in all splits
        held_out_of_all: list[bool] = []
        for part, (images, names) in parts.items():
            said = [self._of(name) for name in names]
            missing += [name for name, captions in zip(names, said, strict=True) if not captions]
            held_out = [self._is_held_out(captions) for captions in said]
            kept = [i for i, it in enumerate(said) if it and not (held_out[i] and part != "test")]
            rows = torch.arange(len(of_all), len(of_all) + len(kept))
            of_all += [said[i] for i in kept]
            held_out_of_all += [held_out[i] for i in kept]
            found[part] = images[torch.tensor(kept, dtype=torch.int64)], rows
        if missing and not self.skip_uncaptioned:
            total, some = sum(len(names) for _, names in parts.values()), ", ".join(sorted(missing)[:5])
            raise ValueError(
                f"{len(missing)} of {total} images in {self.folder.path} have no caption ({some}): "
                f"write {f'rows of {self.captions}' if self.captions else 'text files beside them'}, or skip them with "
                "--data.source.skip_uncaptioned true."
            )
        if missing:
            print(f"skipped {len(missing)} images without a caption: {', '.join(missing[:5])}")
        if empty := [part for part, (images, _) in found.items() if not len(images)]:
            raise ValueError(
                f"{self.folder.path}: expected captioned images for {empty[0]}, got none: write captions, or hold out "
                "less with --data.source.held_out."
            )
        captions = Captions.of(of_all, held_out_of_all)
        return Splits(**{part: replace(images, captions=captions[rows]) for part, (images, rows) in found.items()})


def read_captions(file: Path, folder: Path) -> Said:
    """The captions of a CSV or JSON file about images in a folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, no UTF-8, no CSV or JSON, no columns `file` and `caption`, no row, a row
            without a caption, or one of a file that is not in the folder.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected a CSV or JSON file of captions, got nothing there.")
    kinds = {".csv": _csv_rows, ".json": _json_rows}
    if file.suffix.lower() not in kinds:
        raise ValueError(f"{file}: expected captions in a .csv or .json file, got {file.suffix or 'no suffix'}.")
    said: Said = {}
    for row, (name, caption) in enumerate(kinds[file.suffix.lower()](_text(file.read_bytes(), file), file), 1):
        captions = caption if isinstance(caption, list) else [caption]
        if not name or not captions or any(not isinstance(one, str) or not one.strip() for one in captions):
            raise ValueError(
                f"{file}: expected a file and a caption in each row, got row {row} of {name or 'no file'!r}."
            )
        if name not in said and not (folder / name).is_file():
            raise ValueError(
                f"{file}: expected names of images below {folder}, got {name!r} in row {row}, which is not there: mend "
                "the name, or take the row out."
            )
        said.setdefault(Path(name).as_posix(), []).extend(one.strip() for one in captions)
    if not said:
        raise ValueError(f"{file}: expected a row an image, got none: write the columns {FILE} and {CAPTION}.")
    return said


def _csv_rows(text: str, file: Path) -> Iterable[tuple[str, Any]]:
    rows = csv.DictReader(text.splitlines(keepends=True))
    _require_columns(rows.fieldnames or [], file)
    return ((row[FILE] or "", row[CAPTION] or "") for row in rows)


def _json_rows(text: str, file: Path) -> Iterable[tuple[str, Any]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: expected JSON, got something else ({error}).") from None
    if isinstance(content, dict):
        return content.items()
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError(
            f"{file}: expected a list of rows with {FILE} and {CAPTION}, or captions by file, got another."
        )
    for row in content:
        _require_columns(row, file)
    return ((row[FILE], row[CAPTION]) for row in content)


def _require_columns(columns: Iterable[str], file: Path) -> None:
    if lacking := {FILE, CAPTION} - set(columns):
        raise ValueError(
            f"{file}: expected the columns {FILE} and {CAPTION}, got {', '.join(columns) or 'none'}: name the "
            f"{' and '.join(sorted(lacking))} so."
        )


def _text(content: bytes, file: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file}: expected text in UTF-8, got byte {error.start} of another encoding: save it as such."
        ) from None


def _lines(content: bytes, file: Path) -> list[str]:
    return [line.strip() for line in _text(content, file).splitlines() if line.strip()]
