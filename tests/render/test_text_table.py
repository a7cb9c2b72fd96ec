"""Tables for the terminal: every cell whole, at every width and without a terminal."""

from __future__ import annotations

import io
import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from fossilray.core.text_table import PIPED_WIDTH, Column, TextTable, open_console, print_table

words = st.text("abcdefghij0123456789-_/.ø深", min_size=1, max_size=45)
texts = st.lists(words, max_size=12).map(" ".join)
numbers = st.integers(-(10**17), 10**17).map(str)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Column], list[list[str]]]:
    columns = [Column(draw(words), is_number=draw(st.booleans())) for _ in range(draw(st.integers(1, 9)))]
    rows = draw(st.integers(0, 4))
    return columns, [[draw(numbers if one.is_number else texts) for one in columns] for _ in range(rows)]


def shown(columns: list[Column], rows: list[list[str]], width: int) -> list[str]:
    table = TextTable(*columns)
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@given(table=tables(), width=st.integers(40, 200) | st.just(PIPED_WIDTH))
@settings(max_examples=200, deadline=None)
def test_every_cell_appears_whole(table: tuple[list[Column], list[list[str]]], width: int) -> None:
    columns, rows = table
    lines = shown(columns, rows, width)
    assert all(cell_len(line) <= width for line in lines)
    without_spaces = "".join("".join(lines).split())
    for word in [word for row in rows for cell in row for word in cell.split()]:
        # What no line can hold goes on in the next one.
        assert in_lines(word, lines) if cell_len(word) <= width else word in without_spaces, (word, lines)
    if len(lines) == len(rows) + 1:  # beside each other
        for row, line in zip(rows, lines[1:], strict=True):
            assert line.split() == [word for cell in row for word in cell.split()]


def in_lines(cell: str, lines: list[str]) -> bool:
    return any(re.search(rf"(^|\s){re.escape(cell)}(\s|$)", line) for line in lines)


def test_without_a_terminal_lines_are_as_long_as_their_cells(capsys: pytest.CaptureFixture[str]) -> None:
    many = pa.table({f"column_{number}": [number * 10**12] for number in range(60)})
    print_table(many, console=open_console())
    header, cells, _ = capsys.readouterr().out.splitlines()
    assert header.split() == many.column_names
    assert cells.split() == [str(number * 10**12) for number in range(60)]


def test_numbers_keep_the_digits_that_they_have() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_table(pa.table({"depth_m": [2030.55, 4567.25], "n": [1942, 10**12]}), console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for number in ("2030.55", "4567.25", "1942", "1000000000000"):
        assert re.search(rf"\b{number}\b", text)


def test_what_does_not_fit_beside_each_other_is_a_record_for_each_row() -> None:
    columns = [Column(f"name_{number}") for number in range(12)]
    lines = shown(columns, [[f"value-{number}" for number in range(12)]] * 2, 60)
    assert sum(line.startswith(("1 -", "2 -")) for line in lines) == 2
    assert sum(line.split() == ["name_7", "value-7"] for line in lines) == 2


def test_text_is_folded_between_words_before_a_table_is_given_up() -> None:
    reason = "the slide cannot be read because a file beside it is missing " * 2
    lines = shown([Column("slide"), Column("reason")], [["A17-0123456789ab", reason]], 60)
    assert lines[0].split() == ["slide", "reason"]
    assert " ".join(" ".join(lines[1:]).split()) == f"A17-0123456789ab {reason.strip()}"
