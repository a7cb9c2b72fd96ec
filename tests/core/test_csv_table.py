"""CSV tables that people and spreadsheets make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fossilray.core.csv_table import CsvTable, parse_csv_table, read_csv_table
from fossilray.core.errors import CatalogError, UsageError
from fossilray.core.formats import FileRole

ROLE = FileRole("depths.csv", "depths of slides", "correct it", UsageError)


def parse(text: str, *columns: str, optional: tuple[str, ...] | None = None) -> CsvTable:
    return parse_csv_table(text.encode(), ROLE, columns=columns, optional=optional)


@pytest.mark.parametrize(
    "text",
    [
        "slide_id,depth,note\na-1,10.5,x\n",
        "\ufeffslide_id;depth;note\r\na-1;10,5;x\r\n;;\r\n",
        "slide_id\tdepth\tnote\ra-1\t10,5\tx\r",
        "sep=;\nslide_id;depth;note\na-1;10,5;x\n",
        '\n\nSlide_ID ,"depth;of,core", Depth\n\n a-1 , y , 10.5 ',
        "slide_id;depth;note,with,many,commas\na-1;10.5\n".replace("note,with,many,commas", '"a,b,c,d"'),
    ],
)
def test_separators_decimal_commas_marks_and_blank_lines_of_spreadsheets_are_read(text: str) -> None:
    (row,) = parse(text, "slide_id", "depth").rows
    assert (row["slide_id"], row.number("depth")) == ("a-1", 10.5)


def test_cells_are_found_by_name_and_lacking_ones_are_empty() -> None:
    table = parse("a,b,c\n1,2\n\n3\n", "a")
    assert [(row.line, row["a"], row["b"], row["absent"], row.number("b")) for row in table.rows] == [
        (2, "1", "2", "", 2.0),
        (4, "3", "", "", None),
    ]
    assert table.first_of(("x", "B")) == "B"
    assert table.has("a", "c")
    assert not table.has("a", "x")


def test_the_apostrophe_before_a_formula_is_removed() -> None:
    (row,) = parse("slide_id,depth\n'=1+1,'-5\n").rows
    assert (row["slide_id"], row.number("depth")) == ("=1+1", -5)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it has no column slide_id, depth; its columns: none"),
        ("slide_id,note\n", "it has no column depth; its columns: slide_id, note"),
        ("slide_id,depth,odd\n", "it has the column 'odd'; known are slide_id, depth, note"),
        ("slide_id,depth,Depth\n", "it has the column 'depth' twice"),
        ("slide_id,depth,\na,1,x\n", "line 2 has a value in a column without a name"),
        ("slide_id,depth\na,1\nb,1,5\n", "line 3: 3 values for 2 columns"),
        ('slide_id,depth\na,"1\n', "line 2: unexpected end of data"),
        ("slide_id,depth\na," + "1" * 200_000, "field larger"),
        ("," * 10_000, "columns"),
    ],
)
def test_faults_name_file_line_and_column(text: str, fault: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, "slide_id", "depth", optional=("note",))
    assert str(caught.value).startswith("depths.csv (depths of slides) cannot be used: ")
    assert fault in str(caught.value)
    assert str(caught.value).endswith("; correct it")


@pytest.mark.parametrize("cell", ["deep", "nan", "inf", "1_000", "1.234,5", "0x10", '"10,5"'])
def test_what_is_no_number_is_named_with_its_line(cell: str) -> None:
    (row,) = parse(f"slide_id,depth\na,{cell}\n" if '"' in cell else f"slide_id;depth\na;{cell}\n").rows
    with pytest.raises(UsageError, match=r"line 2: depth is .*, not a number"):
        row.number("depth")


def test_whole_numbers_and_numbers_of_objects() -> None:
    (row,) = parse("a;b;c\n12,0;1,5;-3\n").rows
    assert row.whole_number("a") == 12
    for column in "bc":
        with pytest.raises(UsageError, match=f"{column} is '.*', not a whole number"):
            row.object_id(column)
    with pytest.raises(UsageError, match=r"b is '1,5', not a whole number"):
        row.whole_number("b")


def test_a_table_in_another_encoding_is_refused() -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        parse_csv_table("Smørbukk".encode("cp1252"), ROLE, columns=())


def test_huge_and_endless_files_are_refused_by_name(tmp_path: Path) -> None:
    huge = tmp_path / "huge.csv"
    with huge.open("wb") as file:
        file.truncate(2**40)
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    for path, reason in ((huge, "more than 512 MiB"), (pipe, "it is a pipe"), (tmp_path, "it is a folder")):
        with pytest.raises(CatalogError, match=rf"{path} \(a list\) cannot be used: .*{reason}"):
            read_csv_table(path, use="a list", columns=(), error=CatalogError)
    with pytest.raises(UsageError, match=r"cannot be used: No such file or directory"):
        read_csv_table(tmp_path / "missing.csv", use="a list", columns=())
