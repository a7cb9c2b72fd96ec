"""Types are checked while the tests run that come first; the check takes half a minute of one core."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TYPES = pytest.StashKey[subprocess.Popen[str]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    asked = any(item.name == "test_types_hold" for item in session.items)
    if asked and not session.config.option.collectonly:
        session.config.stash[TYPES] = subprocess.Popen(
            ["nice", sys.executable, "-m", "mypy"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
