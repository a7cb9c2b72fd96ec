"""How long questions take over many millions of objects: the run as it was written, and compacted.

python benchmarks/queries.py [--rows 30000000] [--wells 100] [--rounds 5] [--keep DIR]

Objects are made up; files are those of the real store, for every slide is committed through it and the run is then
compacted. Arrays are mere names. Questions go through `connect` of
`fossilray.store.query.connection` with two threads, in turns over run and
dataset. "cold" is the first execution on a new connection after the operating system dropped its cache of the files;
"warm" is the median of further executions on that connection, with the quartiles. Files and row groups (of up to
122,880 rows) are those that DuckDB reports for the dataset.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import duckdb
import numpy as np
import pyarrow as pa
import typer
from compact import some_objects, summarise

from fossilray.core.config import RunConfig, StoreConfig
from fossilray.core.records import ArrayFiles
from fossilray.store import RunStore, open_run
from fossilray.store.dataset.compact import compact_run
from fossilray.store.query.connection import connect
from fossilray.store.run.layout import arrays_path
from fossilray.store.run.run_record import describe_run

OBJECTS_A_SLIDE = 20_000
THREADS = 2
ORDER_BLOCK_PX = 2048
"""Side of the blocks in whose order the objects of a slide are stored."""
TOUCHED = f"{'files':>6} {'groups':>8}"
SIZE_CLASS = "(width_um / 25)::UTINYINT AS size_class"
"""Stands for what a census counts (genera come later, from a table of their own): classes of 25 um."""
WELL, SLIDE = "6407/3-1", "slide-000003"
QUERIES = {
    "count": "SELECT count(*) FROM objects",
    "by well and depth": "SELECT well, measured_depth_m, count(*) FROM objects GROUP BY ALL ORDER BY ALL",
    "by well and size": f"SELECT well, {SIZE_CLASS}, count(*) FROM objects GROUP BY ALL ORDER BY ALL",
    "one slide, all columns": f"SELECT * FROM objects WHERE well = '{WELL}' AND slide_id = '{SLIDE}'",
    "window on a slide": "SELECT object_id, x_min, y_min, x_max, y_max, score FROM objects "
    f"WHERE well = '{WELL}' AND slide_id = '{SLIDE}' AND x_min < 24000 AND x_max > 20000 AND y_min < 24000 "
    "AND y_max > 20000",
    "100 best scores": "SELECT well, slide_id, object_id, score FROM objects ORDER BY score DESC LIMIT 100",
}


@dataclass(frozen=True)
class Timing:
    """Timing of one query of a run or a dataset."""

    cold_s: float
    warm_s: tuple[float, ...]
    files: int
    row_groups: int
    """Of up to 122,880 rows; both as counted by DuckDB."""
    rows: list[tuple[object, ...]]

    def __str__(self) -> str:
        low, _, high = quantiles(self.warm_s, n=4)
        return f"{self.cold_s:8.3f} {median(self.warm_s):8.3f} {low:7.3f}-{high:.3f}"


def main(
    rows: Annotated[int, typer.Option(help="Objects in all, 20,000 a slide.")] = 30_000_000,
    wells: Annotated[int, typer.Option(min=4, help="Wells that the slides are spread over.")] = 100,
    rounds: Annotated[int, typer.Option(min=3, help="Warm executions of each query.")] = 5,
    keep: Annotated[
        Path | None, typer.Option(help="Folder for run and dataset, reused when they are there.")
    ] = None,
) -> None:
    """Write, compact, query and print."""
    with tempfile.TemporaryDirectory(prefix="fossilray-queries-") as scratch:
        folder = keep or Path(scratch)
        if not (folder / "dataset" / "dataset.json").exists():
            make(folder, slides=-(-rows // OBJECTS_A_SLIDE), wells=wells)
        folders = [folder / "run", folder / "dataset"]
        for folder in folders:
            describe(folder)
        time_queries(folders, rounds)
        follow_partitions(folders[1], wells, rounds)


def make(folder: Path, *, slides: int, wells: int) -> None:
    """The run, committed slide by slide through the real store, and its compacted dataset."""
    began_s = time.perf_counter()
    store = RunStore.open(str(folder / "run"))
    store.create_or_check(describe_run(RunConfig(), {}))
    rng = np.random.default_rng(1)
    written = []
    for number in range(slides):
        slide_id, attempt = f"slide-{number:06d}", f"{number:016x}"
        arrays = ArrayFiles(arrays_path(slide_id, attempt), {"zarr.json": 1}, {"zarr.json": "00"})
        summary = summarise(slide_id, attempt, well=f"6407/{number % wells}-1", objects=OBJECTS_A_SLIDE)
        table = in_row_order(some_objects(slide_id, arrays.path, OBJECTS_A_SLIDE, rng))
        depth = pa.array(np.full(OBJECTS_A_SLIDE, 2000.0 + 10 * (number // wells)))
        at = table.column_names.index("measured_depth_m")
        assert store.commit_slide(table.set_column(at, table.schema.field(at), depth), summary, arrays)
        written.append(summary)
    store.append_summaries(written)
    committed_s = time.perf_counter() - began_s
    report = compact_run(store, str(folder / "dataset"), access=StoreConfig())
    print(
        f"{report.objects:,} objects of {report.slides:,} slides in {wells} wells: committed in {committed_s:.0f} s, "
        f"compacted and verified in {report.seconds:.0f} s"
    )


def in_row_order(table: pa.Table) -> pa.Table:
    """The objects block by block, as merging leaves them, numbered again."""
    x, y = (np.asarray(table[name]) for name in ("x_min", "y_min"))
    sorted_table = table.take(np.lexsort((x, y, x // ORDER_BLOCK_PX, y // ORDER_BLOCK_PX)))
    at = table.column_names.index("object_id")
    return sorted_table.set_column(at, table.schema.field(at), table["object_id"])


def describe(folder: Path) -> None:
    """Print the number and size of files, and the time to open them."""
    files = list((folder / "objects").rglob("*.parquet"))
    seconds = []
    for _ in range(3):
        began_s = time.perf_counter()
        connect(open_run(str(folder)))
        seconds.append(time.perf_counter() - began_s)
    size_gb = sum(path.stat().st_size for path in files) / 1e9
    print(f"{folder.name:8} {len(files):6,} files {size_gb:6.2f} GB, connect {median(seconds):.3f} s")


def time_queries(folders: list[Path], rounds: int) -> None:
    """Time every query of run and dataset; the rows must agree."""
    heading = f"{'cold s':>8} {'warm s':>8} {'quarters':>13}"
    print(f"\n{'':24} {'run':>31} {'dataset':>31}\n{'':24} {heading} {heading} {TOUCHED}")
    for name, sql in QUERIES.items():
        run, dataset = (time_query(folder, sql, rounds) for folder in folders)
        if name != "100 best scores":  # equal scores may come in any order
            assert sorted(map(repr, run.rows)) == sorted(map(repr, dataset.rows)), name
        print(f"{name:24} {run} {dataset} {dataset.files:6,} {dataset.row_groups:8,}")


def follow_partitions(dataset: Path, wells: int, rounds: int) -> None:
    """The same query over more and more wells of the dataset."""
    print(f"\n{'by size, of':24} {'cold s':>8} {'warm s':>8} {'quarters':>13} {TOUCHED}")
    for count in sorted({1, min(10, wells), wells}):
        chosen = ", ".join(f"'6407/{number}-1'" for number in range(count))
        sql = f"SELECT well, {SIZE_CLASS}, count(*) FROM objects WHERE well IN ({chosen}) GROUP BY ALL ORDER BY ALL"
        timing = time_query(dataset, sql, rounds)
        print(f"{f'{count} wells':24} {timing} {timing.files:6,} {timing.row_groups:8,}")


def time_query(folder: Path, sql: str, rounds: int) -> Timing:
    """Execute a query on a new connection, first with cold files, then repeatedly."""
    forget(folder)
    con = open_connection(folder)
    seconds = []
    rows: list[tuple[object, ...]] = []
    for _ in range(rounds + 1):
        began_s = time.perf_counter()
        rows = con.execute(sql).fetchall()
        seconds.append(time.perf_counter() - began_s)
    explained = con.execute(f"EXPLAIN ANALYZE {sql}").fetchall()[0][1]
    return Timing(
        seconds[0],
        tuple(seconds[1:]),
        counted(explained, r"Total Files Read: *(\d+)"),
        counted(explained, r"Row Groups Scanned: *(\d+)"),
        rows,
    )


def open_connection(folder: Path) -> duckdb.DuckDBPyConnection:
    con = connect(open_run(str(folder)))
    con.execute(f"SET threads = {THREADS}")
    return con


def counted(explained: str, pattern: str) -> int:
    """Return a count from the output of EXPLAIN ANALYZE; 0 if this version of DuckDB does not report it."""
    match = re.search(pattern, explained)
    return int(match[1]) if match else 0


def forget(folder: Path) -> None:
    """Drop the operating system's cache of the files."""
    for path in (folder / "objects").rglob("*.parquet"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


if __name__ == "__main__":
    typer.run(main)
