"""Columns that the user's catalog has besides those of fossilray."""

from __future__ import annotations

from collections.abc import Iterable

from fossilray.core.records import CatalogRow


def extra_names(rows: Iterable[CatalogRow]) -> list[str]:
    """Names of the user's columns in the order of the rows; of names that differ in case alone, the first."""
    names: dict[str, str] = {}
    for row in rows:
        for extra in row.extra or ():
            names.setdefault(extra.column.lower(), extra.column)
    return list(names.values())
