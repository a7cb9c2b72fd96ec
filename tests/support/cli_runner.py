"""Commands as users give them, and the tables that they leave."""

from __future__ import annotations

import csv
import functools
from pathlib import Path

import typer.testing
from typer.testing import CliRunner, Result

from fossilray.cli.main import app

# The runner builds all commands anew at each call, which takes longer than most commands.
typer.testing._get_command = functools.cache(typer.main.get_command)


def run_command(*words: object) -> str:
    """Run a command that succeeds, and return its output; an error is raised as it is."""
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def invoke(*words: object, columns: int | None = None) -> Result:
    """Run a command that may fail, and return its exit code, output and error. columns: width of the terminal."""
    env = None if columns is None else {"COLUMNS": str(columns)}
    return CliRunner().invoke(app, [str(word) for word in words], env=env)


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
