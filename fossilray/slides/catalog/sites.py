"""Wells and depths from names: the name pattern, its checks, and the values frozen when a run began."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from fossilray.core.errors import CatalogError
from fossilray.core.name_pattern import NamePattern
from fossilray.core.records import CatalogRow
from fossilray.slides.catalog.table import Catalog
from fossilray.slides.catalog.wells import keep_spelling

_FROM_NAMES = ("well", "measured_depth_m", "top_depth_m", "base_depth_m", "depth_unit", "sample_type")
"""Columns that are read from names."""


def compile_pattern(text: str | None) -> NamePattern | None:
    """Compile `slides.name_pattern`; None if it is unset.

    Raises:
        CatalogError: the pattern is invalid, or takes too long.
    """
    if text is None:
        return None
    try:
        return NamePattern.timed(text)
    except ValueError as error:
        raise CatalogError(f"slides.name_pattern {text!r} {error}") from None


def check_search_time(pattern: NamePattern | None, paths: Iterable[str]) -> None:
    """Check the pattern's search time on the names of these slides and of the folders above them.

    Raises:
        CatalogError: the pattern takes too long.
    """
    if pattern is None:
        return
    names: set[str] = set()
    for path in paths:
        names.add(PurePosixPath(path).stem)
        names.update(path.split("/")[:-1])
    try:
        pattern.try_names(names)
    except ValueError as error:
        raise CatalogError(f"slides.name_pattern {pattern.text!r} {error}") from None


def check_pattern_matches(catalog: Catalog, text: str | None, *, matched: bool) -> Catalog:
    """Return the catalog, if the pattern matched a name or there is none to match.

    Raises:
        CatalogError: the pattern matched none of its names.
    """
    if text is not None and catalog.rows and not matched:
        raise CatalogError(
            f"slides.name_pattern {text!r} matches the name of none of {len(catalog.rows):,} slides, the first "
            f"{catalog.rows[0].path!r}; correct the pattern or leave it out"
        )
    return catalog


def keep_frozen_sites(catalog: Catalog, frozen: Sequence[CatalogRow]) -> list[CatalogRow]:
    """Return the rows of `catalog`, with wells and depths parsed from names replaced by those of `frozen`.

    frozen: the rows when the run began. A catalog that was read from a table keeps its values, with wells spelled as
    the run spells them.
    """
    if not catalog.from_names:
        return keep_spelling(catalog.rows, frozen)
    known = {row.slide_id: row for row in frozen}
    return [
        replace(row, **{name: getattr(known[row.slide_id], name) for name in _FROM_NAMES})
        if row.slide_id in known
        else row
        for row in keep_spelling(catalog.rows, frozen)
    ]
