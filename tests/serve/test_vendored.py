"""Files of `static/vendor` are those of fixed versions, with their licences; pages ask other servers for nothing."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import pytest

from fossilray.serve.application import STATIC

sys.path.insert(0, str(Path(__file__).parents[2] / "requirements"))

import fetch_vendored


@pytest.mark.parametrize("file", fetch_vendored.FILES, ids=lambda file: file.name)
def test_a_file_has_its_digest(file: fetch_vendored.Vendored) -> None:
    assert hashlib.sha256((fetch_vendored.FOLDER / file.name).read_bytes()).hexdigest() == file.sha256


def test_nothing_else_is_vendored() -> None:
    assert {path.name for path in fetch_vendored.FOLDER.iterdir()} == {
        file.name for file in fetch_vendored.FILES
    }


def test_pages_load_nothing_from_other_servers() -> None:
    own = [path for path in STATIC.iterdir() if path.suffix in (".html", ".js", ".css")]
    assert len(own) > 10
    for path in own:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org", "")
        assert not re.search(r"https?://|//cdn|import\(['\"]http", text), path.name
