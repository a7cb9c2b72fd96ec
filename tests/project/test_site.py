"""The documentation site: built strictly, without orphans, and complete without any other host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from support.static_checks import ROOT

LOADED = {
    ("script", "src"),
    ("img", "src"),
    ("source", "src"),
    ("iframe", "src"),
    ("video", "src"),
    ("link", "href"),
}
"""Attributes that a browser follows without being asked to."""
LINKS_ONLY = {"canonical", "next", "prev", "edit"}
"""Relations of `<link>` that name a page and load nothing."""


class PageReader(HTMLParser):
    """Collect what a page loads and where it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for attribute in ("src", "href"):
            url = values.get(attribute)
            if url is None:
                continue
            if (tag, attribute) in LOADED and values.get("rel") not in LINKS_ONLY:
                self.loaded.append(url)
            elif tag == "a":
                self.links.append(url)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_the_site_holds_every_page_of_docs(site: Path) -> None:
    docs = ROOT / "docs"
    for page in [*docs.rglob("*.md"), *docs.rglob("*.ipynb")]:
        assert (site / page.relative_to(docs)).with_suffix(".html").is_file(), page


def test_pages_load_nothing_from_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for url in PageReader(text).loaded:
            assert not urlsplit(url).netloc, f"{page.relative_to(site)} loads {url}"
        assert not re.search(r"url\(\s*[\"']?(https?:)?//", text), page
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", text), sheet


def test_every_page_is_linked_from_the_text_or_navigation_of_the_first_one(site: Path) -> None:
    reached, waiting = set(), [site / "index.html"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in PageReader(page.read_text(encoding="utf-8")).links:
            path = unquote(urlsplit(link).path)
            if path.endswith(".html") and not urlsplit(link).netloc:
                waiting.append((page.parent / path).resolve())
    assert reached >= {page.resolve() for page in site.rglob("*.html") if page.name != "404.html"}


def test_every_page_belongs_to_a_reader(site: Path) -> None:
    """Each page that people wrote has its line on the front page, apart from those of the repository."""
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([^)#]+)", text))
    docs = ROOT / "docs"
    generated = {docs / "reference" / "commands", docs / "reference" / "configuration"}
    for page in [*docs.rglob("*.md"), *docs.rglob("*.ipynb")]:
        if page.parent not in generated and page != docs / "index.md":
            assert str(page.relative_to(docs)) in linked, (
                f"docs/index.md has no link to {page.relative_to(docs)}"
            )


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n[gone](gone.md)\n", encoding="utf-8")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    settings = re.sub(r"^hooks:\n.*\n", "", settings, flags=re.MULTILINE)
    (tmp_path / "mkdocs.yml").write_text(settings.partition("\n# A folder")[0], encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "gone.md" in result.stderr
