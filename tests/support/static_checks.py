"""The type check runs beside the tests that come first; it takes half a minute of one core."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fossilray"
_CHECK = pytest.StashKey["subprocess.Popen[str]"]()


def modules() -> list[Path]:
    """The files of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def pytest_collection_finish(session: pytest.Session) -> None:
    # Each process of pytest-xdist collects every test, and only one of them runs the check.
    in_worker = hasattr(session.config, "workerinput")
    wanted = any(item.name == "test_types_hold" for item in session.items)
    if wanted and not in_worker and not session.config.option.collectonly:
        session.config.stash[_CHECK] = start_type_check()


def start_type_check() -> subprocess.Popen[str]:
    """Start mypy at the lowest priority."""
    return subprocess.Popen(
        ["nice", sys.executable, "-m", "mypy"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def type_check(config: pytest.Config) -> subprocess.Popen[str]:
    """Return the check that runs already, or start it."""
    if _CHECK not in config.stash:
        config.stash[_CHECK] = start_type_check()
    return config.stash[_CHECK]
