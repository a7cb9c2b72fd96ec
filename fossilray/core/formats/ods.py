"""OpenDocument spreadsheets (.ods), as LibreOffice writes them: the values of cells, of formulas the stored results.

Elements and attributes are those of OpenDocument 1.3, part 3: chapter 9.1 has tables, 19.385 the values of cells.
"""

from __future__ import annotations

import datetime
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from fossilray.core.errors import FossilrayError
from fossilray.core.formats.file_role import FileRole
from fossilray.core.formats.sheets import (
    MAX_CELLS,
    MAX_ROWS,
    Cell,
    CellFault,
    WorkbookSheet,
    cell_name,
    open_workbook_archive,
)

ODS_MIMETYPE = "application/vnd.oasis.opendocument.spreadsheet"

_WITH_CELLS = re.compile(r"content\.xml")
_MANIFEST = "META-INF/manifest.xml"
_SPACE = "urn:oasis:names:tc:opendocument:xmlns"
_OFFICE, _TABLE, _TEXT, _STYLE = (f"{{{_SPACE}:{name}:1.0}}" for name in ("office", "table", "text", "style"))
# LibreOffice marks errors by an attribute of its own; for the standard they are texts.
_CALC_TYPE = "{urn:org:documentfoundation:names:experimental:calc:xmlns:calcext:1.0}value-type"
_CELL_TAGS = (f"{_TABLE}table-cell", f"{_TABLE}covered-table-cell")
_MAX_BLANKS = 10_000
_DURATION = re.compile(r"-?P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", re.ASCII)


def read_ods(content: bytes, role: FileRole) -> list[WorkbookSheet]:
    """Return the visible sheets of a spreadsheet.

    Raises:
        role.error: it is not an .ods spreadsheet, or is beyond the bounds of `sheets`.
    """
    with open_workbook_archive(content, role, large_parts=_WITH_CELLS) as archive:
        try:
            if b"encryption-data" in (archive.read(_MANIFEST) if _MANIFEST in archive.namelist() else b""):
                raise role.damaged("it is protected by a password; save it without one")
            tables = _read_sheets(archive.read("content.xml"), role)
        except FossilrayError:
            raise
        except (LookupError, ValueError, OverflowError, ElementTree.ParseError) as error:
            raise role.damaged(f"it is no OpenDocument spreadsheet ({error})") from None
    return [WorkbookSheet(name, partial(iter, rows)) for name, rows in tables]


def write_ods(name: str, rows: Iterable[Sequence[str | int | float | None]]) -> bytes:
    """Return a spreadsheet of one sheet; equal rows give equal bytes.

    Raises:
        ValueError: a text has characters that XML cannot hold.
    """
    spaces = "".join(
        f' xmlns:{short}="{space[1:-1]}"'
        for short, space in (("office", _OFFICE), ("table", _TABLE), ("text", _TEXT))
    )
    lines = (
        f"<table:table-row>{''.join(map(_to_xml, row)) or '<table:table-cell/>'}</table:table-row>"
        for row in rows
    )
    document = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<office:document-content{spaces} office:version="1.3"><office:body>'
        f"<office:spreadsheet><table:table table:name={quoteattr(name)}>{''.join(lines)}</table:table>"
        "</office:spreadsheet></office:body></office:document-content>"
    )
    manifest = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<manifest:manifest xmlns:manifest="{_SPACE}:manifest:1.0" '
        f'manifest:version="1.3"><manifest:file-entry manifest:full-path="/" manifest:media-type="{ODS_MIMETYPE}"/>'
        '<manifest:file-entry manifest:full-path="content.xml" manifest:media-type="text/xml"/></manifest:manifest>'
    )
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        # The type stands first and uncompressed, so that it is found at a fixed offset of the file.
        parts = {"mimetype": ODS_MIMETYPE, "content.xml": document, _MANIFEST: manifest}
        for part, text in parts.items():
            kind = zipfile.ZIP_STORED if part == "mimetype" else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(part), text, kind)
    return sink.getvalue()


def _read_sheets(xml: bytes, role: FileRole) -> list[tuple[str, list[tuple[int, tuple[Cell, ...]]]]]:
    """The rows of each visible sheet with their numbers, without empty ones."""
    hidden: set[str] = set()
    sheets: list[tuple[str, list[tuple[int, tuple[Cell, ...]]]]] = []
    path: list[str] = []
    style, number, cells = "", 0, 0
    is_hidden = False
    for event, element in ElementTree.iterparse(io.BytesIO(xml), events=("start", "end")):
        if event == "start":
            if element.tag == f"{_STYLE}style":
                style = element.get(f"{_STYLE}name", "")
            elif element.tag == f"{_STYLE}table-properties" and element.get(f"{_TABLE}display") == "false":
                hidden.add(style)
            elif element.tag == f"{_TABLE}table" and path[-1:] == [f"{_OFFICE}spreadsheet"]:
                is_hidden = element.get(f"{_TABLE}style-name", "") in hidden
                number = 0
                sheets += [] if is_hidden else [(element.get(f"{_TABLE}name", ""), [])]
            path.append(element.tag)
            continue
        path.pop()
        # Rows may stand in groups; a table within a cell or a chart is not the sheet's.
        if element.tag == f"{_TABLE}table-row" and path.count(f"{_TABLE}table") == 1:
            times = _count(element, f"{_TABLE}number-rows-repeated")
            if not is_hidden and f"{_OFFICE}spreadsheet" in path:
                name, rows = sheets[-1]
                row = _read_row(element, number + 1, name, role)
                cells += len(row) * times
                if row and (number + times > MAX_ROWS or cells > MAX_CELLS):
                    raise role.damaged(
                        f"sheet {name!r:.60} has more than {MAX_ROWS:,} rows or {MAX_CELLS:,} cells"
                    )
                rows += [(number + 1 + i, row) for i in range(times)] if row else []
            number += times
            element.clear()
    return sheets


def _read_row(row: ElementTree.Element, number: int, sheet: str, role: FileRole) -> tuple[Cell, ...]:
    """The cells of a row up to the last that is not empty."""
    cells: list[Cell] = []
    column = 0
    for element in row:
        if element.tag not in _CELL_TAGS:
            continue
        times = _count(element, f"{_TABLE}number-columns-repeated")
        across, down = (_count(element, f"{_TABLE}number-{way}-spanned") for way in ("columns", "rows"))
        if across > 1 or down > 1:
            raise role.damaged(
                f"sheet {sheet!r:.60}: the cells {cell_name(column + 1, number)}:"
                f"{cell_name(column + across, number + down - 1)} are merged; unmerge them and fill in each of them"
            )
        value = _value(element)
        if value is not None and value != "":
            if column + times > MAX_CELLS // 1000:
                raise role.damaged(f"sheet {sheet!r:.60} has {column + times:,} columns")
            cells += [None] * (column - len(cells)) + [value] * times
        column += times
    return tuple(cells)


def _count(element: ElementTree.Element, attribute: str) -> int:
    return max(1, int(element.get(attribute, "1")))


def _value(cell: ElementTree.Element) -> Cell:
    if cell.get(_CALC_TYPE) == "error":
        return CellFault(f"the error {_text(cell)}", _text(cell))
    value: Cell
    match cell.get(f"{_OFFICE}value-type"):
        case "float" | "percentage" | "currency":
            value = float(cell.attrib[f"{_OFFICE}value"])
        case "boolean":
            value = cell.get(f"{_OFFICE}boolean-value") == "true"
        case "date":
            text = cell.attrib[f"{_OFFICE}date-value"]
            value = datetime.datetime.fromisoformat(text)
        case "time":
            value = _duration(cell.attrib[f"{_OFFICE}time-value"])
        case "string":
            stated = cell.get(f"{_OFFICE}string-value")
            value = _text(cell) if stated is None else stated
        case _:
            is_formula = cell.get(f"{_TABLE}formula") is not None
            value = CellFault("a formula without a stored result") if is_formula else None
    return value


def _duration(text: str) -> Cell:
    duration = _DURATION.fullmatch(text)
    if duration is None:
        return CellFault(f"the time {text!r:.40}")
    days, hours, minutes, seconds = (float(part or 0) for part in duration.groups())
    length = datetime.timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return -length if text.startswith("-") else length


def _text(cell: ElementTree.Element) -> str:
    """The paragraphs of a cell, without comments."""
    return "\n".join("".join(_pieces(paragraph)) for paragraph in cell if paragraph.tag == f"{_TEXT}p")


def _pieces(element: ElementTree.Element) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        if child.tag == f"{_TEXT}s":
            yield " " * min(_count(child, f"{_TEXT}c"), _MAX_BLANKS)
        elif child.tag == f"{_TEXT}tab":
            yield "\t"
        elif child.tag == f"{_TEXT}line-break":
            yield "\n"
        elif child.tag != f"{_OFFICE}annotation":
            yield from _pieces(child)
        yield child.tail or ""


def _to_xml(value: str | float | None) -> str:
    if value is None or value == "":
        return "<table:table-cell/>"
    if not isinstance(value, str):
        stated = f'office:value-type="float" office:value="{value!r}"'
        return f"<table:table-cell {stated}><text:p>{value!r}</text:p></table:table-cell>"
    if illegal := re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", value):
        raise ValueError(f"the character U+{ord(illegal[0]):04X}, which OpenDocument cannot hold")
    # The attribute keeps blanks and line breaks, the paragraphs are what is shown.
    stated = escape(value, {'"': "&quot;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
    shown = "".join(f"<text:p>{escape(line)}</text:p>" for line in value.splitlines())
    return f'<table:table-cell office:value-type="string" office:string-value="{stated}">{shown}</table:table-cell>'
