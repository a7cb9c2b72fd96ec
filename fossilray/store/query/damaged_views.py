"""Views over Parquet files of which some may be damaged: found once DuckDB has failed, named, and left out.

DuckDB fails as a whole over one torn file of 150,000. To read every footer before each query would cost minutes, so
nothing is checked until a query fails in a way that a file may have caused; then the footers of the view's files are.
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
from fossilray.store.dataset.dataset_store import DatasetStore
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
"""Raises DamagedFile if the file is; given whether to read all of it."""


@dataclass
class CheckedView:
    """A view, the files that it reads, and its SQL without some of them."""

    sql: Callable[[frozenset[str]], str]
    """Given the files to leave out, by their keys in `checks`."""
    checks: Callable[[], Mapping[str, Check]]
    left_out: LeftOut
    without: set[str] = field(default_factory=set)
    irregular: Callable[[], Iterable[str]] = tuple
    """Lists the keys of files that DuckDB passes over where it lists a folder itself: they are not regular files."""
    types: Mapping[str, str] = field(default_factory=dict)
    """DuckDB's name of the type that each of these columns should have."""


_VIEWS: WeakKeyDictionary[duckdb.DuckDBPyConnection, dict[str, CheckedView]] = WeakKeyDictionary()


def create_view(con: duckdb.DuckDBPyConnection, name: str, view: CheckedView) -> None:
    """Let a view of this name exist, without damaged files if DuckDB cannot read its first one.

    Raises:
        duckdb.Error: DuckDB refuses it for another reason.
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
    # DuckDB takes a view's types from its first file, and casts what other files hold to those.
    if _has_other_types(con, name, view):
        leave_out_damaged(con)


def _has_other_types(con: duckdb.DuckDBPyConnection, name: str, view: CheckedView) -> bool:
    if not view.types:
        return False
    # As the catalog has them since the view was made; no file is read.
    rows = con.execute("SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ?", [name])
    found = dict(rows.fetchall())
    return any(_family(found.get(column, kind)) != _family(kind) for column, kind in view.types.items())


def _family(kind: str) -> str:
    """Types that differ in width alone are one."""
    if kind.endswith("INT") or kind == "INTEGER":
        return "whole number"
    return "number" if kind in ("FLOAT", "DOUBLE") else kind


def may_be_a_file(error: duckdb.Error) -> bool:
    """Whether a damaged file, and not the SQL, may have caused an error of DuckDB."""
    import duckdb

    of_the_sql = (
        duckdb.ParserException,
        duckdb.BinderException,
        duckdb.CatalogException,
        duckdb.ConversionException,
        duckdb.OutOfRangeException,
        duckdb.TypeMismatchException,
    )
    return not isinstance(error, of_the_sql) or ".parquet" in str(error)


def leave_out_damaged(con: duckdb.DuckDBPyConnection) -> bool:
    """Look for damaged files among those of the connection's views, and make the views without them.

    Each is named in its store's `left_out`. False if there are none.
    """
    views = _VIEWS.get(con, {})
    found = [_find(view, whole=False) for view in views.values()]
    if not any(found):
        found = [_find(view, whole=True) for view in views.values()]
    for (name, view), damaged in zip(views.items(), found, strict=True):
        if damaged:
            view.without |= damaged
            _execute(con, name, view)
    return any(found)


def _execute(con: duckdb.DuckDBPyConnection, name: str, view: CheckedView) -> None:
    con.execute(f"CREATE OR REPLACE VIEW {name} AS {view.sql(frozenset(view.without))}")


def _find(view: CheckedView, *, whole: bool, among: Collection[str] | None = None) -> set[str]:
    """Keys of damaged files that the view still reads. among: the files to check; None: all."""
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
    """A check for each file of objects, by its path in the run."""
    paths = store.committed_files() if files is None else files
    return {path: partial(_check_objects, store, path) for path in sorted(set(paths.values()))}


def derived_checks(listed: DerivedListing) -> dict[str, Check]:
    """A check for each slide's file of predictions or embeddings, by its path in their folder."""
    return {path: partial(_check_derived, listed, path) for path in sorted(listed.files.values())}


def _check_objects(store: RunStore, path: str, whole: bool) -> None:
    name = f"{store.url}/{path}"
    role = dataset_part(name) if isinstance(store, DatasetStore) else objects_file(name)
    if whole:
        conform(read_table(store.files.read(path), role), OBJECTS_SCHEMA, role)
        return
    tail = read_tail_of(lambda size: store.files.read_tail(path, size))
    metadata = read_parquet_metadata(tail, role)
    if not isinstance(store, DatasetStore):
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
