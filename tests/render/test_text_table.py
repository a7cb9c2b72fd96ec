"""Tables for the terminal: every cell whole, at every width and without a terminal."""

from __future__ import annotations

import decimal
import io
import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from fossilray.core.text import format_cell
from fossilray.core.text_table import PIPED_WIDTH, TextColumn, TextTable, open_console
from fossilray.render.tables import print_table

words = st.text("abcdefghij0123456789-_/.ø深", min_size=1, max_size=45)
texts = st.lists(words, max_size=12).map(" ".join)
numbers = st.integers(-(10**17), 10**17).map(str)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[TextColumn], list[list[str]]]:
    columns = [TextColumn(draw(words), is_number=draw(st.booleans())) for _ in range(draw(st.integers(1, 9)))]
    rows = draw(st.integers(0, 4))
    return columns, [[draw(numbers if one.is_number else texts) for one in columns] for _ in range(rows)]


def shown(columns: list[TextColumn], rows: list[list[str]], width: int) -> list[str]:
    table = TextTable(*columns)
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@given(table=tables(), width=st.integers(40, 200) | st.just(PIPED_WIDTH))
@settings(max_examples=200, deadline=None)
def test_every_cell_appears_whole(table: tuple[list[TextColumn], list[list[str]]], width: int) -> None:
    columns, rows = table
    lines = shown(columns, rows, width)
    assert all(cell_len(line) <= width for line in lines)
    without_spaces = "".join("".join(lines).split())
    for word in [word for row in rows for cell in row for word in cell.split()]:
        # A word that no line can hold continues on the next line.
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
    columns = [TextColumn(f"name_{number}") for number in range(12)]
    lines = shown(columns, [[f"value-{number}" for number in range(12)]] * 2, 60)
    assert sum(line.startswith(("1 -", "2 -")) for line in lines) == 2
    assert sum(line.split() == ["name_7", "value-7"] for line in lines) == 2


def test_text_is_folded_between_words_before_a_table_is_given_up() -> None:
    reason = "the slide cannot be read because a file beside it is missing " * 2
    lines = shown([TextColumn("slide"), TextColumn("reason")], [["A17-0123456789ab", reason]], 60)
    assert lines[0].split() == ["slide", "reason"]
    assert " ".join(" ".join(lines[1:]).split()) == f"A17-0123456789ab {reason.strip()}"


WIDTHS = (10, 40, 80, 200, PIPED_WIDTH)


def printed(table: pa.Table, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_table(table, console=console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_number_of_a_wide_result_is_whole_at_every_width(width: int) -> None:
    """What `fossilray query` printed as `19` on 80 columns."""
    names = ["slide_id", "well", "objects", *(f"measure_{number}_um" for number in range(20))]
    values = ["6407_6-5_2030_mDC", "6407/6-5", 1942, *(1942.25 + number for number in range(20))]
    text = printed(pa.table({name: [value] for name, value in zip(names, values, strict=True)}), width)
    words = text.split()
    assert all(str(value) in words for value in values[1:])
    assert all(name in "".join(words) for name in names)
    assert all(cell_len(line) <= width for line in text.splitlines())


@pytest.mark.parametrize("width", [10, 40, 80, 200])
def test_a_number_wider_than_the_terminal_continues_on_the_next_line(width: int) -> None:
    number = decimal.Decimal(10**37 + 1942)
    text = printed(pa.table({"n": pa.array([number], pa.decimal128(38, 0))}), width)
    assert str(number) in "".join(text.split())


@pytest.mark.parametrize("width", WIDTHS)
def test_hundreds_of_columns_are_records_on_a_terminal_and_one_line_without(width: int) -> None:
    table = pa.table({f"column_{number}": [number, number + 10**9] for number in range(400)})
    lines = printed(table, width).splitlines()
    if width == PIPED_WIDTH:
        header, first, second, count = lines
        assert header.split() == table.column_names
        assert first.split() == [str(number) for number in range(400)]
        assert second.split() == [str(number + 10**9) for number in range(400)]
        assert count == "2 rows"
    else:
        assert sum(line.startswith(("1 -", "2 -")) for line in lines) == 2
        assert sum("1000000399" in line for line in lines) == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_wide_characters_are_whole_and_columns_stay_in_line(width: int) -> None:
    table = pa.table({"属名": ["花粉化石", "Ålesund №1 «ø»"], "objects": [1942, 7], "note": ["深度", "x"]})
    text = printed(table, width)
    lines = text.splitlines()
    assert all(cell_len(line) <= width for line in lines)
    assert "花粉化石" in "".join(text.split())
    assert "1942" in text.split()
    if width >= 40:
        ends = [
            cell_len(line.partition(number)[0] + number)
            for line, number in zip(lines[1:], ("1942", "7"), strict=False)
        ]
        assert ends[0] == ends[1]


@pytest.mark.parametrize("width", [40, 80])
def test_long_text_is_folded_and_no_word_is_lost(width: int) -> None:
    reason = " ".join(f"word-{number}" for number in range(60))
    address = "s3://archive/" + "a-very-long-folder/" * 10 + "slide.mrxs"
    text = printed(pa.table({"slide": ["A17"], "reason": [reason], "address": [address]}), width)
    assert all(word in text.split() for word in reason.split())
    assert address in "".join(text.split())


def test_columns_of_one_name_are_all_printed() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"])
    for width in (80, PIPED_WIDTH):
        assert printed(table, width).split()[:4] == ["n", "n", "1", "2"]


def test_names_and_cells_are_never_read_as_markup() -> None:
    table = pa.table({"[bold]x": ["[/]", ":warning:"], "y" * 70: ["a", "b"]})
    for width in (40, 80, PIPED_WIDTH):
        text = printed(table, width)
        assert "[bold]x" in text
        assert "[/]" in text
        assert ":warning:" in text


def test_long_results_are_cut_on_a_terminal_with_a_sign_and_whole_without_one() -> None:
    table = pa.table({"n": list(range(5000))})
    on_terminal = printed(table, 80).splitlines()
    assert len(on_terminal) == 202
    assert on_terminal[-1] == "… and 4,800 more rows; --format csv prints all of them"
    piped = printed(table, PIPED_WIDTH).splitlines()
    assert [int(line) for line in piped[1:-1]] == list(range(5000))


def test_nested_and_missing_values_are_whole() -> None:
    table = pa.table({"list": [[1942, 1943], None], "struct": [{"a": 1942}, None]})
    for width in (40, 80, PIPED_WIDTH):
        text = printed(table, width)
        assert "[1942, 1943]" in text
        assert "{'a': 1942}" in text
        assert text.count("–") == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (6407123.25, "6407123.25"),
        (123456.789, "123456.789"),
        (2030.0, "2030"),
        (38.775974025974026, "38.77597"),
        (12345678.123456789, "12345678"),
        (1e20, "100000000000000000000"),
        (float("nan"), "nan"),
        (-0.1, "-0.1"),
    ],
)
def test_floats_are_printed_in_full_up_to_twelve_digits(value: float, text: str) -> None:
    assert format_cell(value) == text
