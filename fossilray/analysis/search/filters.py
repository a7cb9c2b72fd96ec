"""Filters of a search by SQL conditions, and the table of its hits."""

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
"""Columns of HITS_SCHEMA that describe the object."""


def filter_where(
    index: SearchIndex, condition: str | None, *, head: str | None = None
) -> SearchFilter | None:
    """Return the filter of the objects that meet a condition; None if every object of the index can be found.

    Args:
        condition: SQL on columns of `objects`, and on `genus` of the predictions.
        head: name of the predictions; None: the newest.

    Raises:
        QueryError: DuckDB refuses the condition.
        UsageError: no object meets the condition.
    """
    if condition is None:
        return index.filter()
    chosen: dict[tuple[str, str], NDArray[np.int64]] = {}
    needs_genera = head is not None or re.search(r"\bgenus", condition) is not None
    for url, source in index.runs().items():
        con = connect(source.store, sql=condition)
        if needs_genera:
            create_objects_view(con, source.store, None, genera=latest_predictions(source.store, head))
        # The line breaks keep a comment at the end of the condition from swallowing what follows.
        table = query_table(
            con,
            # Objects without pixels are not in the index.
            f"SELECT slide_id, object_id FROM objects WHERE opacity IS NOT NULL AND (\n{condition}\n) "
            "ORDER BY slide_id, object_id",
        )
        for slide_id, rows in _by_slide(table):
            chosen[url, slide_id] = rows
    search_filter = index.filter(chosen)
    assert search_filter is not None, "objects were given"
    if not search_filter.count:
        raise UsageError(f"no object of the index meets {condition!r:.200}; loosen the condition")
    return search_filter


def describe_hits(
    index: SearchIndex, hits: Sequence[Sequence[Hit]], names: Sequence[str], *, head: str | None = None
) -> pa.Table:
    """Return the hits as a table in HITS_SCHEMA, by query and rank. Only objects files of slides with hits are read.

    Args:
        hits: hits of each query, the most similar first.
        names: names of the queries.
        head: name of the predictions whose genus is shown; None: the newest.
    """
    rows = [
        (name, rank, hit.similarity, hit.slide.run, hit.slide.slide_id, hit.object_id)
        for name, of_query in zip(names, hits, strict=True)
        for rank, hit in enumerate(of_query, start=1)
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
        wanted_table = pa.table(
            {
                "slide_id": [slide_id for slide_id, _ in wanted],
                "object_id": pa.array([object_id for _, object_id in wanted], pa.int32()),
            }
        )
        con.register("wanted", wanted_table)
        columns = {row[0] for row in con.execute("DESCRIBE objects").fetchall()}
        named = ", ".join(
            name if name in columns else f"NULL::{'VARCHAR' if name == 'genus' else 'FLOAT'} AS {name}"
            for name in OBJECT_COLUMNS
        )
        table = query_table(con, f"SELECT {named} FROM objects JOIN wanted USING (slide_id, object_id)")
        for row in table.to_pylist():
            known[url, row["slide_id"], row["object_id"]] = row
    columns_of: dict[str, list[object]] = {name: [] for name in HITS_SCHEMA.names}
    for name, rank, similarity, run, slide_id, object_id in rows:
        properties = known[run, slide_id, object_id]
        for column, value in zip(HITS_SCHEMA.names, (name, rank, similarity, run), strict=False):
            columns_of[column].append(value)
        for column in OBJECT_COLUMNS:
            columns_of[column].append(properties[column])
    return pa.Table.from_pydict(columns_of, schema=HITS_SCHEMA)


def _by_slide(table: pa.Table) -> list[tuple[str, NDArray[np.int64]]]:
    """Return the object_ids of each slide of a table that is sorted by slide_id."""
    names = table["slide_id"].combine_chunks().dictionary_encode()
    numbers = names.indices.to_numpy(zero_copy_only=False)
    rows = table["object_id"].to_numpy().astype(np.int64)
    if not len(numbers):
        return []
    starts = np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]])).tolist()
    stops = [*starts[1:], len(numbers)]
    labels = names.dictionary.to_pylist()
    return [(labels[numbers[start]], rows[start:stop]) for start, stop in zip(starts, stops, strict=True)]
