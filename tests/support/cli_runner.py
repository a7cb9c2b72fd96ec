"""Commands as users give them, and the tables that they leave."""

from __future__ import annotations

import csv
from pathlib import Path

from typer.testing import CliRunner

from fossilray.cli.main import app


def run(*words: str | Path) -> str:
    """What a command prints that succeeds."""
    answer = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.output


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
