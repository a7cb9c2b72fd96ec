"""SQL of people who may only look: one SELECT over a run's views, bounded in time, memory and rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from fossilray.core.errors import QueryError
from fossilray.store.query.connection import connect, query_table
from fossilray.store.query.views import quote
from fossilray.store.run.layout import DERIVED_KINDS, OBJECTS
from fossilray.store.run.run_store import RunStore

if TYPE_CHECKING:
    import duckdb

_POLL_S = 0.05


@dataclass(frozen=True)
class QueryLimits:
    """Bounds of one query."""

    rows: int = 1000
    seconds: float = 30.0
    memory_gb: float = 1.0
    threads: int = 2
    result_bytes: float = 100e6


@dataclass(frozen=True)
class BoundedResult:
    """The first rows of a query's result."""

    table: pa.Table
    is_whole: bool
    """Whether the result has no further rows."""
    seconds: float


def run_read_only(
    store: RunStore,
    sql: str,
    *,
    limits: QueryLimits = QueryLimits(),
    is_cancelled: Callable[[], bool] = lambda: False,
) -> BoundedResult:
    """Run one SELECT over a run's views, on a connection that can do nothing else.

    The connection reads the run's Parquet files alone. It opens no other file, writes none, loads no extension, and its
    configuration is locked.

    Args:
        is_cancelled: is called all the time while the query runs; the query ends when it returns True.

    Raises:
        QueryError: the SQL is not one SELECT, DuckDB refuses it, or it exceeds a limit.
        StoreError: the run cannot be read.
    """
    began = time.monotonic()
    con = connect(store, sql=sql)
    _require_select(con, sql)
    _lock(con, store, limits)
    try:
        with _interrupting(con, limits.seconds, is_cancelled) as reason:
            try:
                table = query_table(con, sql, most_rows=limits.rows + 1)
            except QueryError as error:
                raise QueryError(reason() or _explain(error, limits)) from None
    finally:
        con.close()
    if table.nbytes > limits.result_bytes:
        raise QueryError(
            f"the result has {table.nbytes / 1e6:,.0f} MB, more than {limits.result_bytes / 1e6:,.0f}; select fewer "
            "columns or rows"
        )
    return BoundedResult(table.slice(0, limits.rows), len(table) <= limits.rows, time.monotonic() - began)


def _require_select(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    import duckdb

    try:
        statements = con.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(" ".join(str(error).split("\n\n")[0].split())) from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError("give one SELECT; statements that write, load or change settings are not run here")


def _lock(con: duckdb.DuckDBPyConnection, store: RunStore, limits: QueryLimits) -> None:
    """Allow a connection to read the run's Parquet files, and nothing else."""
    folders = [f"{store.url}/{OBJECTS}/"]
    folders += [f"{home}/{kind}/" for home in {store.url, store.source_run.url} for kind in DERIVED_KINDS]
    for setting in (
        f"threads = {limits.threads}",
        f"memory_limit = '{limits.memory_gb}GB'",
        "temp_directory = ''",
        "python_enable_replacements = false",
        f"allowed_directories = [{', '.join(map(quote, folders))}]",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        con.execute(f"SET {setting}")


@contextmanager
def _interrupting(
    con: duckdb.DuckDBPyConnection, seconds: float, is_cancelled: Callable[[], bool]
) -> Iterator[Callable[[], str]]:
    """Interrupt what the connection runs after some seconds, or when it is cancelled; give the reason."""
    reasons: list[str] = []
    done = threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + seconds
        while not done.wait(_POLL_S):
            if is_cancelled():
                reasons.append("the query was cancelled")
            elif time.monotonic() > deadline:
                reasons.append(
                    f"the query ran for {seconds:g} s and was ended; select less, or run `fossilray query`"
                )
            if reasons:
                con.interrupt()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield lambda: reasons[0] if reasons else ""
    finally:
        done.set()
        watching.join()


def _explain(error: QueryError, limits: QueryLimits) -> str:
    text = str(error)
    if "Out of Memory" in text:
        return f"the query needs more than {limits.memory_gb:g} GB of memory; select less, or run `fossilray query`"
    if "file system operations are disabled" in text:
        return "a query here reads the views of the run alone, no other file"
    return text
