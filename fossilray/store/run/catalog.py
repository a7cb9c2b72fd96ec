"""The slides of a run: frozen at the first start, added to by later ones, never changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields

from fossilray.core.errors import CatalogError
from fossilray.core.formats import FileRole
from fossilray.core.formats.parquet import read_table, require_finite
from fossilray.core.records import CatalogRow
from fossilray.core.schemas import CATALOG_SCHEMA
from fossilray.core.slide_names import check_slide_id
from fossilray.store.files.base import Files, read_many
from fossilray.store.files.parquet import to_parquet
from fossilray.store.run.layout import catalog_part_path, part_number
from fossilray.store.run.roles import catalog_part

_FINDINGS = ("doubts", "mpp_from", "planes")
"""Fields that later versions of fossilray may find otherwise; the frozen ones stay."""
_OF_NEW_SAMPLES = ("top_depth_m", "base_depth_m", "depth_unit", "sample_type", "preparation")
_NOT_IN_OLD_RUNS = ("scan_id", *_OF_NEW_SAMPLES)
_OF_SAMPLES = ("well", "measured_depth_m", *_OF_NEW_SAMPLES)
_SPREADSHEET_PRECISION = 1e-8
"""Excel shows and saves as CSV eleven signs of a number, of which nine or more are digits."""
# Axes may differ by 2 %, so their mean differs from either by half of that.
_MEAN_DIFFERS = 0.0101


Corrected = Callable[[str, str, object], object]
"""Return the current value of a column of a slide, the frozen value if it was not corrected."""


def freeze_catalog(
    files: Files, rows: Sequence[CatalogRow], corrected: Corrected | None = None
) -> list[CatalogRow]:
    """Add slides the catalog does not hold yet; all its rows, old ones as first written, by slide_id.

    corrected: by default nothing was corrected. A row may have either the frozen or the current value.

    Raises:
        CatalogError: a slide is there twice, is unsafely named, or differs from its frozen row.
    """
    requested = _by_slide_id(rows)
    while True:
        rows_there, next_part = _read(files)
        frozen = {row.slide_id: row for row in rows_there}
        _check_all_unchanged(frozen, requested, corrected or _frozen)
        added = [requested[slide_id] for slide_id in sorted(requested.keys() - frozen.keys())]
        if not added:
            return [frozen[slide_id] for slide_id in sorted(frozen)]
        # The next reading shows the result, also where another driver was first or the response was lost.
        files.create(catalog_part_path(next_part), to_parquet(added, CATALOG_SCHEMA))


def expect_catalog(
    files: Files, rows: Iterable[CatalogRow], corrected: Corrected | None = None
) -> list[CatalogRow]:
    """Return the rows as a job would use them, without writing any: the frozen row of a slide that the run has.

    Raises:
        CatalogError: as freeze_catalog.
    """
    requested = _by_slide_id(rows)
    frozen = {row.slide_id: row for row in _read(files)[0]}
    _check_all_unchanged(frozen, requested, corrected or _frozen)
    return [frozen.get(slide_id, row) for slide_id, row in requested.items()]


def read_catalog(files: Files) -> list[CatalogRow]:
    """Return all frozen rows by slide_id; empty if there are none yet."""
    return sorted(_read(files)[0], key=lambda row: row.slide_id)


def _read(files: Files) -> tuple[list[CatalogRow], int]:
    """Return all frozen rows, and the number of the part that comes next."""
    try:
        contents = [files.read(catalog_part_path(0))]
    except FileNotFoundError:
        return [], 0
    additions = sorted((path for path in files.find("catalog") if part_number(path) >= 0), key=part_number)
    contents += read_many(files, additions)
    rows: dict[str, CatalogRow] = {}
    for path, content in zip([catalog_part_path(0), *additions], contents, strict=True):
        # A part that was damaged and deleted is written again, with rows that later parts may hold too.
        for row in _read_part(content, catalog_part(f"{files.url}/{path}")):
            rows.setdefault(row.slide_id, row)
    return list(rows.values()), part_number(additions[-1]) + 1 if additions else 1


def _read_part(content: bytes, role: FileRole) -> list[CatalogRow]:
    table = read_table(content, role, schema=CATALOG_SCHEMA)
    require_finite(table, role)
    rows = [CatalogRow(**row) for row in table.to_pylist()]
    for row in rows:
        try:
            check_slide_id(row.slide_id)
        except CatalogError as error:
            raise role.damaged(error) from None
        if row.mpp is not None and row.mpp <= 0:
            raise role.damaged(f"slide {row.slide_id} has {row.mpp:g} um per pixel")
    return rows


def _by_slide_id(rows: Iterable[CatalogRow]) -> dict[str, CatalogRow]:
    rows_by_id: dict[str, CatalogRow] = {}
    for row in rows:
        if rows_by_id.setdefault(check_slide_id(row.slide_id), row) is not row:
            raise CatalogError(
                f"slide_id {row.slide_id} stands for {rows_by_id[row.slide_id].path} and {row.path}; give each slide "
                "an id of its own"
            )
    return rows_by_id


def _frozen(slide_id: str, column: str, value: object) -> object:
    return value


def _check_all_unchanged(
    frozen: Mapping[str, CatalogRow], requested: Mapping[str, CatalogRow], corrected: Corrected
) -> None:
    for slide_id in requested.keys() & frozen.keys():
        for name, old, new in _changes(frozen[slide_id], requested[slide_id]):
            if _is_same(corrected(slide_id, name, old), new):
                continue
            remedy = "use the old value or another run directory"
            if name in _OF_SAMPLES:
                remedy = "correct it with `fossilray samples import`, or use the old value"
            raise CatalogError(
                f"slide {slide_id}: {name} is {old!r:.80} in this run and {new!r:.80} in the catalog now; a run's "
                f"slides may be added to but not changed: {remedy}"
            )


def _changes(frozen: CatalogRow, requested: CatalogRow) -> Iterator[tuple[str, object, object]]:
    """Yield the columns whose values differ, extra columns included; a value that is missing now is no change."""
    for field in fields(CatalogRow):
        old, new = getattr(frozen, field.name), getattr(requested, field.name)
        if new is None or field.name in _FINDINGS or (old is None and field.name in _NOT_IN_OLD_RUNS):
            continue
        if field.name == "mpp" and _is_mean_of_axes(frozen, requested):
            continue
        if field.name == "extra":
            known = {extra.column.lower(): extra.value for extra in old or ()}
            yield from (
                (extra.column, known.get(extra.column.lower()), extra.value)
                for extra in new
                if known.get(extra.column.lower()) != extra.value
            )
        elif not _is_same(old, new):
            yield field.name, old, new


def _is_same(old: object, new: object) -> bool:
    """Return whether two values are equal, but for the digits that a spreadsheet cuts off."""
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=_SPREADSHEET_PRECISION)
    return old == new


def _is_mean_of_axes(frozen: CatalogRow, requested: CatalogRow) -> bool:
    """Return whether the row of a run before version 6 has the mean um per pixel of x and y, the new one that of x."""
    if frozen.mpp is None or requested.mpp is None:
        return False
    if frozen.mpp_from is not None or requested.mpp_from != "slide":
        return False
    return math.isclose(frozen.mpp, requested.mpp, rel_tol=_MEAN_DIFFERS)
