"""Commands that print tables, at the widths of terminals and piped: every number and every word is whole."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from support.cli_runner import run_command
from support.small_run import write_small_run

from fossilray.cli import maintain, output, results
from fossilray.core.errors import UsageError
from fossilray.core.text_table import PIPED_WIDTH

COUNTS = """
SELECT well, count(*) AS objects, 1942 AS year_of_the_well, sum(area_um2) AS area_of_all_objects_um2,
  max(x_max) AS rightmost_px, 6407123.25 AS utm_northing_m, min(slide_id) AS first_slide, max(slide_id) AS last_slide
FROM objects GROUP BY well
"""
WIDTHS = [40, 80, 200, PIPED_WIDTH]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_small_run(tmp_path_factory.mktemp("small") / "run").url


@pytest.fixture
def console(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Console:
    """A console of the width that a test names, which replaces that of the commands."""
    made = Console(file=io.StringIO(), width=request.param)
    for module in (results, maintain, output):
        monkeypatch.setattr(module, "out", made)
    return made


def text_of(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("console", WIDTHS, indirect=True)
@pytest.mark.parametrize("sql", [COUNTS, "SELECT * FROM objects LIMIT 3", "SELECT * FROM slides"])
def test_query_prints_every_cell_whole(sql: str, console: Console, small_run: str) -> None:
    rows = list(csv.reader(io.StringIO(run_command("query", small_run, sql, "--format", "csv"))))
    run_command("query", small_run, sql)
    text = text_of(console)
    assert all(cell_len(line) <= console.width for line in text.splitlines())
    words = set(text.split())
    whole_numbers = {cell for row in rows[1:] for cell in row if cell.isdecimal()}
    assert whole_numbers
    assert whole_numbers <= words
    for name in rows[0]:
        assert name in "".join(text.split())


@pytest.mark.parametrize("console", WIDTHS, indirect=True)
def test_failures_and_status_print_every_word_whole(console: Console, small_run: str) -> None:
    failures = list(csv.DictReader(io.StringIO(run_command("failures", small_run, "--format", "csv"))))
    run_command("failures", small_run)
    run_command("status", small_run)
    words = text_of(console).split()
    assert len(failures) == 2
    for failure in failures:
        assert {failure["slide_id"], failure["state"], failure["error"]} <= set(words)
        assert set(failure["message"].split()) <= set(words)
    assert "77" in words


def test_query_and_failures_write_a_file_of_each_format_by_its_suffix_or_by_name(
    small_run: str, tmp_path: Path
) -> None:
    for command in (("query", small_run, "SELECT 1942 AS n"), ("failures", small_run)):
        for form, start in (("csv", b'"'), ("json", b"["), ("parquet", b"PAR1")):
            by_suffix, by_name = tmp_path / f"{command[0]}.{form}", tmp_path / f"{command[0]}-{form}.txt"
            run_command(*command, "--out", by_suffix)
            run_command(*command, "--format", form, "--out", by_name)
            assert by_suffix.read_bytes().startswith(start)
            assert by_suffix.read_bytes() == by_name.read_bytes()
        with pytest.raises(UsageError, match="give --format"):
            run_command(*command, "--out", tmp_path / "table.txt")
