"""The documentation as pages, built without a network: links, anchors, images and tables are what they seem."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.conftest import REPOSITORY

DOCS = sorted((REPOSITORY / "docs").glob("*.md"))
LONGEST_PARAGRAPH = 1200
"""Characters of prose without a break."""


class Page(HTMLParser):
    """What a built page points to, what can be pointed at in it, and its text outside of code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.text, self._code = "", 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {str(found[name]) for name in ("id", "name") if name in found}
        self.links += [str(found[name]) for name in ("href", "src") if found.get(name) and tag in ("a", "img")]
        self._code += tag in ("code", "script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("code", "script", "style")

    def handle_data(self, data: str) -> None:
        self.text += "" if self._code else data


def build(folder: Path, site: Path) -> dict[str, Page]:
    """The pages of a checkout's docs/, by name; raises mkdocs' Abort where something in them leads nowhere."""
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install 'vae-lightning[docs]'")
    from mkdocs.commands.build import build as build_pages
    from mkdocs.config import load_config

    config: Any = load_config(str(folder / "mkdocs.yml"), site_dir=str(site))
    assert config.strict
    build_pages(config)
    return {path.name: Page(path.read_text()) for path in site.glob("*.html")}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    return build(REPOSITORY, tmp_path_factory.mktemp("site"))


def outside(link: str) -> bool:
    return urlsplit(link).scheme in ("http", "https", "mailto")


def test_every_page_is_built_and_leads_somewhere(pages: dict[str, Page], tmp_path: Path) -> None:
    assert {path.stem for path in DOCS} == {Path(name).stem for name in pages} - {"404"}
    for name, page in pages.items():
        if name == "404.html":
            continue
        assert len(page.links) > len(DOCS)  # the navigation alone has as many
        for link in page.links:
            parts = urlsplit(link)
            if outside(link) or not (parts.path or parts.fragment):
                continue
            target = parts.path or name
            if target.endswith(".html"):
                assert target in pages, f"{name}: {link}"
                assert not parts.fragment or unquote(parts.fragment) in pages[target].anchors, f"{name}: {link}"
            else:
                assert target.startswith("assets/") or (REPOSITORY / "docs" / target).is_file(), f"{name}: {link}"


def test_tables_are_tables(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert "|--" not in page.text, f"{name}: a table that is not indented by four spaces in its list is no table"


def test_the_readme_leads_somewhere(pages: dict[str, Page]) -> None:
    readme = (REPOSITORY / "README.md").read_text()
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in re.findall("^#.*", readme, re.M)
    }
    links = re.findall(r"\]\(([^)]+)\)", readme)
    assert len(links) > 10
    for link in links:
        parts = urlsplit(link)
        if outside(link):
            continue
        if not parts.path:
            assert parts.fragment in headings, link
            continue
        assert (REPOSITORY / parts.path).is_file(), link
        if parts.fragment:
            assert parts.fragment in pages[f"{Path(parts.path).stem}.html"].anchors, link


def test_what_leads_nowhere_ends_the_build(tmp_path: Path) -> None:
    exceptions = pytest.importorskip("mkdocs.exceptions", reason="mkdocs is not installed")
    shutil.copy(REPOSITORY / "mkdocs.yml", tmp_path)
    shutil.copytree(REPOSITORY / "docs", tmp_path / "docs")
    bad = ("[x](nowhere.md)", "[x](results.md#nowhere)", "![x](images/nowhere.png)", "[x](/results.md)")
    with (tmp_path / "docs" / "index.md").open("a") as page:
        page.write("\n" + "\n".join(bad) + "\n")
    (tmp_path / "docs" / "unlisted.md").write_text("No navigation leads here.")
    with pytest.raises(exceptions.Abort, match=f"{len(bad) + 1} warnings"):
        build(tmp_path, tmp_path / "site")


def test_what_is_built_is_not_committed() -> None:
    config = (REPOSITORY / "mkdocs.yml").read_text()
    site = re.search(r"^site_dir: (\S+)$", config, re.M).group(1)
    ignored = (REPOSITORY / ".gitignore").read_text().split()
    assert f"/{site.partition('/')[0]}/" in ignored


def prose(text: str) -> list[str]:
    """The paragraphs and list items of a Markdown file, without code, tables, headings and the addresses of links."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text)
    return [
        " ".join(block.split())
        for block in blocks
        if not block.lstrip().startswith(("|", "#", "!")) and not block.startswith("    ")
    ]


@pytest.mark.parametrize("path", [REPOSITORY / "README.md", *DOCS], ids=lambda path: path.name)
def test_paragraphs_are_short_and_stand_once(path: Path) -> None:
    found = prose(path.read_text())
    for paragraph in found:
        assert len(paragraph) <= LONGEST_PARAGRAPH, f"{path.name}: {len(paragraph)} characters: {paragraph[:80]} ..."
    long = [paragraph for paragraph in found if len(paragraph) > 100]
    assert len(long) == len(set(long)), f"{path.name}: a paragraph stands twice"


def test_the_readmes_tables_fit_a_screen() -> None:
    for line in (REPOSITORY / "README.md").read_text().splitlines():
        assert not line.startswith("|") or len(line) <= 110, f"{len(line)} characters: {line}"
