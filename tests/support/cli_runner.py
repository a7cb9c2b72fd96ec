"""Commands as users give them, and the tables that they leave."""

from __future__ import annotations

import csv
from pathlib import Path

from typer.testing import CliRunner, Result

from fossilray.cli.main import app


def run(*words: str | Path) -> str:
    """Run a command that succeeds, and return its output."""
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def invoke(*words: object) -> Result:
    """Run a command that may fail, and return its exit code and output."""
    return CliRunner().invoke(app, [str(word) for word in words])


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
