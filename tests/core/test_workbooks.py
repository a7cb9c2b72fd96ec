"""Excel and OpenDocument workbooks as tables: values, refusals by cell, bounds."""

from __future__ import annotations

import datetime
import io
import re
import zipfile
from collections.abc import Sequence

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from python_calamine import CalamineWorkbook

from fossilray.core.errors import UsageError
from fossilray.core.formats import FileRole, sheets
from fossilray.core.formats.ods import ODS_MIMETYPE, write_ods
from fossilray.core.formats.xlsx import write_xlsx
from fossilray.core.table_rows import UserTable
from fossilray.core.user_table import parse_user_table

ROLE = FileRole("wells.xlsx", "depths of slides", "correct it", UsageError)
OFFICE = (
    '<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
    'xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" '
    'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0" '
    'xmlns:style="urn:oasis:names:tc:opendocument:xmlns:style:1.0" '
    'xmlns:calcext="urn:org:documentfoundation:names:experimental:calc:xmlns:calcext:1.0">'
)


def parse(content: bytes, *columns: str) -> UserTable:
    return parse_user_table(content, ROLE, columns=columns)


def excel(*rows: Sequence[object], **other_sheets: Sequence[Sequence[object]]) -> openpyxl.Workbook:
    book = openpyxl.Workbook()
    book.active.title = "Sheet 1"
    for row in rows:
        book.active.append(row)
    for name, lines in other_sheets.items():
        sheet = book.create_sheet(name)
        for line in lines:
            sheet.append(line)
    return book


def saved(book: openpyxl.Workbook) -> bytes:
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


def ods(*rows: str, styles: str = "", name: str = "Ark1", more: str = "") -> bytes:
    """A spreadsheet of rows in XML, as LibreOffice writes them."""
    document = (
        f"{OFFICE}<office:automatic-styles>{styles}</office:automatic-styles><office:body><office:spreadsheet>"
        f'<table:table table:name="{name}">{"".join(rows)}</table:table>{more}</office:spreadsheet></office:body>'
        "</office:document-content>"
    )
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("mimetype", ODS_MIMETYPE)
        archive.writestr("content.xml", document)
    return sink.getvalue()


def ods_row(*cells: str, repeated: int = 1) -> str:
    return f'<table:table-row table:number-rows-repeated="{repeated}">{"".join(cells)}</table:table-row>'


def text(value: str) -> str:
    return f'<table:table-cell office:value-type="string"><text:p>{value}</text:p></table:table-cell>'


def number(value: float) -> str:
    return f'<table:table-cell office:value-type="float" office:value="{value}"><text:p>x</text:p></table:table-cell>'


HEADER = ods_row(text("slide_id"), text("depth"))
TAIL = ods_row('<table:table-cell table:number-columns-repeated="16384"/>', repeated=1_048_000)


def test_an_excel_sheet_is_read_with_gaps_and_empty_rows() -> None:
    book = excel(
        ["Slide_ID", None, "depth "], [], ["a-1", None, 2030.5], [12, "", "2 030,5"], ["", None, " "]
    )
    table = parse(saved(book), "slide_id", "depth")
    assert [(row.location, row["slide_id"], row.number("depth")) for row in table.rows] == [
        ("row 3 of sheet 'Sheet 1'", "a-1", 2030.5),
        ("row 4 of sheet 'Sheet 1'", "12", 2030.5),
    ]


def test_an_opendocument_sheet_is_read_with_repeated_cells_blanks_and_comments() -> None:
    spaced = '<table:table-cell office:value-type="string"><office:annotation><text:p>seen</text:p></office:annotation>'
    spaced += (
        '<text:p>a<text:s text:c="2"/>b</text:p><text:p><text:span>c</text:span></text:p></table:table-cell>'
    )
    twice = number(7).replace("<table:table-cell", '<table:table-cell table:number-columns-repeated="2"')
    content = ods(
        ods_row(text("slide_id"), text("depth"), text("more")),
        ods_row('<table:table-cell table:number-columns-repeated="3"/>', repeated=2),
        f"<table:table-row-group>{ods_row(spaced, twice, repeated=2)}</table:table-row-group>",
        ods_row(text("x"), number(2030.5)),
        TAIL,
    )
    rows = [
        (row.line, row["slide_id"], row.number("depth"), row.number("more")) for row in parse(content).rows
    ]
    assert rows == [(4, "a  b\nc", 7, 7), (5, "a  b\nc", 7, 7), (6, "x", 2030.5, None)]


def test_formulas_are_read_as_their_stored_results_in_opendocument() -> None:
    formula = number(2030.5).replace("<table:table-cell", '<table:table-cell table:formula="of:=1+1"')
    empty = '<table:table-cell table:formula="of:=A1" office:value-type="string" office:string-value=""/>'
    (row,) = parse(ods(HEADER, ods_row(empty, formula))).rows
    assert (row["slide_id"], row.number("depth")) == ("", 2030.5)
    (row,) = parse(ods(HEADER, ods_row(text("a"), '<table:table-cell table:formula="of:=1+1"/>'))).rows
    with pytest.raises(
        UsageError, match="cell B2 of sheet 'Ark1': depth is a formula without a stored result"
    ):
        row.number("depth")


def test_formulas_are_read_as_their_stored_results_in_excel() -> None:
    content = saved(excel(["slide_id", "depth"], ["a", "=1000+1030.5"], ["=A2", 1]))
    first, second = parse(content).rows
    for row, column, cell in ((first, "depth", "B2"), (second, "slide_id", "A3")):
        with pytest.raises(
            UsageError, match=f"cell {cell} of sheet 'Sheet 1': {column} is a formula without"
        ):
            row.text_at(row.table.position(column) or 0)
    results = (b"<f>1000+1030.5</f><v>2030.5</v>", b"<f>A2</f><v></v>")
    sheet = replaced_part(
        content,
        "xl/worksheets/sheet1.xml",
        [
            (rb"<f>1000\+1030.5</f><v\s*/?>(</v>)?", results[0]),
            (rb'(<c r="A3")>(<f>A2</f>)<v\s*/?>(</v>)?', rb'\1 t="str">\2<v></v>'),
        ],
    )
    first, second = parse(sheet).rows
    assert first.number("depth") == 2030.5
    assert second["slide_id"] == ""


def replaced_part(content: bytes, part: str, changes: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The archive with a part changed by regular expressions, each of which must be found."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            found = old.read(name)
            for pattern, replacement in changes if name == part else ():
                assert re.search(pattern, found), (pattern, found)
                found = re.sub(pattern, replacement, found)
            new.writestr(name, found)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (datetime.datetime(2030, 1, 2), "depth is '2030-01-02', a date and not a number"),
        (datetime.time(20, 30), "depth is '20:30:00', a date and not a number"),
        (True, "depth is 'TRUE', TRUE or FALSE and not a number"),
        ("#REF!", "depth is the error #REF!"),
        ("2,030", "depth is '2,030', which can be read as 2030 and as 2.03; write 2030 or 2.03"),
        ("deep", "depth is 'deep', not a number"),
    ],
)
def test_what_is_no_number_is_refused_by_cell(value: object, reason: str) -> None:
    (row,) = parse(saved(excel(["slide_id", "depth"], ["a", value]))).rows
    with pytest.raises(UsageError, match=re.escape(f"cell B2 of sheet 'Sheet 1': {reason}")):
        row.number("depth")


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ('office:value-type="date" office:date-value="2030-01-02"', "'2030-01-02', a date and not a number"),
        ('office:value-type="time" office:time-value="PT20H30M00S"', "'20:30:00', a date and not a number"),
        ('office:value-type="boolean" office:boolean-value="true"', "TRUE or FALSE and not a number"),
        ('office:value-type="string" calcext:value-type="error"', "the error #REF!"),
    ],
)
def test_what_is_no_number_is_refused_by_cell_in_opendocument(cell: str, reason: str) -> None:
    stated = f"<table:table-cell {cell}><text:p>#REF!</text:p></table:table-cell>"
    (row,) = parse(ods(HEADER, ods_row(text("a"), stated))).rows
    with pytest.raises(UsageError, match=rf"cell B2 of sheet 'Ark1': depth is .*{re.escape(reason)}"):
        row.number("depth")


def test_the_one_sheet_with_the_columns_is_read() -> None:
    rows = [["slide_id", "depth"], ["a", 1]]
    book = excel(["notes"], ["seen by a guest"], wells=rows, empty=[])
    assert parse(saved(book), "slide_id").rows[0].location == "row 2 of sheet 'wells'"
    book = excel(*rows, other=rows)
    with pytest.raises(
        UsageError, match="its sheets 'Sheet 1', 'other' all hold such a table; leave one of them"
    ):
        parse(saved(book), "slide_id")
    book["other"].sheet_state = "hidden"
    assert len(parse(saved(book), "slide_id").rows) == 1
    with pytest.raises(UsageError, match="it has no column slide_id; its columns: none"):
        parse(saved(excel()), "slide_id")


def test_a_hidden_sheet_of_opendocument_is_not_read() -> None:
    styles = (
        '<style:style style:name="ta2" style:family="table"><style:table-properties table:display="false"/>'
    )
    hidden = f'<table:table table:name="old" table:style-name="ta2">{HEADER}</table:table>'
    content = ods(HEADER, ods_row(text("a"), number(1)), styles=f"{styles}</style:style>", more=hidden)
    assert len(parse(content, "slide_id").rows) == 1
    with pytest.raises(UsageError, match="its sheets 'Ark1', 'old' all hold such a table"):
        parse(ods(HEADER, ods_row(text("a"), number(1)), more=hidden), "slide_id")


def test_merged_cells_are_refused_by_name() -> None:
    book = excel(["slide_id", "well"], ["a", "34/7-1"], ["b", None])
    book.active.merge_cells("B2:B3")
    merged = text("w").replace("<table:table-cell", '<table:table-cell table:number-rows-spanned="2"')
    for content in (saved(book), ods(HEADER, ods_row(text("a"), merged))):
        with pytest.raises(
            UsageError, match="the cells B2:B3 are merged; unmerge them and fill in each of them"
        ):
            parse(content)


def test_archives_that_inflate_declare_entities_or_hide_their_content_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = saved(excel(["slide_id"], ["a"]))
    bomb = replaced_part(content, "xl/workbook.xml", [(rb"^", b'<!DOCTYPE x [<!ENTITY y "z">]>')])
    for refused, reason in (
        (bomb, "declares entities"),
        (content[: len(content) // 2], "it is no workbook"),
        (b"PK\3\4 and nothing more", "it is no workbook"),
        (replaced_part(content, "xl/worksheets/sheet1.xml", [(rb"</sheetData>", b"")]), "cannot be read"),
        (replaced_part(ods(HEADER), "content.xml", [(rb"</table:table>", b"")]), "it is no OpenDocument"),
    ):
        with pytest.raises(UsageError, match=reason):
            parse(refused)
    monkeypatch.setattr(sheets, "MAX_INFLATED_BYTES", 100)
    for refused in (content, ods(HEADER)):
        with pytest.raises(UsageError, match="inflates to more than"):
            parse(refused)


def test_sheets_that_claim_endless_rows_are_refused() -> None:
    far = replaced_part(
        saved(excel(["slide_id"], ["a"])),
        "xl/worksheets/sheet1.xml",
        [(rb'<row r="2"', b'<row r="99999999"')],
    )
    repeated = ods(HEADER, ods_row(text("a"), number(1), repeated=2_000_000))
    wide = ods(
        HEADER,
        ods_row(text("a"), number(1).replace("cell", 'cell table:number-columns-repeated="9999999"', 1)),
    )
    for content in (far, repeated, wide):
        with pytest.raises(UsageError, match=r"rows or|columns"):
            parse(content)


CELLS = st.one_of(
    st.none(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**53), 2**53),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).filter(
        lambda one: one.strip() == one
    ),
    st.sampled_from(["_x0041_", "#N/A", "=1+1", "'=1", "TRUE", "007", "a\nb", "2030-01-02", " a  b "]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4))
def test_written_sheets_are_read_back_and_read_alike_by_another_library(
    rows: list[tuple[object, object]],
) -> None:
    for write in (write_xlsx, write_ods):
        content = write("Sheet & <1>", [["a", "b"], *rows])  # type: ignore[list-item]
        read = {row.line: (row.cells[0], row.cells[1]) for row in parse(content).rows}
        for line, row in enumerate(rows, 2):
            expected = tuple(None if one == "" else one for one in row)
            found = tuple(None if one == "" else one for one in read.get(line, (None, None)))
            assert [unprotected(one) for one in expected] == list(found)
        other = CalamineWorkbook.from_filelike(io.BytesIO(content)).get_sheet_by_index(0).to_python()
        assert other[0] == ["a", "b"]
        for row, theirs in zip(rows, other[1:], strict=False):
            for ours, cell in zip(row, theirs, strict=True):
                if isinstance(ours, (int, float)) or (isinstance(ours, str) and "_x" not in ours):
                    assert cell == ours


def unprotected(cell: object) -> object:
    return "=1" if cell == "'=1" else cell


def test_equal_rows_give_equal_bytes_of_opendocument() -> None:
    assert write_ods("a", [["b", 1.5]]) == write_ods("a", [["b", 1.5]])
