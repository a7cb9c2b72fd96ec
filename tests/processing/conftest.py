"""A slide for tests of its way through the worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.slides_on_disk import write_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "discs.mrxs"
    write_slide(path)
    return path
