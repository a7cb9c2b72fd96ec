"""Bare DuckDB over a run's files, one a slide, beside the same query over the compacted dataset.

python benchmarks/compact.py [--slides 1000 --objects 200 --wells 12] [--keep DIR]

The run's tables are made up and its arrays are mere names; what is measured is opening and scanning. Each query
runs on both in turns, in connections of their own, and the least of the rounds is printed, for other work on the
machine only adds. Files are in the page cache on both sides; an object store, where each is a request, gains more.
"""

from __future__ import annotations

import resource
import tempfile
import time
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated

import duckdb
import numpy as np
import pyarrow as pa
import typer

from fossilray.core.config import RunConfig, StoreConfig
from fossilray.core.records import ArrayFiles, SlideSummary, utc_now
from fossilray.core.schemas import OBJECTS_SCHEMA
from fossilray.store import RunStore
from fossilray.store.dataset.compact import CompactReport, compact_run
from fossilray.store.run.layout import arrays_path
from fossilray.store.run.run_record import describe_run

QUERIES = {
    "count": "SELECT count(*) FROM objects",
    "by well": "SELECT well, count(*), avg(opacity), median(width_um) FROM objects GROUP BY well ORDER BY well",
    "filter": "SELECT count(*) FROM objects WHERE isolated AND width_um > 60 AND score > 0.9",
    "one slide": "SELECT count(*), max(score) FROM objects WHERE slide_id = 'slide-000007'",
}


def main(
    slides: int = 1000,
    objects: Annotated[int, typer.Option(help="Objects of each slide.")] = 200,
    wells: int = 12,
    rounds: int = 5,
    keep: Annotated[
        Path | None, typer.Option(help="Folder for run and dataset instead of a temporary.")
    ] = None,
) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="fossilray-compact-") as scratch:
        folder = keep or Path(scratch)
        store = write_run(folder / "run", slides=slides, objects=objects, wells=wells)
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report = compact_run(store, str(folder / "dataset"), access=StoreConfig())
        grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1e3
        describe(report, grown_mb=grown_mb)
        print(f"\n{'query':10} {'run':>10} {'dataset':>10} {'times':>7}")
        for name, sql in QUERIES.items():
            ours, theirs = measure(folder / "run", folder / "dataset", sql, rounds=rounds)
            print(f"{name:10} {ours:8.3f} s {theirs:8.3f} s {ours / theirs:7.1f}")


def describe(report: CompactReport, *, grown_mb: float) -> None:
    """What was made of what, and what it took."""
    print(f"{'':10} {'run':>10} {'dataset':>10}")
    print(f"{'files':10} {report.source_files:10,} {report.files:10,}")
    print(f"{'MB':10} {report.source_bytes / 1e6:10.1f} {report.bytes / 1e6:10.1f}")
    print(
        f"\n{report.slides:,} slides with {report.objects:,} objects compacted and verified in {report.seconds:.1f} s"
        f" ({report.objects / report.seconds:,.0f} objects/s), {grown_mb:.0f} MB of memory more at its peak"
    )


def measure(run: Path, dataset: Path, sql: str, *, rounds: int) -> tuple[float, float]:
    """Least seconds of a query over each; both must give the same rows."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        results = []
        for folder, taken in zip((run, dataset), seconds, strict=True):
            con = duckdb.connect(":memory:")
            began = time.perf_counter()
            con.execute(
                f"CREATE VIEW objects AS SELECT * FROM read_parquet('{folder}/objects/*/*.parquet', "
                "hive_partitioning = true, hive_types = {'well': VARCHAR})"
            )
            results.append([tuple(map(rounded, row)) for row in con.execute(sql).fetchall()])
            taken.append(time.perf_counter() - began)
        assert results[0] == results[1], "run and dataset give different rows"
    return min(seconds[0]), min(seconds[1])


def rounded(value: object) -> object:
    """Sums of floats depend on the order in which threads add them."""
    return round(value, 6) if isinstance(value, float) else value


def write_run(folder: Path, *, slides: int, objects: int, wells: int) -> RunStore:
    """A run of made-up slides, committed as workers commit them."""
    store = RunStore.open(str(folder))
    store.create_or_check(describe_run(RunConfig(), {}))
    rng = np.random.default_rng(1)
    rows = []
    for number in range(slides):
        slide_id, attempt = f"slide-{number:06d}", f"{number:016x}"
        arrays = ArrayFiles(arrays_path(slide_id, attempt), {"zarr.json": 1}, {"zarr.json": "00"})
        summary = summarise(slide_id, attempt, well=f"6407/{number % wells}-1", objects=objects)
        assert store.commit_slide(some_objects(slide_id, arrays.path, objects, rng), summary, arrays)
        rows.append(summary)
    store.append_summaries(rows)
    return store


def some_objects(slide_id: str, arrays: str, count: int, rng: np.random.Generator) -> pa.Table:
    """A table of OBJECTS_SCHEMA with numbers as various as real ones."""
    corner = rng.integers(0, 80_000, (2, count))
    side = np.exp(rng.normal(4.5, 0.6, (2, count))).round().astype(np.int64) + 1
    columns: dict[str, object] = {
        "slide_id": [slide_id] * count,
        "arrays": [arrays] * count,
        "measured_depth_m": [2030.5] * count,
        "object_id": np.arange(count),
        "x_min": corner[0],
        "y_min": corner[1],
        "x_max": corner[0] + side[0],
        "y_max": corner[1] + side[1],
        "width_um": side[0] * 0.25,
        "height_um": side[1] * 0.25,
        "area_um2": side[0] * side[1] * 0.0625,
        "isolated": rng.random(count) < 0.8,
        "touches_edge": rng.random(count) < 0.01,
    }
    columns |= dict.fromkeys(("focus_plane", "plane_sharpness"), pa.nulls(count))
    for name in ("mean_r", "mean_g", "mean_b"):
        columns[name] = rng.integers(60, 220, count)
    for name in ("score", "overlap", "opacity", "sharpness"):
        columns[name] = rng.random(count)
    arrays_of = [pa.array(columns[field.name]).cast(field.type, safe=False) for field in OBJECTS_SCHEMA]
    return pa.Table.from_arrays(arrays_of, schema=OBJECTS_SCHEMA)


def summarise(slide_id: str, attempt: str, *, well: str, objects: int) -> SlideSummary:
    """Return a summary with placeholder values."""
    values: dict[str, object] = {
        field.name: 0.0 if field.name.startswith("seconds") else 1
        for field in fields(SlideSummary)
        if field.default is MISSING
    }
    values |= {"slide_id": slide_id, "path": f"{slide_id}.mrxs", "well": well, "vendor": "mirax"}
    values |= {
        "objects": objects,
        "attempt": attempt,
        "host": "here",
        "finished_at": utc_now(),
        "device": "cpu",
    }
    return SlideSummary(**values)  # type: ignore[arg-type]


if __name__ == "__main__":
    typer.run(main)
