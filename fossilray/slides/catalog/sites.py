"""Slides whose well or depth is not known, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from fossilray.core.errors import CatalogError
from fossilray.core.name_pattern import NamePattern
from fossilray.core.records import CatalogRow
from fossilray.slides.catalog.table import Catalog


def compile_pattern(text: str | None) -> NamePattern | None:
    """The pattern for names.

    Raises:
        CatalogError: it cannot be searched, or takes too long.
    """
    if text is None:
        return None
    try:
        return NamePattern.timed(text)
    except ValueError as error:
        raise CatalogError(f"slides.name_pattern {text!r} {error}") from None


def check_search_time(pattern: NamePattern | None, paths: Iterable[str]) -> None:
    """Try the pattern on the names of slides at these paths, and of the folders above them, before it reads them.

    Raises:
        CatalogError: it takes too long.
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
    """The catalog.

    Raises:
        CatalogError: the pattern matched none of its names.
    """
    if text is not None and catalog.rows and not matched:
        raise CatalogError(
            f"slides.name_pattern {text!r} matches the name of none of {len(catalog.rows):,} slides, the first "
            f"{catalog.rows[0].path!r}; correct the pattern or leave it out"
        )
    return catalog


def keep_frozen_sites(found: Catalog, frozen: Sequence[CatalogRow]) -> list[CatalogRow]:
    """The rows; well and depth that names gave when a run began count, whatever the same names give today."""
    if not found.from_names:
        return found.rows
    known = {row.slide_id: row for row in frozen}
    return [
        replace(row, well=known[row.slide_id].well, measured_depth_m=known[row.slide_id].measured_depth_m)
        if row.slide_id in known
        else row
        for row in found.rows
    ]
