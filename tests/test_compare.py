"""Runs side by side: paired differences are numpy's and of the same images only, files say the same numbers."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vae_lightning.commands.main import main
from vae_lightning.report.compare import Cell, Comparison, compare, page, text, write
from vae_lightning.report.results import Results, Section

TESTED = {"image_shape": [1, 8, 8], "levels": 17, "test_images": "abcd", "seed": 1, "processes": 1}
IMAGES = 400


def mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def scores(seed: int, shift: float = 0.0) -> np.ndarray:
    """-log p(x) of images that differ by far more than models do."""
    hard = np.random.default_rng(0).normal(100, 10, IMAGES)
    return (hard + shift + np.random.default_rng(seed).normal(0, 0.5, IMAGES)).astype(np.float32)


def made(folder: Path, nll: np.ndarray, **settings: Any) -> Path:
    """A run's folder with what compare reads. None for a setting that was not kept."""
    folder.mkdir(parents=True)
    settings = {key: value for key, value in {**TESTED, **settings}.items() if value is not None}
    first, second = Section("Likelihood"), Section("Beside it", notes=["A sentence, from <this> run."])
    first.add("nll", "-log p(x)", mean(nll.astype(float)), "nats/image", "lower")
    first.add("elbo", "ELBO", mean(-nll.astype(float) - 3), "nats/image", "higher")
    second.add("active", "active units", (7.0, math.nan), "", "")
    second.add("floor", "entropy, which no model goes below", (12.5, 0.25), "nats/image")
    Results(str(folder), len(nll), settings, [first, second], {"nll": nll}).write(folder)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [made(tmp_path / "runs" / "digits" / str(i), scores(i, -0.3 * i)) for i in (1, 2, 3)]


def cells(comparison: Comparison, name: str) -> list[Cell]:
    (line,) = [line for lines in comparison.sections.values() for line in lines if line.row.name == name]
    return line.cells


def test_paired_difference_is_numpys_and_its_error_far_below_the_unpaired_one(runs: list[Path]) -> None:
    comparison = compare(runs)
    assert comparison.runs == ["digits/1", "digits/2", "digits/3"]
    for i, cell in enumerate(cells(comparison, "nll")[1:], start=2):
        expected = mean(scores(i, -0.3 * i).astype(float) - scores(1, -0.3).astype(float))
        assert (cell.difference, cell.difference_error) == pytest.approx(expected, rel=1e-12)
        assert cell.paired == "paired"
        assert cell.difference == pytest.approx(cell.mean - cells(comparison, "nll")[0].mean, abs=1e-6)
        unpaired = cells(comparison, "elbo")[i - 1]
        assert unpaired.paired == "unpaired"
        assert unpaired.difference == unpaired.mean - cells(comparison, "elbo")[0].mean
        assert unpaired.difference_error == pytest.approx(math.sqrt(2) * cell.error, rel=0.01)
        assert cell.difference_error < 0.1 * unpaired.difference_error
        assert abs(cell.difference + 0.3 * (i - 1)) < 4 * cell.difference_error
    first = cells(comparison, "nll")[0]
    assert first.paired == ""
    assert math.isnan(first.difference)


def test_a_value_without_an_error_has_a_difference_without_one(runs: list[Path]) -> None:
    cell = cells(compare(runs), "active")[1]
    assert (cell.difference, cell.paired) == (0.0, "unpaired")
    assert math.isnan(cell.difference_error)


def test_other_numbers_of_images_are_not_paired_and_said(tmp_path: Path) -> None:
    a = made(tmp_path / "e" / "a", scores(1), test_samples=100)
    b = made(tmp_path / "e" / "b", scores(2)[:50], test_samples=1000)
    comparison = compare([a, b])
    first, second = cells(comparison, "nll")
    assert second.paired == "unpaired"
    assert second.difference_error == pytest.approx(math.hypot(first.error, second.error))
    said = " ".join(comparison.notes)
    assert "images is 400 in e/a, 50 in e/b" in said
    assert "Not tested alike: test_samples is 100 in e/a, 1000 in e/b" in said
    assert "Not the same noise: test_samples is 100 in e/a, 1000 in e/b" in said


def test_only_the_same_images_by_the_tests_own_digest_are_paired(tmp_path: Path) -> None:
    """Whatever run.json says: a test may have been given other data than the training."""
    a = made(tmp_path / "e" / "a", scores(1))
    others = {"same": {}, "other": {"test_images": "ef01"}, "older": {"test_images": None}}
    for name, settings in others.items():
        b = made(tmp_path / "e" / name, scores(2), **settings)
        (b / "run.json").write_text(json.dumps({"data": {"sha256": {"test": "abcd"}}}))
        comparison = compare([a, b])
        cell, said = cells(comparison, "nll")[1], " ".join(comparison.notes)
        assert cell.paired == ("paired" if name == "same" else "unpaired")
        assert ("Not the same test images" in said) == (name != "same")
        if name != "same":
            assert cell.difference_error > 10 * cells(compare([a, tmp_path / "e" / "same"]), "nll")[1].difference_error
    assert "their digest is abcd in e/a, not kept in e/older" in said
    both = [made(tmp_path / "e" / name, scores(3), test_images=None) for name in ("c", "d")]
    assert "their digest is not kept." in " ".join(compare(both).notes)
    assert cells(compare(both), "nll")[1].paired == "unpaired"


def test_other_noise_is_said(tmp_path: Path) -> None:
    a = made(tmp_path / "e" / "a", scores(1))
    b = made(tmp_path / "e" / "b", scores(2), seed=2, processes=4)
    notes = compare([a, b]).notes
    assert "Not the same noise: seed is 1 in e/a, 2 in e/b; processes is 1 in e/a, 4 in e/b. " in notes[1]
    assert not any("noise" in note for note in compare([a, made(tmp_path / "e" / "c", scores(2))]).notes)


def test_images_that_a_study_left_out_are_left_out_of_the_difference(tmp_path: Path) -> None:
    """nan in either run; where nothing is left there is no pair."""
    a, b = scores(1), scores(2, 0.5)
    a[300:], b[::7] = np.nan, np.nan
    section = Section("Sharpness")
    section.add("edge_width", "edge width", (10.0, 0.1), "pixels")
    folders = [made(tmp_path / "e" / name, scores(1)) for name in "abc"]
    for folder, kept in zip(folders, (a, b, np.full_like(a, np.nan)), strict=True):
        Results(str(folder), IMAGES, TESTED, [section], {"edge_width": kept}).write(folder)
    _, second, third = cells(compare(folders), "edge_width")
    both = (b.astype(float) - a)[~np.isnan(a) & ~np.isnan(b)]
    assert len(both) == 257
    assert (second.difference, second.difference_error) == pytest.approx(mean(both), rel=1e-12)
    assert (second.paired, third.paired) == ("paired", "unpaired")


def test_names_of_all_runs_in_first_seen_order(tmp_path: Path) -> None:
    folders = [tmp_path / "e" / name for name in "ab"]
    for folder, rows in zip(folders, (["x", "y"], ["z", "y", "x"]), strict=True):
        made(folder, scores(1))
        section = Section("One")
        for k, name in enumerate(rows):
            section.add(name, f"the {name}", (float(k), 0.1), "")
        other = Section("Two")
        other.add(f"only_{folder.name}", "only here", (5.0, 0.1), "", "lower")
        Results(str(folder), IMAGES, TESTED, [section, other]).write(folder)
    comparison = compare(folders)
    names = {title: [line.row.name for line in lines] for title, lines in comparison.sections.items()}
    assert names == {"One": ["x", "y", "z"], "Two": ["only_a", "only_b"]}
    missing, there = cells(comparison, "only_b")
    assert math.isnan(missing.mean)
    assert (there.mean, there.paired) == (5.0, "")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"levels": 256}, "levels 256 for 17"),
        ({"image_shape": [3, 8, 8]}, "[3, 8, 8] for [1, 8, 8]"),
    ],
)
def test_images_of_another_kind_are_refused_by_name(tmp_path: Path, other: dict[str, Any], words: str) -> None:
    a, b, c = (made(tmp_path / n, scores(i), **r) for i, (n, r) in enumerate((("a", {}), ("b", {}), ("c", other))))
    with pytest.raises(ValueError, match="expected a test on images like those of") as error:
        compare([a, b, c])
    for word in (str(a), str(c), words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_damaged_arrays_are_one_sentence(runs: list[Path], damage: bytes | None, capsys) -> None:
    file = runs[1] / "results.npz"
    file.write_bytes(file.read_bytes()[:-40] if damage is None else damage)
    for run in runs:
        (run / "config.yaml").touch()
    assert main(["compare", *map(str, runs)]) == 1
    assert "expected results that can be read, got" in capsys.readouterr().err


def test_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected two or more different runs, got none"):
        compare([])
    with pytest.raises(ValueError, match=r"expected two or more different runs, got .*digits/1"):
        compare(runs[:1])
    with pytest.raises(ValueError, match="expected two or more different runs"):
        compare([runs[0], runs[0] / ".." / "1"])
    with pytest.raises(FileNotFoundError, match=r"nowhere.*vae-lightning test"):
        compare([runs[0], tmp_path / "nowhere"])


def test_csv_reads_back_to_the_same_numbers(runs: list[Path], tmp_path: Path) -> None:
    write(comparison := compare(runs), tmp_path / "out")
    with (tmp_path / "out" / "compare.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    lines = [line for section in comparison.sections.values() for line in section]
    assert list(rows) == [line.row.name for line in lines]
    for line in lines:
        for run, cell in zip(comparison.runs, line.cells, strict=True):
            read = [
                rows[line.row.name][f"{run} {what}"] for what in ("mean", "error", "difference", "difference error")
            ]
            expected = [cell.mean, cell.error, cell.difference, cell.difference_error]
            assert [float(value or "nan") for value in read] == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
            assert rows[line.row.name][f"{run} paired"] == cell.paired


def test_the_best_is_marked(runs: list[Path]) -> None:
    comparison = compare(runs)
    best = {line.row.name: line.best for lines in comparison.sections.values() for line in lines}
    values = [scores(i, -0.3 * i).mean() for i in (1, 2, 3)]
    assert best == {"nll": {int(np.argmin(values))}, "elbo": {int(np.argmin(values))}, "active": set(), "floor": set()}
    nll, elbo = (next(s for s in text(comparison).splitlines() if s.startswith(f"  {x}")) for x in ("-log", "ELBO"))
    for line, sign in ((nll, 1), (elbo, -1)):
        assert line.count("*") == 1
        before = line[: line.index("*")].split()
        assert float(before[-3]) == pytest.approx(sign * min(values) - 3 * (sign < 0), abs=0.01)
    assert page(comparison).count('class="best"') == 2


def test_text_stands_in_columns(runs: list[Path]) -> None:
    rows = [line for line in text(compare(runs)).splitlines() if "paired" in line and line.startswith("  ")]
    assert len(rows) == 4
    assert len({row.index("paired") - 2 * ("unpaired" in row) for row in rows}) == 1


def test_page_says_every_number_and_escapes(runs: list[Path], tmp_path: Path) -> None:
    write(comparison := compare(runs), tmp_path)
    content = (tmp_path / "compare.html").read_text()
    for lines in comparison.sections.values():
        for cell in (cell for line in lines for cell in line.cells):
            assert f'value="{cell.mean!r}"' in content
            assert not cell.paired or f'value="{cell.difference!r}"' in content
    assert "digits/1: A sentence, from &lt;this&gt; run." in content
    assert "<this>" not in content
    assert (tmp_path / "compare.txt").read_text().rstrip("\n") == text(comparison)
