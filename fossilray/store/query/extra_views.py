"""Columns of the user's catalog as columns of the views `slides` and `catalog`."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from fossilray.core.schemas import (
    CATALOG_SCHEMA,
    FAILURES_SCHEMA,
    OBJECTS_SCHEMA,
    RANKED_PREDICTIONS_SCHEMA,
    SLIDES_SCHEMA,
)
from fossilray.core.text import strip_control_characters

EXTRA_PREFIX = "catalog_"
"""Stands before the name of a user's column that a view has already, or a view that is joined to it."""

_OURS = {
    name.lower()
    for schema in (
        SLIDES_SCHEMA,
        CATALOG_SCHEMA,
        OBJECTS_SCHEMA,
        RANKED_PREDICTIONS_SCHEMA,
        FAILURES_SCHEMA,
    )
    for name in schema.names
} | {"state", "copy_of", "head", "name", "well", "genus_score", "genus_entropy", "genus_2_score", "embedding"}


def with_extra_columns(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Append a text column for each of the user's columns; null where the column `extra` of a row has no value for it.

    A name that a view of fossilray has, or that holds nothing to be seen, gets EXTRA_PREFIX. Control characters are
    replaced.
    """
    shown_names = {name.lower(): name for name in names}
    columns: dict[str, list[str | None]] = {key: [None] * table.num_rows for key in shown_names}
    if table.column("extra").null_count < table.num_rows:
        for i, pairs in enumerate(table.column("extra").to_pylist()):
            for pair in pairs or ():
                key = pair["column"].lower()
                shown_names.setdefault(key, pair["column"])
                columns.setdefault(key, [None] * table.num_rows)[i] = pair["value"]
    taken = set(_OURS)
    for key, column in columns.items():
        shown = strip_control_characters(shown_names[key])
        while not shown.strip() or shown.lower() in taken:
            shown = f"{EXTRA_PREFIX}{shown}"
        taken.add(shown.lower())
        table = table.append_column(shown, pa.array(column, pa.string()))
    return table
