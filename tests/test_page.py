"""A run's page: whole by itself, everything escaped, every number of the results in it."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae_lightning.report.page import CAPTIONS, figures, report, table
from vae_lightning.report.results import Results, Section

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = "<script>alert(\"1\")</script> & 'co'"


class Page(HTMLParser):
    """Refuses a tag that closes another; keeps attributes and text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(content)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def picture(path: Path, shade: int, size: tuple[int, int] = (20, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).save(path)


def make_run(folder: Path) -> Path:
    """What fit leaves, with a hostile value wherever a user's words come in."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"note: {HOSTILE}\nroot: https://example.org/data\n")
    data = {
        "source": "Digits",
        "image_shape": [1, 8, 8],
        "levels": 17,
        "dynamic_binarization": False,
        "sizes": {"train": 1237, "val": 200, "test": 360},
        "sha256": {"train": "47e9af04", "val": "e9ce4d62", "test": "26b05415"},
        "val_index": [98765, 98766],
    }
    record = {"git_commit": "e87353d", "git_dirty": True, "cuda": None, "command": ["fit", "-c", HOSTILE], "data": data}
    (folder / "run.json").write_text(json.dumps(record))
    picture(folder / "curve.png", 1, (1200, 420))
    picture(folder / "samples.png", 2)
    picture(folder / "neighbours.png", 4)
    for epoch in ("0002", "9999", "10000"):
        picture(folder / "images" / "priorsamples" / f"epoch_{epoch}.png", len(epoch) + int(epoch) % 7)
    picture(folder / "images" / "<kind>" / "epoch_0001.png", 9)
    (folder / "broken.png").write_text("no picture, " * 9)
    return folder


def make_results(folder: Path) -> Results:
    first = Section("Likelihood <b>", notes=[f"Do not trust {HOSTILE}."])
    first.add("elbo", "ELBO <i>", (-101.5400546, 0.4302659), "nats/image", "higher")
    first.add("nll_bits_per_dim", "-log p(x)", (2.2102021, 0.0095), "bits/dim", "lower")
    second = Section("Samples")
    second.add("mmd", "kernel distance", (3.2e-4, 4.1e-5), "", "lower")
    second.add("active", "active units", (9.0, math.nan), "of 10")
    second.add("lost", "not finite", (math.nan, math.nan), "")
    results = Results(str(folder), 360, {"test_samples": 1000}, [first, second], {"elbo": np.zeros(3)})
    results.write(folder)
    return results


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "<script>")


def test_every_label_and_number_is_there(run: Path) -> None:
    results = make_results(run)
    path = report(run)
    assert path == run / "report.html"
    page = Page(path.read_text())
    kept = {attributes["value"] for attributes in page.all("data")}
    for section in results.sections:
        assert section.title in page.words
        for note in section.notes:
            assert note in page.words
        for row in section.rows:
            assert row.label in page.words
            assert row.unit in page.words
            assert repr(row.mean) in kept
            shown, error = figures(row.mean, row.error)
            assert shown in page.words
            if math.isfinite(row.error):
                assert repr(row.error) in kept
                assert f"±\xa0{error}" in page.words
    assert "on 360 images, test samples 1000" in page.words
    assert re.search(r"Tested \d{4}-\d\d-\d\d \d\d:\d\d UTC", page.words)


def test_what_was_left_out_has_its_reason_and_no_table() -> None:
    shown = table(Section("Left out: samples", notes=["expected two classes, got <one>."]))
    assert "<p>expected two classes, got &lt;one&gt;.</p>" in shown
    assert "<table" not in shown


def test_numbers_are_shown_to_two_digits_of_their_error() -> None:
    assert figures(-101.5400546, 0.4302659) == ("-101.54", "0.43")
    assert figures(3.2e-4, 4.1e-5) == ("0.000320", "0.000041")
    assert figures(123456.7, 1234.5) == ("123457", "1234")
    assert figures(1.5, 0.0) == ("1.5", "0")
    assert figures(360.0) == ("360", "")
    assert figures(0.01339) == ("0.01339", "")
    assert figures(2.0, 0.5, "+") == ("+2.00", "0.50")
    assert figures(math.nan, 1.0) == ("-", "")
    rng = np.random.default_rng(0)
    for mean, scale in zip(rng.normal(0, 100, 200), 10 ** rng.uniform(-8, 3, 200), strict=True):
        shown, error = figures(mean, scale)
        assert abs(float(shown) - mean) <= max(0.051 * scale, 0.5)
        assert float(error) == pytest.approx(scale, rel=0.051)


def test_it_needs_nothing_beside_it(run: Path) -> None:
    make_results(run)
    content = report(run).read_text()
    page = Page(content)
    for _, attributes in page.tags:
        for name in {"src", "href", "srcset", "data", "poster", "action"} & attributes.keys():
            assert str(attributes[name]).startswith("data:image/png;base64,")
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    style = content[content.index("<style>") : content.index("</style>")]
    assert len(style) > 1000
    assert "url(" not in style
    assert "@import" not in style
    for needed in ("prefers-color-scheme: dark", "@media print", "overflow-x: auto", "image-rendering: pixelated"):
        assert needed in style
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")


def test_pictures_are_the_newest_of_each_kind_and_decode(run: Path) -> None:
    images = Page(report(run).read_text()).all("img")
    shown = {}
    for image in images:
        content = base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,"), validate=True)
        with Image.open(io.BytesIO(content)) as decoded:
            assert decoded.format == "PNG"
            shown[image["alt"]] = (decoded.getpixel((0, 0)), decoded.size, image.get("class"), image["width"])
    assert shown == {
        "Training and validation over steps": (1, (1200, 420), None, "1200"),
        "<kind>, epoch 1": (9, (20, 10), "small", "520"),
        "Samples from the prior, epoch 10000": (5 + 10000 % 7, (20, 10), "small", "520"),
        "Samples from the prior": (2, (20, 10), "small", "520"),
        CAPTIONS["neighbours"]: (4, (20, 10), "small", "520"),
    }


def test_what_users_write_is_escaped(run: Path) -> None:
    make_results(run)
    content = report(run).read_text()
    page = Page(content)
    assert "<script" not in content.lower()
    assert page.words.count("runs/<script>") == 2  # the title and the heading
    assert f"note: {HOSTILE}" in page.words
    assert f"Do not trust {HOSTILE}." in page.words
    assert "<b>" not in content
    assert unescape("&lt;i&gt;") in page.words


def test_data_and_environment(run: Path) -> None:
    words = Page(report(run).read_text()).words
    for word in (
        "1237",
        "200",
        "360",
        "17",
        "26b05415",
        "1 \N{MULTIPLICATION SIGN} 8",
        "e87353d",
        "git dirtyyes",
        "vae-lightning fit -c",
    ):
        assert word in words
    assert "98765" not in words


def test_an_untested_run_says_what_to_do(tmp_path: Path) -> None:
    run = make_run(tmp_path / "my run")
    words = Page(report(run).read_text()).words
    assert f"This run has not been tested: run vae-lightning test --ckpt_path '{run}'" in words
    assert "Tested" not in words


def test_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: expected the folder of a run, got nothing there: [^\n]*\.$"):
        report(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"got a folder without config\.yaml"):
        report(tmp_path)
    assert not (tmp_path / "report.html").exists()
    (run / "run.json").write_text('{"data": ')
    with pytest.raises(ValueError, match=r"run\.json: expected what fit has written"):
        report(run)
