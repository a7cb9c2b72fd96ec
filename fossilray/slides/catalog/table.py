"""Catalog table that users edit, in every format of `read_user_table`: reading with checks."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from fossilray.core.errors import CatalogError
from fossilray.core.formats import FileRole
from fossilray.core.formats.regular_file import read_regular
from fossilray.core.formats.sheets import CellFault
from fossilray.core.plausible_values import PLAUSIBLE_MPP, why_no_depth, why_no_mpp
from fossilray.core.records import CatalogRow, ExtraValue, RejectedFile
from fossilray.core.sample_terms import (
    describe_interval_fault,
    mid_depth,
    normalise_sample_type,
    normalise_unit,
)
from fossilray.core.schemas import CATALOG_SCHEMA
from fossilray.core.slide_names import check_slide_id, check_well
from fossilray.core.table_rows import TableRow, UserTable
from fossilray.core.user_table import MAX_BYTES, parse_user_table
from fossilray.slides.catalog.repaired_texts import TextRepair
from fossilray.store.files.base import is_remote

CATALOG_SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx", ".ods", ".parquet")
"""Names of files that are read as catalogs; Excel saves `Unicode text` as .txt. The content decides on the format."""

_REQUIRED = ("slide_id", "path")
_KNOWN = {field.name for field in CATALOG_SCHEMA} - {"extra"}
_READ = [field for field in CATALOG_SCHEMA if field.name not in ("path", "mpp_from", "doubts", "extra")]
"""Columns that are read besides the path; what the others hold is found again when the slide is opened."""
_TYPED_BY_HAND = ("slide_id", "well")
"""Columns in which a spreadsheet may take what was typed for a date: `6-1` for a well."""
_DEPTHS = ("measured_depth_m", "top_depth_m", "base_depth_m")
_LARGEST_WHOLE = 2**31


@dataclass(frozen=True)
class Catalog:
    """Slides that can be opened, and refused files that only look like slides."""

    rows: list[CatalogRow]
    refused: list[RejectedFile]
    from_names: bool = field(default=False, compare=False)
    """Wells and depths were read from names of files and folders, not from a table."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Sentences for the user: what was passed over, merged, read otherwise than it is written, or is there twice."""


def read_catalog_file(path: Path, *, exists: Callable[[str], bool] = os.path.exists) -> Catalog:
    """Return the slides of a catalog; relative paths are resolved against its folder, URLs are kept.

    exists: whether there is a slide at a path or URL; called only for paths that an encoding may have changed.

    Raises:
        CatalogError: a column is missing, a value is not what its column holds, or a slide is listed twice.
    """
    role = _role(str(path))
    try:
        content = read_regular(path, most_bytes=MAX_BYTES)
    except OSError as error:
        raise role.damaged(error) from None
    return _read_rows(content, role, lambda slide: os.path.abspath(path.parent / slide), exists)  # noqa: PTH100


def read_remote_catalog(url: str, content: bytes, *, exists: Callable[[str], bool]) -> Catalog:
    """Return the slides of the catalog at `url` in an object store; relative paths are resolved against its folder.

    exists, raises: as of `read_catalog_file`.
    """
    protocol, _, path = url.partition("://")

    def resolve(slide: str) -> str:
        if slide.startswith("/"):
            return slide
        bucket, _, folder = path.rpartition("/")[0].partition("/")
        inside = posixpath.normpath(f"/{folder}/{slide}").lstrip("/")
        return f"{protocol}://{bucket}/{inside}"

    return _read_rows(content, _role(url), resolve, exists)


def _role(where: str) -> FileRole:
    return FileRole(where, "a catalog of slides", "correct it and start the same command again", CatalogError)


def _read_rows(
    content: bytes, role: FileRole, from_folder: Callable[[str], str], exists: Callable[[str], bool]
) -> Catalog:
    """Parse and check the rows. from_folder: resolves a relative path of the table."""

    def resolve(slide: str) -> str:
        slide = slide.removeprefix("file://")
        return slide if is_remote(slide) else from_folder(slide)

    table = parse_user_table(content, role, columns=_REQUIRED)
    extra = _extra_columns(table)
    repair = TextRepair(lambda slide: exists(resolve(slide)), table.encoding)
    # All paths come first: one of them may prove how the texts of all rows are to be read.
    paths = [resolve(repair.path(_path_of(row), row.location)) for row in table.rows]
    rows: list[CatalogRow] = []
    seen: dict[str, str] = {}
    for row, path in zip(table.rows, paths, strict=True):
        read = _to_record(row, path, extra, repair)
        if read.slide_id in seen:
            raise row.error(
                f"slide_id {read.slide_id} is in {seen[read.slide_id]} already; give each slide an id of its own",
                "slide_id",
            )
        seen[read.slide_id] = row.location
        rows.append(read)
    return Catalog(rows, [], notes=(*_notes_on(table), *repair.notes()))


def _path_of(row: TableRow) -> str:
    """The path as written: names of files may begin and end with blanks."""
    position = row.table.position("path")
    assert position is not None
    path = row.no_date_at(position)
    if not path.strip():
        raise row.error("path is empty; fill it or remove the line", "path")
    return path


def _extra_columns(table: UserTable) -> list[tuple[int, str]]:
    """Index and name of the columns that the user added.

    Raises:
        CatalogError: two of them differ in case alone, or one has values and no name.
    """
    extra: dict[str, tuple[int, str]] = {}
    for position, name in enumerate(table.header):
        if name.lower() in _KNOWN:
            if table.position(name) != position:
                raise table.role.damaged(f"it has the column {name!r:.60} twice")
        elif name:
            if name.lower() in extra:
                raise table.role.damaged(f"it has the column {name!r:.60} twice; rename one of them")
            extra[name.lower()] = (position, name)
        else:
            for row in table.rows:
                if row.text_at(position).strip():
                    raise row.error("a value in a column without a name; name the column", position)
    return list(extra.values())


def _to_record(row: TableRow, path: str, extra: list[tuple[int, str]], repair: TextRepair) -> CatalogRow:
    values: dict[str, object] = {"path": path}
    for column in _READ:
        position = row.table.position(column.name)
        if position is None:
            values[column.name] = None
        elif pa.types.is_string(column.type):
            is_typed = column.name in _TYPED_BY_HAND
            text = row.no_date_at(position).strip() if is_typed else row.text_at(position)
            values[column.name] = repair.text(text) or None
        else:
            values[column.name] = _number(row, column)
    if values["slide_id"] is None:
        raise row.error("slide_id is empty; fill it or remove the line", "slide_id")
    for name, check in (("slide_id", check_slide_id), ("well", check_well)):
        try:
            check(str(values[name] or ""))
        except CatalogError as error:
            raise row.error(str(error), name) from None
    values |= _sample_values(row, values)
    texts = ((name, _extra_text(row, position)) for position, name in extra)
    values["extra"] = (
        tuple(ExtraValue(repair.text(name), repair.text(text)) for name, text in texts if text) or None
    )
    return CatalogRow(**values)  # type: ignore[arg-type]  # each value was brought to its column's type


def _sample_values(row: TableRow, values: Mapping[str, Any]) -> dict[str, object]:
    """The depths, the unit and the type of the sample in the words of `sample_terms`.

    Raises:
        CatalogError: the interval is incomplete or upside down, the measured depth is outside, or a unit is unknown.
    """
    top, base, depth = (values[name] for name in ("top_depth_m", "base_depth_m", "measured_depth_m"))
    if fault := describe_interval_fault(top, base, depth):
        raise row.error(fault[1], fault[0])
    unit = values["depth_unit"]
    if unit is not None and normalise_unit(str(unit)) is None:
        raise row.error(f"depth_unit is {unit!r:.40}; write m or ft", "depth_unit")
    return {
        "measured_depth_m": mid_depth(top, base) if depth is None else depth,
        "depth_unit": None if unit is None else normalise_unit(str(unit)),
        "sample_type": normalise_sample_type(values["sample_type"] or ""),
    }


def _extra_text(row: TableRow, position: int) -> str:
    """A value of the user's as text; an error of the spreadsheet as it is shown there."""
    cell = row.cells[position]
    if isinstance(cell, CellFault) and cell.shown:
        return cell.shown
    return row.text_at(position).strip()


def _number(row: TableRow, column: pa.Field) -> int | float | None:
    name: str = column.name
    is_whole = pa.types.is_integer(column.type)
    is_mpp = name == "mpp"
    value = row.number(name, whole=is_whole, **({"within": PLAUSIBLE_MPP} if is_mpp else {}))
    if value is None:
        return None
    why: str | None = None
    if is_mpp:
        why = why_no_mpp(value)
    elif name in _DEPTHS:
        why = why_no_depth(value)
    elif is_whole and abs(value) >= _LARGEST_WHOLE:
        why = "larger than that of any slide"
    if why is not None:
        raise row.error(f"{name} is {row[name]!r:.40}, {why}; correct it or leave it empty", name)
    return int(value) if is_whole else value


def _notes_on(table: UserTable) -> tuple[str, ...]:
    if table.encoding != "cp1252":
        return ()
    return (
        f"{table.role.name} is not UTF-8 and was read as Windows-1252; if letters are wrong, save it as `CSV UTF-8`",
    )
