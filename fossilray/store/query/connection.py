"""SQL queries over a run by DuckDB, and the crops and embeddings of a query's rows.

Views: `objects` (one row per object, `well` included), `slides` (one row per committed slide), `samples` (one row per
slide of the catalog), `failures`, `catalog`, and `predictions` and `embeddings` (derived results: one row per object
and name). A row's pixels and vector are in the Zarr group that its `arrays` column names, at index `object_id`;
`load_crops` and `load_embeddings` fetch them for any result that has these two columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.core.config import AccessConfig
from fossilray.core.copies import find_copies_in
from fossilray.core.errors import QueryError
from fossilray.core.extra_columns import extra_names
from fossilray.core.records import CatalogRow, Failure
from fossilray.core.schemas import CATALOG_SCHEMA, FAILURES_SCHEMA
from fossilray.store.arrays.crops import read_crops
from fossilray.store.dataset.dataset_store import open_run
from fossilray.store.derived.listing import DerivedListing, list_derived
from fossilray.store.files.base import is_remote
from fossilray.store.files.options import readers_filesystem
from fossilray.store.query.damaged_views import (
    Check,
    CheckedView,
    create_view,
    derived_checks,
    leave_out_damaged,
    may_be_a_file,
    objects_checks,
)
from fossilray.store.query.extra_views import with_extra_columns
from fossilray.store.query.vectors import VectorReader, gather_rows
from fossilray.store.query.views import (
    correction_tables,
    derived_sql,
    derived_types,
    escape_glob,
    object_types,
    objects_sql,
    quote,
    with_genera_sql,
)
from fossilray.store.run.doubts import add_comparisons
from fossilray.store.run.layout import DERIVED_KINDS, OBJECTS, DerivedKind
from fossilray.store.run.run_store import RunStore
from fossilray.store.run.slide_states import read_states
from fossilray.store.samples.corrections import NO_CORRECTIONS, Corrections, samples_table

if TYPE_CHECKING:
    import duckdb

    Connection: TypeAlias = duckdb.DuckDBPyConnection


VIEWS = ("objects", "slides", "samples", "failures", "catalog", *reversed(DERIVED_KINDS))
_CORRECTIONS: WeakKeyDictionary[Connection, Corrections] = WeakKeyDictionary()
"""The corrections that the views of a connection show, as they were when it was opened."""


def connect(store: RunStore, *, sql: str = "") -> Connection:
    """Open an in-memory DuckDB connection with the tables of a run or a dataset as views.

    Views: `objects`, `slides`, `samples`, `failures`, `catalog`, `predictions` and `embeddings`; a table without rows
    is an empty view. `well` is text in all of them. All but `catalog` show wells and depths as they were last
    corrected (`fossilray samples import`). DuckDB neither installs nor downloads extensions.

    Args:
        store: what `open_run` returned.
        sql: the SQL that will be run. `predictions` and `embeddings` are created only if it names them, because
            listing their files takes as long as listing those of the objects.

    Returns:
        A `duckdb.DuckDBPyConnection`.

    Raises:
        RunNotFound: there is no run at this path or URL.
        StoreError: the run cannot be read.

    Example:
        >>> import fossilray
        >>> connection = fossilray.connect(fossilray.open_run("census"))
        >>> sizes = connection.sql("SELECT slide_id, median(width_um) FROM objects GROUP BY slide_id").fetchall()
    """
    store.read_run()
    con = _open_duckdb(store)
    corrections = _CORRECTIONS[con] = store.sample_corrections()
    if corrections:
        for name, table in correction_tables(corrections).items():
            con.register(f"{name}_rows", table)
            con.execute(f"CREATE TABLE {name} AS SELECT * FROM {name}_rows")
            con.unregister(f"{name}_rows")
    create_objects_view(con, store, None)
    con.register("failures", failures_table(store))
    is_needed = re.search(r"\b(catalog|samples)\b", sql, re.IGNORECASE) is not None
    rows = store.read_catalog() if is_needed else store.readable_catalog()
    names = extra_names(rows or ())
    con.register("slides", with_extra_columns(slides_table(store), names))
    if rows is not None:
        frozen = _to_table(rows, CATALOG_SCHEMA)
        con.register("catalog", with_extra_columns(frozen, names))
        con.register("samples", samples_table(frozen, corrections))
    if re.search(rf"\b({'|'.join(DERIVED_KINDS)})\b", sql, re.IGNORECASE):
        create_derived_views(con, store)
    return con


def slides_table(store: RunStore) -> pa.Table:
    """Return SLIDES_SCHEMA and `copy_of`, the slide_id of the slide that is the same scan; null for all others.

    The column doubts has the findings that compare slides of a well, too.
    """
    table = add_comparisons(store.summaries_table())
    copies = find_copies_in(table)
    return table.append_column(
        "copy_of", pa.array(map(copies.get, table["slide_id"].to_pylist()), pa.string())
    )


def failures_table(store: RunStore) -> pa.Table:
    """Return FAILURES_SCHEMA and `state`, the state of the slide as `fossilray status` counts it."""
    states = read_states(store)
    table = _to_table(states.failures, FAILURES_SCHEMA)
    return table.append_column(
        "state", pa.array([states.by_slide[failure.slide_id] for failure in states.failures], pa.string())
    )


def create_objects_view(
    con: Connection,
    store: RunStore,
    files: Mapping[str, str] | None,
    *,
    view: str = VIEWS[0],
    genera: DerivedListing | None = None,
) -> None:
    """Create the view `objects`, or one of another name, over all slides or some.

    files: the file of each slide by slide_id, a subset of `committed_files`; None: all. Reading a few files by name
        bounds the time of a report over 150,000 slides; a file of a compacted dataset holds other slides too.
    genera: predictions that are added to the objects as the columns genus, genus_score, genus_entropy, genus_2 and
        genus_2_score.
    """
    corrections = _CORRECTIONS.get(con, NO_CORRECTIONS)

    def sql(without: frozenset[str]) -> str:
        objects = objects_sql(store, files, without=without, corrections=corrections)
        return objects if genera is None else with_genera_sql(objects, genera, files, without=without)

    def checks() -> dict[str, Check]:
        read = objects_checks(store, files)
        if genera is None:
            return read
        chosen = {
            slide_id: path for slide_id, path in genera.files.items() if files is None or slide_id in files
        }
        return {**read, **_named_checks([replace(genera, files=chosen)])}

    irregular = partial(store.files.irregular, OBJECTS) if files is None else tuple
    checked = CheckedView(sql, checks, store.left_out, irregular=irregular, types=object_types())
    _create_view(con, view, checked)


def create_derived_views(con: Connection, store: RunStore) -> None:
    """Create the views `predictions` and `embeddings` of all derived results, under all names.

    They join `objects` by slide_id and object_id.
    """
    for kind in DERIVED_KINDS:
        listed = list_derived(store, kind)
        view = CheckedView(
            partial(_derived_sql, kind, listed, _CORRECTIONS.get(con, NO_CORRECTIONS)),
            partial(_named_checks, listed),
            store.left_out,
            irregular=partial(_named_irregular, listed),
            types=derived_types(kind),
        )
        _create_view(con, kind, view)


def _derived_sql(
    kind: DerivedKind, listed: Sequence[DerivedListing], corrections: Corrections, without: frozenset[str]
) -> str:
    return derived_sql(kind, listed, without=without, corrections=corrections)


def create_parquet_view(
    con: Connection, store: RunStore, url: str, *, view: str, access: AccessConfig
) -> None:
    """Create a view over a Parquet file at a path or URL.

    Raises:
        QueryError: the file cannot be read.
    """
    import duckdb

    protocol = url.partition("://")[0]
    if is_remote(url) and not store.url.startswith(f"{protocol}://"):
        con.register_filesystem(readers_filesystem(protocol, access))
    try:
        con.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM read_parquet({quote(escape_glob(url))})")
    except duckdb.Error as error:
        raise QueryError(f"{url} is not readable as Parquet ({_first_paragraph(error)})") from None


def query(run: RunStore | str | Path, sql: str) -> pa.Table:
    """Run one SQL statement of DuckDB's dialect over the tables of a run or a dataset.

    Tables: `objects`, `slides`, `samples`, `failures`, `catalog`, `predictions` and `embeddings`;
    docs/guide/run-directory.md explains every column. Coordinates are level-0 pixels, sizes are micrometres.

    Args:
        run: what `open_run` returned, or the path or URL of a run or a dataset.
        sql: one statement.

    Returns:
        All rows of the result, as a `pyarrow.Table`.

    Raises:
        QueryError: DuckDB refuses the SQL.
        RunNotFound: there is no run at this path or URL.
        StoreError: the run cannot be read.

    Example:
        >>> import fossilray
        >>> wells = fossilray.query("census", "SELECT well, count(*) AS objects FROM objects GROUP BY well")
    """
    return run_query(run if isinstance(run, RunStore) else open_run(run), sql)


def run_query(store: RunStore, sql: str) -> pa.Table:
    """Run one SQL statement over a run's views.

    Raises:
        QueryError: DuckDB refuses the SQL.
    """
    return query_table(connect(store, sql=sql), sql)


def query_table(con: Connection, sql: str, *, most_rows: int | None = None) -> pa.Table:
    """Return the result of SQL on a connection of `connect`, or its first rows.

    Raises:
        QueryError: DuckDB refuses the SQL.
    """
    import duckdb

    views = ", ".join(VIEWS)
    try:
        if not con.extract_statements(sql):
            raise QueryError(f"the SQL is empty; run for example SELECT * FROM slides, of the views {views}")
        try:
            return _table_of(con, sql, most_rows)
        except duckdb.Error as error:
            if not (may_be_a_file(error) and leave_out_damaged(con)):
                raise
        return _table_of(con, sql, most_rows)
    except duckdb.Error as error:
        raise _refusal(error, f"; the views are {views}") from None


def _table_of(con: Connection, sql: str, most_rows: int | None) -> pa.Table:
    relation: duckdb.DuckDBPyRelation | None = con.sql(sql)
    # A statement such as COPY has no result.
    if relation is None:
        return pa.table({})
    return (relation if most_rows is None else relation.limit(most_rows)).to_arrow_table()


def _create_view(con: Connection, name: str, view: CheckedView) -> None:
    import duckdb

    try:
        create_view(con, name, view)
    except duckdb.Error as error:
        raise _refusal(error, "") from None


def _named_checks(listed: Sequence[DerivedListing]) -> dict[str, Check]:
    return {
        f"{listing.results.name}/{path}": check
        for listing in listed
        for path, check in derived_checks(listing).items()
    }


def _named_irregular(listed: Sequence[DerivedListing]) -> list[str]:
    return [
        f"{listing.results.name}/{path}" for listing in listed for path in listing.results.files.irregular("")
    ]


def _refusal(error: Exception, rest: str) -> QueryError:
    import duckdb

    text = _first_paragraph(error)
    if isinstance(error, duckdb.Error) and may_be_a_file(error):
        rest += "; where the message names no file, `fossilray verify RUN --deep` finds a damaged one"
    return QueryError(text + rest)


def objects_where(condition: str | None) -> str:
    """Return the SQL of the objects that meet a condition on the columns of `objects`, in their canonical order."""
    # The line breaks keep a comment at the end of the condition from swallowing what follows.
    chosen = f"WHERE (\n{condition}\n)" if condition else ""
    return f"SELECT * FROM objects {chosen} ORDER BY well, slide_id, object_id"


def load_crops(store: RunStore, table: pa.Table) -> NDArray[np.uint8]:
    """Load the crops of the rows of a query, in their order; one ranged read per crop.

    Args:
        store: the run or dataset that was queried.
        table: a result with the columns `arrays` and `object_id`, as `SELECT * FROM objects` gives it.

    Returns:
        (n, S, S, 3) uint8 RGB, with S = `crops.size_px` of the run; (0, 0, 0, 3) for a table without rows. The crop of
        an object whose pixels could not be read is uniformly grey.

    Raises:
        QueryError: the result lacks the columns `arrays` and `object_id`.
        StoreError: the arrays are missing or damaged.

    Example:
        >>> import fossilray
        >>> run = fossilray.open_run("census")
        >>> largest = fossilray.query(run, "SELECT * FROM objects ORDER BY area_um2 DESC LIMIT 8")
        >>> crops = fossilray.load_crops(run, largest)
    """
    home = store.source_run
    return gather_rows(
        table, lambda path, rows: read_crops(home, path, rows), empty=np.zeros((0, 0, 0, 3), np.uint8)
    )


def load_embeddings(store: RunStore, table: pa.Table, *, name: str | None = None) -> NDArray[np.float16]:
    """Load the embeddings of the rows of a query, in their order.

    Args:
        store: the run or dataset that was queried.
        table: a result with the columns `arrays` and `object_id`, as `SELECT * FROM objects` gives it.
        name: embeddings that `fossilray embed` made later, by their name; by default the run's own.

    Returns:
        (n, d) float16 as the backbone gave them, not scaled to length 1; (0, 0) for a table without rows.

    Raises:
        QueryError: the result lacks the columns `arrays` and `object_id`, or the run made no embeddings.
        RunNotFound: the run has no embeddings of this name.
        StoreError: the arrays are missing or damaged.

    Example:
        >>> import fossilray
        >>> run = fossilray.open_run("census")
        >>> isolated = fossilray.query(run, "SELECT * FROM objects WHERE isolated")
        >>> vectors = fossilray.load_embeddings(run, isolated)
    """
    return VectorReader(store, name).rows(table)


def _open_duckdb(store: RunStore) -> Connection:
    import duckdb

    con = duckdb.connect(
        ":memory:",
        config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"},
    )
    # The derived results of a dataset's objects are in its source run, which may be in another store.
    homes = {home.url.partition("://")[0]: home for home in (store.source_run, store) if is_remote(home.url)}
    for home in homes.values():
        con.register_filesystem(home.filesystem)
    return con


def _to_table(rows: Sequence[Failure] | Sequence[CatalogRow], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)


def _first_paragraph(error: Exception) -> str:
    """The first paragraph of DuckDB's message, without the drawing that marks the position."""
    return " ".join(str(error).split("\n\n")[0].split()).rstrip(".")
