"""Tables that people and spreadsheets make, in every format and encoding."""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path

import pytest

from fossilray.core.errors import CatalogError, UsageError
from fossilray.core.formats import FileRole
from fossilray.core.table_rows import UserTable
from fossilray.core.user_table import parse_user_table, read_user_table

ROLE = FileRole("depths.csv", "depths of slides", "correct it", UsageError)


def parse(text: str, *columns: str, optional: tuple[str, ...] | None = None) -> UserTable:
    return parse_user_table(text.encode(), ROLE, columns=columns, optional=optional)


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
        ("slide_id,depth,\na,1,x\n", "line 2: a value in a column without a name"),
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


@pytest.mark.parametrize("cell", ["deep", "nan", "inf", "1_000", "1.23,5", "0x10", "2030 m", "1,2,3"])
def test_what_is_no_number_is_named_with_its_line(cell: str) -> None:
    (row,) = parse(f"slide_id;depth\na;{cell}\n").rows
    with pytest.raises(UsageError, match=r"line 2: depth is .*, not a number"):
        row.number("depth")


def test_whole_numbers_and_numbers_of_objects() -> None:
    (row,) = parse("a;b;c\n12,0;1,5;-3\n").rows
    assert row.number("a", whole=True) == 12
    for column in "bc":
        with pytest.raises(UsageError, match=f"{column} is '.*', not a whole number"):
            row.object_id(column)
    with pytest.raises(UsageError, match=r"b is '1,5', not a whole number"):
        row.number("b", whole=True)


NAMES = "slide_id;depth\r\nBrønn Å;10,5\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"])
def test_every_encoding_in_which_a_spreadsheet_saves_is_read(encoding: str) -> None:
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    (row,) = parse_user_table(mark + NAMES.encode(encoding), ROLE, columns=("slide_id",)).rows
    assert (row["slide_id"], row.number("depth")) == ("Brønn Å", 10.5)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (NAMES.encode("cp1252") + "Ærø;3".encode(), "line 2 is not UTF-8, and line 3 is"),
        (b"slide_id;depth\n\x81;1\n", "line 2 has the byte 81, which is neither UTF-8 nor Windows-1252"),
        (NAMES.encode("utf-16-le"), "line 1 has a NUL character"),
        (codecs.BOM_UTF16_LE + b"a", "it is not UTF-16-LE, as it claims"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Excel (.xls) or under a password; save it as .xlsx"),
    ],
)
def test_what_is_in_no_such_encoding_is_refused_by_line(content: bytes, fault: str) -> None:
    with pytest.raises(UsageError, match=re.escape(fault)):
        parse_user_table(content, ROLE, columns=())


def test_huge_and_endless_files_are_refused_by_name(tmp_path: Path) -> None:
    huge = tmp_path / "huge.csv"
    with huge.open("wb") as file:
        file.truncate(2**40)
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    for path, reason in ((huge, "more than 512 MiB"), (pipe, "it is a pipe"), (tmp_path, "it is a folder")):
        with pytest.raises(CatalogError, match=rf"{path} \(a list\) cannot be used: .*{reason}"):
            read_user_table(path, use="a list", columns=(), error=CatalogError)
    with pytest.raises(UsageError, match=r"cannot be used: No such file or directory"):
        read_user_table(tmp_path / "missing.csv", use="a list", columns=())
