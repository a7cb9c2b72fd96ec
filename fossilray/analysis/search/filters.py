"""Which objects of an index meet a condition in SQL, and what is known of those that were found."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.analysis.search.search import Hit, SearchFilter, SearchIndex
from fossilray.core.errors import UsageError
from fossilray.core.schemas import OBJECTS_SCHEMA, PREDICTIONS_SCHEMA, select_fields
from fossilray.store.derived.listing import latest_predictions
from fossilray.store.query.connection import connect, create_objects_view, query_table

HITS_SCHEMA = pa.schema(
    [
        pa.field("query", pa.string()),
        pa.field("rank", pa.int32()),
        pa.field("similarity", pa.float32()),
        pa.field("run", pa.string()),
        pa.field("well", pa.string()),
        *(
            field.with_nullable(True)
            for field in (
                *select_fields(OBJECTS_SCHEMA, "measured_depth_m", "slide_id", "object_id"),
                *select_fields(OBJECTS_SCHEMA, "x_min", "y_min", "x_max", "y_max"),
                *select_fields(OBJECTS_SCHEMA, "width_um", "height_um", "score", "opacity", "sharpness"),
                *select_fields(PREDICTIONS_SCHEMA, "genus"),
                PREDICTIONS_SCHEMA.field("score").with_name("genus_score"),
                OBJECTS_SCHEMA.field("arrays"),
            )
        ),
    ]
)
"""Columns of the hits of a search."""
OBJECT_COLUMNS = tuple(HITS_SCHEMA.names[4:])
"""Those that describe the object that was found."""


def filter_where(
    index: SearchIndex, condition: str | None, *, head: str | None = None
) -> SearchFilter | None:
    """The objects of an index that meet a condition on the columns of `objects`; None: all do.

    A condition that names `genus` is asked of the predictions of this name, or of the newest.

    Raises:
        QueryError: DuckDB refuses the condition.
        UsageError: no object meets it.
    """
    if condition is None:
        return index.allow()
    chosen: dict[tuple[str, str], NDArray[np.int64]] = {}
    needs_genera = head is not None or re.search(r"\bgenus", condition) is not None
    for url, source in index.runs().items():
        con = connect(source.store, sql=condition)
        if needs_genera:
            create_objects_view(con, source.store, None, genera=latest_predictions(source.store, head))
        # The line breaks keep a comment at the end of the condition from swallowing what follows.
        table = query_table(
            con,
            # What has no pixels has a vector that says nothing, and is in no shard.
            f"SELECT slide_id, object_id FROM objects WHERE opacity IS NOT NULL AND (\n{condition}\n) "
            "ORDER BY slide_id, object_id",
        )
        for slide_id, rows in _by_slide(table):
            chosen[url, slide_id] = rows
    allowed = index.allow(chosen)
    assert allowed is not None, "some are chosen"
    if not allowed.count:
        raise UsageError(f"no object of the index meets {condition!r:.200}; ask for something wider")
    return allowed


def describe_hits(
    index: SearchIndex, hits: Sequence[Sequence[Hit]], names: Sequence[str], *, head: str | None = None
) -> pa.Table:
    """One row a hit: query, rank, similarity, run, and OBJECT_COLUMNS; queries in their order, the likest first.

    names: of the queries. Only the objects files of the slides that were hit are read.
    """
    rows = [
        (name, rank, one.similarity, one.slide.run, one.slide.slide_id, one.object_id)
        for name, found in zip(names, hits, strict=True)
        for rank, one in enumerate(found, start=1)
    ]
    known: dict[tuple[str, str, int], dict[str, object]] = {}
    for url, source in index.runs().items():
        wanted = sorted({(slide_id, object_id) for *_, run, slide_id, object_id in rows if run == url})
        if not wanted:
            continue
        files = source.store.committed_files()
        chosen = {slide_id: files[slide_id] for slide_id, _ in wanted if slide_id in files}
        con = connect(source.store)
        create_objects_view(con, source.store, chosen, genera=latest_predictions(source.store, head))
        asked = pa.table(
            {
                "slide_id": [one for one, _ in wanted],
                "object_id": pa.array([n for _, n in wanted], pa.int32()),
            }
        )
        con.register("asked", asked)
        columns = {row[0] for row in con.execute("DESCRIBE objects").fetchall()}
        named = ", ".join(
            name if name in columns else f"NULL::{'VARCHAR' if name == 'genus' else 'FLOAT'} AS {name}"
            for name in OBJECT_COLUMNS
        )
        table = query_table(con, f"SELECT {named} FROM objects JOIN asked USING (slide_id, object_id)")
        for row in table.to_pylist():
            known[url, row["slide_id"], row["object_id"]] = row
    columns_of: dict[str, list[object]] = {name: [] for name in HITS_SCHEMA.names}
    for name, rank, similarity, run, slide_id, object_id in rows:
        found = known[run, slide_id, object_id]
        for column, value in zip(HITS_SCHEMA.names, (name, rank, similarity, run), strict=False):
            columns_of[column].append(value)
        for column in OBJECT_COLUMNS:
            columns_of[column].append(found[column])
    return pa.Table.from_pydict(columns_of, schema=HITS_SCHEMA)


def _by_slide(table: pa.Table) -> list[tuple[str, NDArray[np.int64]]]:
    names = table["slide_id"].combine_chunks().dictionary_encode()
    numbers = names.indices.to_numpy(zero_copy_only=False)
    rows = table["object_id"].to_numpy().astype(np.int64)
    if not len(numbers):
        return []
    starts = np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]])).tolist()
    stops = [*starts[1:], len(numbers)]
    labels = names.dictionary.to_pylist()
    return [(labels[numbers[start]], rows[start:stop]) for start, stop in zip(starts, stops, strict=True)]
