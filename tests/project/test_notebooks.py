"""The notebooks of docs/, run from the first cell to the last in a new folder."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from project.test_docs import reference

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "docs" / "notebooks"
IN_THEIR_ORDER = ("first-hour", "labels-to-range-chart")


def test_every_notebook_is_among_those_that_are_run() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(IN_THEIR_ORDER)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_notebooks_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Their commands are those of this Python.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in IN_THEIR_ORDER:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_notebooks_and_pages_use_the_public_api_alone() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *NOTEBOOKS.glob("*.ipynb")]
    private = [
        f"{page.relative_to(ROOT)}: {line}"
        for page in pages
        for line in re.findall(r"(?:from|import) fossilray\.[\w.]+", page.read_text(encoding="utf-8"))
    ]
    assert not private


@pytest.mark.parametrize("name", IN_THEIR_ORDER)
def test_commands_in_notebooks_are_real_ones(name: str) -> None:
    known = dict(reference().commands_by_name())
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        for line in cell.source.splitlines():
            if line.startswith("fossilray "):
                words = line.split()
                assert words[1] in known or " ".join(words[1:3]) in known, line
