"""Views over Parquet files that leave out damaged files.

One damaged file of 150,000 fails a whole DuckDB query. Reading every footer before each query would take minutes, so
footers are checked only after a query failed with an error that a file may have caused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from fossilray.core.errors import DamagedFile, StoreError
from fossilray.core.formats.parquet import conform, read_parquet_metadata, read_table
from fossilray.core.parallel import map_in_chunks
from fossilray.core.schemas import OBJECTS_SCHEMA
from fossilray.store.derived.listing import DerivedListing
from fossilray.store.files.base import READ_THREADS
from fossilray.store.run.left_out import LeftOut
from fossilray.store.run.objects_file import parse_tail, read_tail_of
from fossilray.store.run.roles import dataset_part, objects_file
from fossilray.store.run.run_store import RunStore

if TYPE_CHECKING:
    import duckdb

MOST_READ_WHOLE = 500
"""Most files that are read whole where every footer is sound; of more, `fossilray verify --deep` finds the damaged."""

Check = Callable[[bool], None]
"""Raises DamagedFile if the file is damaged. Argument: whether to read all of it."""


@dataclass
class CheckedView:
    """A view: its SQL, and checks of the files that it reads."""

    sql: Callable[[frozenset[str]], str]
    """Return the SQL without some files, named by their keys in `checks`."""
    checks: Callable[[], Mapping[str, Check]]
    left_out: LeftOut
    without: set[str] = field(default_factory=set)
    irregular: Callable[[], Iterable[str]] = tuple
    """List the keys of files that are not regular files; DuckDB skips them when it lists a folder."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Expected DuckDB type of each column."""


_VIEWS: WeakKeyDictionary[duckdb.DuckDBPyConnection, dict[str, CheckedView]] = WeakKeyDictionary()


def create_view(con: duckdb.DuckDBPyConnection, name: str, view: CheckedView) -> None:
    """Create a view, without damaged files if DuckDB cannot read the first file.

    Raises:
        duckdb.Error: DuckDB refuses the view for another reason.
    """
    import duckdb

    _VIEWS.setdefault(con, {})[name] = view
    irregular = set(view.irregular())
    if irregular:
        view.without |= _find(view, whole=False, among=irregular)
    try:
        _execute(con, name, view)
    except duckdb.Error:
        if not leave_out_damaged(con):
            raise
    # DuckDB takes the types of a view from the first file and casts the values of the other files.
    if _has_other_types(con, name, view):
        leave_out_damaged(con)


def _has_other_types(con: duckdb.DuckDBPyConnection, name: str, view: CheckedView) -> bool:
    if not view.types:
        return False
    # Types in DuckDB's catalog since the view was created; no file is read.
    rows = con.execute("SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ?", [name])
    types = dict(rows.fetchall())
    return any(_family(types.get(column, kind)) != _family(kind) for column, kind in view.types.items())


def _family(kind: str) -> str:
    """Map types that differ only in width to one name."""
    if kind.endswith("INT") or kind == "INTEGER":
        return "whole number"
    return "number" if kind in ("FLOAT", "DOUBLE") else kind


def may_be_a_file(error: duckdb.Error) -> bool:
    """Return whether a damaged file, rather than the SQL, may have caused an error of DuckDB."""
    import duckdb

    sql_errors = (
        duckdb.ParserException,
        duckdb.BinderException,
        duckdb.CatalogException,
        duckdb.ConversionException,
        duckdb.OutOfRangeException,
        duckdb.TypeMismatchException,
    )
    return not isinstance(error, sql_errors) or ".parquet" in str(error)


def leave_out_damaged(con: duckdb.DuckDBPyConnection) -> bool:
    """Find the damaged files of a connection's views and create these views again without them.

    Each file is added to its store's `left_out`. Return False if no file is damaged.
    """
    views = _VIEWS.get(con, {})
    damaged_files = [_find(view, whole=False) for view in views.values()]
    if not any(damaged_files):
        damaged_files = [_find(view, whole=True) for view in views.values()]
    for (name, view), damaged in zip(views.items(), damaged_files, strict=True):
        if damaged:
            view.without |= damaged
            _execute(con, name, view)
    return any(damaged_files)


def _execute(con: duckdb.DuckDBPyConnection, name: str, view: CheckedView) -> None:
    con.execute(f"CREATE OR REPLACE VIEW {name} AS {view.sql(frozenset(view.without))}")


def _find(view: CheckedView, *, whole: bool, among: Collection[str] | None = None) -> set[str]:
    """Return the keys of damaged files that the view still reads. among: the files to check; None: all."""
    checks = {
        key: check
        for key, check in view.checks().items()
        if key not in view.without and (among is None or key in among)
    }
    if whole and len(checks) > MOST_READ_WHOLE:
        return set()

    def fault(key: str) -> StoreError | None:
        try:
            checks[key](whole)
        except FileNotFoundError:
            return DamagedFile(f"{key} was listed and is gone; run the query again")
        except DamagedFile as error:
            return error
        return None

    damaged = set()
    for key, error in zip(checks, map_in_chunks(fault, list(checks), threads=READ_THREADS), strict=True):
        if error is not None:
            view.left_out.add(error)
            damaged.add(key)
    return damaged


def objects_checks(store: RunStore, files: Mapping[str, str] | None) -> dict[str, Check]:
    """Return a check for each objects file, by its path in the run."""
    paths = store.committed_files() if files is None else files
    return {path: partial(_check_objects, store, path) for path in sorted(set(paths.values()))}


def derived_checks(listed: DerivedListing) -> dict[str, Check]:
    """Return a check for each slide's file of predictions or embeddings, by its path in their folder."""
    return {path: partial(_check_derived, listed, path) for path in sorted(listed.files.values())}


def _check_objects(store: RunStore, path: str, whole: bool) -> None:
    name = f"{store.url}/{path}"
    role = dataset_part(name) if store.is_dataset else objects_file(name)
    if whole:
        conform(read_table(store.files.read(path), role), OBJECTS_SCHEMA, role)
        return
    tail = read_tail_of(lambda size: store.files.read_tail(path, size))
    metadata = read_parquet_metadata(tail, role)
    if not store.is_dataset:
        footer, rows = parse_tail(tail, name=name)
        if rows != footer.summary.objects:
            raise role.damaged(
                f"it holds {rows:,} rows, and its footer counts {footer.summary.objects:,} objects"
            )
    conform(metadata.schema.to_arrow_schema().empty_table(), OBJECTS_SCHEMA, role)


def _check_derived(listed: DerivedListing, path: str, whole: bool) -> None:
    if whole:
        listed.results.read_file(path)
    else:
        listed.results.footer(path)
