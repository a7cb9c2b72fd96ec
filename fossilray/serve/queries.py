"""SQL over a run from the pages: two queries at once, with results as JSON, CSV or Parquet."""

from __future__ import annotations

import asyncio
import threading
from typing import Annotated, Any

import pyarrow as pa
from fastapi import APIRouter, HTTPException, Query, Request, Response

from fossilray.core.errors import QueryError
from fossilray.render.tables import encode_table
from fossilray.serve.messages import ColumnMessage, QueryMessage
from fossilray.serve.request_parts import Run
from fossilray.serve.served_run import ServedRun
from fossilray.store.query.read_only import BoundedResult, QueryLimits, run_read_only

query_router = APIRouter(prefix="/api")

SHOWN = QueryLimits(rows=1000)
SAVED = QueryLimits(rows=1_000_000, seconds=120, result_bytes=500e6)
_AT_ONCE = 2
_POLL_S = 0.2
_running = threading.BoundedSemaphore(_AT_ONCE)

Sql = Annotated[str, Query(min_length=1, max_length=8000)]


@query_router.get("/runs/{run}/query")
async def query(request: Request, served: Run, sql: Sql) -> QueryMessage:
    """The first rows of one SELECT over the views of a run."""
    result = await _run_bounded(request, served, sql, SHOWN)
    return QueryMessage(
        columns=[ColumnMessage(name=field.name, type=str(field.type)) for field in result.table.schema],
        rows=[[_plain(value) for value in row.values()] for row in _rows_of(result.table)],
        is_whole=result.is_whole,
        seconds=round(result.seconds, 3),
    )


@query_router.get("/runs/{run}/query.csv", response_class=Response)
async def query_as_csv(request: Request, served: Run, sql: Sql) -> Response:
    """The result of one SELECT as CSV; refused if it has more than a million rows."""
    content = encode_table(await _whole(request, served, sql), "csv")
    return _file(content, "text/csv; charset=utf-8", "query.csv")


@query_router.get("/runs/{run}/query.parquet", response_class=Response)
async def query_as_parquet(request: Request, served: Run, sql: Sql) -> Response:
    """The result of one SELECT as Parquet; refused if it has more than a million rows."""
    content = encode_table(await _whole(request, served, sql), "parquet")
    return _file(content, "application/vnd.apache.parquet", "query.parquet")


async def _whole(request: Request, served: ServedRun, sql: str) -> pa.Table:
    result = await _run_bounded(request, served, sql, SAVED)
    if not result.is_whole:
        raise HTTPException(
            422, f"the result has more than {SAVED.rows:,} rows; save a larger one by `fossilray query`"
        )
    return result.table


async def _run_bounded(request: Request, served: ServedRun, sql: str, limits: QueryLimits) -> BoundedResult:
    """Run a query in a thread, and end it when the page that sent it is gone."""
    gone = threading.Event()

    def run() -> BoundedResult:
        while not _running.acquire(timeout=_POLL_S):
            if gone.is_set():
                raise QueryError("the query was cancelled")
        try:
            return run_read_only(served.store, sql, limits=limits, is_cancelled=gone.is_set)
        finally:
            _running.release()

    running = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        while not running.done():
            await asyncio.wait({running}, timeout=_POLL_S)
            if await request.is_disconnected():
                gone.set()
        return running.result()
    except QueryError as error:
        raise HTTPException(422, str(error)) from None
    finally:
        gone.set()


def _rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows; columns of one name are kept apart by their position."""
    rows: list[dict[str, Any]] = table.rename_columns(list(map(str, range(table.num_columns)))).to_pylist()
    return rows


def _plain(value: object) -> object:
    """Return a value that JSON has; numbers that JSON lacks as text."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    if isinstance(value, int) and abs(value) >= 2**53:
        return str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _file(content: bytes, media_type: str, name: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
    return Response(content, media_type=media_type, headers=headers)
