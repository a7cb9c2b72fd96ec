"""What more workers bring, and what the scheduler costs: 1, 2 and 4 workers through the real one, on a private Ray.

python benchmarks/scaling.py [--kinds nothing,sleep,reading,default] [--workers 1,2,4] [--rounds 3] [--out DIR]

Kinds of work on a slide:
  nothing   none at all, no commit: what is left is the scheduler's own time
  sleep     50 ms of sleep: scheduling alone, whatever the number of cores
  reading   the real worker with the classical detector at 4 um per px and no embedder: reading and cutting
  default   the real worker as configured by default

Workers wait for each other until all have loaded, then slides are counted. Every worker of the last two kinds is
kept to one core (`--free`: to none) and has one reading thread, so that one worker has one core's work to give and
not the whole machine's. The slides are a few painted ones under many names. Rounds of all kinds and numbers of
workers take turns; printed are medians, with the least and the largest.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import pickle
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import psutil
import ray
import typer
from ray import cloudpickle
from rich.console import Console
from rich.table import Table
from soak import made_up_summary
from working_folder import working_folder

from fossilray.core.config import RunConfig
from fossilray.core.records import CatalogRow, Outcome, WorkItem
from fossilray.core.worker import Worker, WorkerStatus
from fossilray.jobs.journal import DriverJournal
from fossilray.jobs.progress import Tally
from fossilray.jobs.scheduler import ray_cluster, run_items
from fossilray.processing.worker import SlideWorker
from fossilray.slides.catalog import find_slides
from fossilray.store import RunStore
from fossilray.store.run.run_record import describe_run
from fossilray.synthetic.archive import read_recipe, synthesise_archive

out = Console(width=None if sys.stdout.isatty() else 160)
REAL = ("reading", "default")
KINDS = ("nothing", "sleep", *REAL)
SLEEP_S = 0.05
ORIGINALS = 4


@dataclass(frozen=True)
class Measured:
    """One run of so many slides on so many workers."""

    slides_per_s: float
    worker_cpu_ms: float
    driver_cpu_ms: float
    servers_cpu_ms: float
    """Of Ray's own processes; both counted from the first commit on."""
    store_bytes: int
    """Put into Ray's object store by the whole job."""
    slides: int
    ray_s: float
    actors_s: float
    models_s: float
    first_slide_s: float
    """From the start of Ray to the first slide taken."""
    first_commit_s: float


def main(
    kinds: str = ",".join(KINDS),
    workers: str = "1,2,4",
    rounds: int = 3,
    slides: Annotated[int, typer.Option(help="Slides for each worker, of those that are read.")] = 12,
    many: Annotated[int, typer.Option(help="Slides of the kinds that are not read.")] = 2000,
    side_px: int = 6144,
    free: Annotated[bool, typer.Option("--free", help="Do not keep workers to a core each.")] = False,
    folder: Annotated[Path | None, typer.Option("--out", help="Folder to keep the slides in.")] = None,
) -> None:
    """Measure and print."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    chosen = [kind for kind in KINDS if kind in kinds.split(",")]
    counts = [int(count) for count in workers.split(",")]
    with working_folder(folder, name="scaling") as scratch:
        rows = _many_names(scratch, side_px, slides * max(counts)) if set(REAL) & set(chosen) else []
        measured: dict[tuple[str, int], list[Measured]] = {(k, n): [] for k in chosen for n in counts}
        for number in range(rounds):
            for (kind, count), results in measured.items():
                todo = rows[: slides * count] if kind in REAL else _no_rows(many, kind, count)
                results.append(_run(kind, count, todo, scratch, pinned=not free))
                shown = f"{results[-1].slides_per_s:.2f} slides/s"
                print(f"  round {number + 1}: {kind}, {count} workers: {shown}", file=sys.stderr, flush=True)
    for table in (_throughput(measured, counts[0]), _start(measured)):
        out.print(table)
    outcome = Outcome(
        "s000001", summary=made_up_summary(CatalogRow("s000001", "/s.mrxs"), secrets.token_hex(8))
    )
    sent = len(pickle.dumps(CatalogRow("s000001", "/slides/s000001.mrxs")))
    out.print(
        f"between driver and worker, for each slide: {sent} B there, {len(pickle.dumps(outcome))} B back"
    )


class Alike:
    """A worker that waits until all have loaded, then notes when it takes slides and what CPU they cost."""

    def __init__(self, make: Callable[[], Worker], notes: str, count: int, pinned: bool) -> None:
        self._notes, self._count = Path(notes), count
        self._times = {"made": time.time()}
        if pinned:
            os.sched_setaffinity(0, {self._slot() % (os.cpu_count() or 1)})
        self._worker = make()

    def prepare(self) -> str:
        name = self._worker.prepare()
        self._times["loaded"] = time.time()
        self._write("ready")
        while len(list(self._notes.glob("*.ready"))) < self._count:
            time.sleep(0.005)
        return name

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        if "began" not in self._times:
            self._times |= {"began": time.time(), "cpu": -time.process_time(), "slides": 0}
        outcome = self._worker.process(item, upcoming)
        self._times["slides"] += 1
        self._times["ended"] = time.time()
        self._times.setdefault("first_ended", self._times["ended"])
        return outcome

    def state(self) -> WorkerStatus | None:
        return self._worker.state()

    def close(self) -> None:
        self._times["cpu"] += time.process_time()
        self._write("done")
        self._worker.close()

    def _slot(self) -> int:
        for slot in range(self._count):
            try:
                (self._notes / f"{slot}.slot").touch(exist_ok=False)
            except FileExistsError:
                continue
            return slot
        return 0

    def _write(self, suffix: str) -> None:
        partial = self._notes / f"{os.getpid()}.partial"
        partial.write_text(json.dumps(self._times))
        partial.rename(self._notes / f"{os.getpid()}.{suffix}")


class IdleWorker:
    """Sleeps for each slide, and commits nothing."""

    def __init__(self, sleep_s: float) -> None:
        self._sleep_s = sleep_s

    def prepare(self) -> str:
        return f"idle/{os.getpid()}"

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        time.sleep(self._sleep_s)
        return Outcome(item.key, summary=made_up_summary(item.payload, "0" * 16))

    def state(self) -> WorkerStatus | None:
        return None

    def close(self) -> None: ...


class _QuietDisplay:
    """A display that shows nothing, and notes when the first slide was committed and what CPU was spent by then."""

    def __init__(self) -> None:
        self.first_commit: float | None = None
        self.committed = 0
        self.driver_s = self.servers_s = 0.0

    def __enter__(self) -> _QuietDisplay:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, tally: Tally, states: object) -> None:
        if tally.committed and self.first_commit is None:
            self.first_commit = time.time()
            self.servers_s, self.driver_s = _servers_cpu_s(), time.process_time()
            self.committed = tally.committed

    def message(self, line: str) -> None:
        out.print(line, markup=False)


def _run(kind: str, count: int, rows: list[CatalogRow], scratch: Path, *, pinned: bool) -> Measured:
    """One job on a Ray of its own."""
    run = scratch / f"run-{secrets.token_hex(3)}"
    notes = scratch / f"notes-{secrets.token_hex(3)}"
    notes.mkdir()
    config = _config(kind, count)
    store = RunStore.open(str(run))
    store.create_or_check(describe_run(config, {}))
    make: Callable[[], Worker] = (
        functools.partial(SlideWorker, str(run), config)
        if kind in REAL
        else functools.partial(IdleWorker, SLEEP_S if kind == "sleep" else 0.0)
    )
    real = kind in REAL
    display = _QuietDisplay()
    began = time.time()
    with ray_cluster("local"):
        ray_up = time.time()
        bytes_before = _store_bytes()
        tally = run_items(
            [WorkItem.of_slide(row) for row in rows],
            functools.partial(Alike, make, str(notes), count, pinned and real),
            config=config,
            journal=DriverJournal(store.attempts, run=store),
            tally=Tally(total=len(rows)),
            display=display,
        )
        driver_s, servers_s = time.process_time() - display.driver_s, _servers_cpu_s() - display.servers_s
        bytes_put = _store_bytes() - bytes_before
    assert tally.committed == len(rows), f"{tally.failed} of {len(rows)} slides failed"
    # The worker that closes last may be killed before it has written; its slides are then missing here.
    reports = [json.loads(file.read_text()) for file in notes.glob("*.done")]
    reports = [report for report in reports if "began" in report]
    shutil.rmtree(run)
    shutil.rmtree(notes)
    first = min(report["began"] for report in reports)
    done = sum(report["slides"] for report in reports)
    assert done == len(rows), f"{done} of {len(rows)} slides were noted"
    return Measured(
        slides_per_s=sum(report["slides"] / (report["ended"] - report["began"]) for report in reports),
        worker_cpu_ms=sum(report["cpu"] for report in reports) * 1000 / done,
        driver_cpu_ms=driver_s * 1000 / (done - display.committed),
        servers_cpu_ms=servers_s * 1000 / (done - display.committed),
        store_bytes=bytes_put,
        slides=done,
        ray_s=ray_up - began,
        actors_s=min(report["made"] for report in reports) - ray_up,
        models_s=min(report["loaded"] - report["made"] for report in reports),
        first_slide_s=first - began,
        first_commit_s=(display.first_commit or time.time()) - began,
    )


def _config(kind: str, count: int) -> RunConfig:
    cores = os.cpu_count() or 1
    # More workers than cores share them, or Ray would not start them all.
    workers = {"count": count, "cpus_per_worker": 0.9 * min(1.0, cores / count)}
    tree: dict[str, Any] = {"workers": workers, "slides": {"read_threads": 1}}
    if kind == "reading":
        tree |= {
            "detector": {"kind": "classical", "passes": [{"um_per_px": 4.0, "largest_um": 200.0}]},
            "embedder": {"weights": "none"},
        }
    return RunConfig.model_validate(tree)


def _servers_cpu_s() -> float:
    """CPU seconds of the processes below this one that are not workers."""
    spent = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if not " ".join(process.cmdline()).startswith("ray::"):
                times = process.cpu_times()
                spent += times.user + times.system
        except psutil.Error:
            continue
    return spent


def _store_bytes() -> int:
    """Bytes that were ever put into the object store of this machine's Ray, as the store reports."""
    messages: list[str] = []
    hearer = logging.Handler(logging.WARNING)
    hearer.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("ray._raylet")
    level, logger.level, logger.propagate = logger.level, logging.WARNING, False
    logger.addHandler(hearer)
    try:
        ray._private.worker.global_worker.core_worker.log_plasma_usage()  # type: ignore[attr-defined]
    finally:
        logger.removeHandler(hearer)
        logger.level, logger.propagate = level, True
    match = re.search(r"bytes created by worker: (\d+)", "".join(messages))
    assert match is not None, f"Ray's object store did not report its usage: {messages}"
    return int(match[1])


def _throughput(measured: dict[tuple[str, int], list[Measured]], least: int) -> Table:
    title = "median of the rounds (least to largest)"
    table = Table(title=title, title_justify="left")
    for name in ("work", "workers", "slides/s", f"times {least} worker's"):
        table.add_column(name, justify="right" if name != "work" else "left")
    for name in ("worker", "driver", "Ray"):
        table.add_column(f"{name}, CPU ms a slide", justify="right")
    table.add_column("object store, B a job", justify="right")
    table.add_column("of slides", justify="right")
    for (kind, count), rounds in measured.items():
        base = [result.slides_per_s for result in measured[kind, least]]
        ratios = [result.slides_per_s / alone for result, alone in zip(rounds, base, strict=True)]
        table.add_row(
            kind,
            str(count),
            _spread([result.slides_per_s for result in rounds]),
            _spread(ratios),
            f"{median(result.worker_cpu_ms for result in rounds):,.1f}",
            f"{median(result.driver_cpu_ms for result in rounds):.2f}",
            f"{median(result.servers_cpu_ms for result in rounds):.2f}",
            f"{median(result.store_bytes for result in rounds):,.0f}",
            f"{rounds[0].slides:,}",
        )
    return table


def _start(measured: dict[tuple[str, int], list[Measured]]) -> Table:
    table = Table(title="seconds of the start, medians", title_justify="left")
    for name in ("work", "workers", "Ray", "actor's process", "models loaded", "first slide", "first commit"):
        table.add_column(name, justify="right" if name != "work" else "left")
    for (kind, count), rounds in measured.items():
        parts = [
            median(getattr(result, name) for result in rounds)
            for name in ("ray_s", "actors_s", "models_s", "first_slide_s", "first_commit_s")
        ]
        table.add_row(kind, str(count), *(f"{seconds:.2f}" for seconds in parts))
    return table


def _spread(values: list[float]) -> str:
    return f"{median(values):,.2f} ({min(values):,.2f}-{max(values):,.2f})"


def _no_rows(many: int, kind: str, count: int) -> list[CatalogRow]:
    number = many if kind == "nothing" else max(20, many // 20) * count
    return [CatalogRow(f"s{n:06d}", f"/slides/s{n:06d}.mrxs") for n in range(number)]


def _many_names(scratch: Path, side_px: int, names: int) -> list[CatalogRow]:
    """Catalog rows of so many slides, of which only a few differ."""
    originals = scratch / f"slides-{side_px}"
    recipe = read_recipe(originals)
    if recipe is None or (recipe.slides, recipe.size_px) != (ORIGINALS, side_px):
        synthesise_archive(originals, slides=ORIGINALS, size_px=side_px, form="mrxs", seed=1)
    rows = find_slides(str(originals)).rows
    return [
        CatalogRow(f"s{number:04d}", rows[number % len(rows)].path, mpp=rows[number % len(rows)].mpp)
        for number in range(names)
    ]


if __name__ == "__main__":
    typer.run(main)
