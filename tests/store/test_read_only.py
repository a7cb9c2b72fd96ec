"""Queries of people who may only look read a run's views and do nothing else, within limits."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support.small_run import COUNTS, write_small_run

from fossilray.core.errors import QueryError
from fossilray.store import RunStore
from fossilray.store.query.read_only import QueryLimits, run_read_only


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return write_small_run(tmp_path_factory.mktemp("looked-at") / "run")


def test_views_are_read_and_rows_are_bounded(run: RunStore) -> None:
    counted = run_read_only(run, "SELECT count(*) AS n FROM objects -- all")
    assert (counted.table["n"].to_pylist(), counted.is_whole) == ([sum(COUNTS.values())], True)
    some = run_read_only(run, "FROM objects ORDER BY ALL", limits=QueryLimits(rows=10))
    assert (len(some.table), some.is_whole) == (10, False)
    assert run_read_only(run, "SELECT * FROM slides", limits=QueryLimits(rows=len(COUNTS))).is_whole


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{run}/objects/x.csv'",
        "SELECT 1; COPY (SELECT 1) TO '{run}/objects/x.csv'",
        "SELECT 1) LIMIT 1; COPY (SELECT 1) TO '{run}/objects/x.csv'; SELECT * FROM (SELECT 1",
        "SELECT * FROM query('COPY (SELECT 1) TO ''{run}/objects/x.csv''')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_text('{run}/run.json')",
        "SELECT * FROM read_text('{run}/objects/../run.json')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT getenv('HOME')",
        "SELECT * FROM sql",
        "SELECT * FROM store",
        "ATTACH '{run}/objects/x.db'",
        "INSTALL httpfs",
        "SET threads = 64",
        "PRAGMA database_list",
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW objects",
        "",
    ],
)
def test_nothing_else_is_read_written_or_set(run: RunStore, sql: str) -> None:
    before = sorted(Path(run.url).rglob("*"))
    with pytest.raises(QueryError):
        run_read_only(run, sql.replace("{run}", run.url))
    assert sorted(Path(run.url).rglob("*")) == before


def test_a_query_that_never_ends_is_ended_or_cancelled(run: RunStore) -> None:
    endless = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b WHERE a.range * b.range = -1"
    with pytest.raises(QueryError, match=r"ran for 0\.3 s"):
        run_read_only(run, endless, limits=QueryLimits(seconds=0.3))
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    with pytest.raises(QueryError, match="was cancelled"):
        run_read_only(run, endless, is_cancelled=cancelled.is_set)


def test_memory_and_the_size_of_the_result_are_bounded(run: RunStore) -> None:
    with pytest.raises(QueryError, match=r"more than 0\.1 GB"):
        run_read_only(run, "SELECT list(range) FROM range(50000000)", limits=QueryLimits(memory_gb=0.1))
    with pytest.raises(QueryError, match="more than 1; select fewer"):
        run_read_only(run, "SELECT repeat('x', 30000) FROM range(1000)", limits=QueryLimits(result_bytes=1e6))
