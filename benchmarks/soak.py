"""Does the driver stay flat and quick over a whole archive, and is nothing lost while things are killed?

python benchmarks/soak.py driver [--slides 150000] [--store local|s3] [--out DIR]
python benchmarks/soak.py chaos [--minutes 60] [--out DIR]

`driver` sends slides that take no time through the real scheduler, on a private Ray, and the real commit, with
tables of five rows. Printed beside it: the same commits from a plain loop in one process, which is what the
scheduler adds its own time to. Then the same job again with all but ten slides committed: what a resume costs.
With `--store s3` the run lies on a moto server on the loopback, a process of its own, which is far slower than S3.

`chaos` runs `fossilray process` over synthetic slides (a few, each under many names) and every minute kills a
worker or the driver, or sends the driver a stop signal; the same command then resumes. At the end `verify --deep`.
"""

from __future__ import annotations

import functools
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import typer
from moto_process import moto_server
from ray import cloudpickle
from rich.console import Console
from rich.table import Table
from working_folder import working_folder

from fossilray.core.config import RunConfig, StoreConfig, WorkersConfig
from fossilray.core.records import (
    UNASSIGNED_WELL,
    ArrayFiles,
    CatalogRow,
    Outcome,
    SlideSummary,
    WorkItem,
    utc_now,
)
from fossilray.core.schemas import OBJECTS_SCHEMA, SLIDES_SCHEMA
from fossilray.core.worker import WorkerStatus
from fossilray.jobs.journal import DriverJournal
from fossilray.jobs.progress import Tally
from fossilray.jobs.scheduler import ray_cluster, run_items
from fossilray.store import RunStore
from fossilray.store.maintenance.verify import verify_run
from fossilray.store.run.layout import arrays_path
from fossilray.store.run.run_record import describe_run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
out = Console()
ROWS = 5
Where = Literal["local", "s3"]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to keep; default: a temporary one.")]


@app.command()
def driver(slides: int = 150_000, store: Where = "local", workers: int = 2, folder: OutOption = None) -> None:
    """Memory and time of the driver over many slides that take no time."""
    with working_folder(folder, name="soak") as scratch, _run(store, scratch) as (url, access):
        config = RunConfig(workers=WorkersConfig(count=workers, cpus_per_worker=0.4), store=access)
        run = RunStore.open(url, access)
        run.create_or_check(describe_run(config, {}))
        rows = [CatalogRow(f"s{number:06d}", f"/slides/s{number:06d}.mrxs") for number in range(slides)]
        frozen_s = _timed(lambda: run.freeze_catalog(rows))
        plain_ms = _plain_loop(url, access, count=min(2000, slides))
        measured = _drive(rows[:-10], url, config)
        resume = _drive_resume(rows, url, config)
        table = Table(title=f"{slides:,} slides, {workers} workers, {store}", title_justify="left")
        for name in ("", "measured", "beside it"):
            table.add_column(name)
        table.add_row(
            "a slide, ms of wall time", f"{measured.wall_ms:.2f}", f"{plain_ms:.2f} plain loop of commits"
        )
        table.add_row("a slide, ms of the driver's CPU", f"{measured.cpu_ms:.2f}", "")
        for what in ("driver", "head"):
            early, late = measured.memory[what]
            table.add_row(
                f"{what}, MB", f"{late:.0f} at the end", f"{early:.0f} after {measured.early:,} slides"
            )
        table.add_row("catalog frozen, s", f"{frozen_s:.1f}", "")
        table.add_row(
            "resume with 10 slides left, s",
            f"{resume:.1f}",
            "until the last is committed, Ray's start included",
        )
        out.print(table)


@app.command()
def chaos(
    minutes: float = 60.0, every_s: float = 60.0, size_px: int = 4096, seed: int = 1, folder: OutOption = None
) -> None:
    """Real slides, a kill every minute, and then the proof that nothing is lost or there twice."""
    with working_folder(folder, name="soak") as scratch:
        slides, originals = _many_names(scratch / "slides", size_px=size_px, names=round(minutes * 40))
        run = scratch / "run"
        kills = _kill_for(minutes * 60, every_s, slides, run, random.Random(seed))
        store = RunStore.open(str(run))
        began_s = time.monotonic()
        report = verify_run(store, deep=True)
        verify_s = time.monotonic() - began_s
        sums = {summary.slide_id: summary for summary in store.summaries()}
        differing = _differing(store, originals)
        table = Table(title=f"{minutes:g} minutes with a fault every {every_s:g} s", title_justify="left")
        table.add_column("")
        table.add_column("", justify="right")
        for name, count in sorted(kills.items()):
            table.add_row(name, f"{count:,}")
        table.add_row("slides committed", f"{len(sums):,}")
        table.add_row("objects", f"{sum(summary.objects for summary in sums.values()):,}")
        table.add_row("failures recorded (slides not committed)", f"{len(store.attempts.failures()):,}")
        table.add_row("quarantined", f"{sum(failure.quarantined for failure in store.attempts.failures()):,}")
        damage = [finding for finding in report.findings if finding.kind != "summaries"]
        table.add_row("attempts begun", f"{len(store.files.find('attempts')):,}")
        table.add_row("damage found by verify --deep", f"{len(damage):,}")
        table.add_row("slides that differ from their other copies", f"{len(differing):,}")
        table.add_row("orphan array groups left for gc", f"{len(report.orphans):,}")
        table.add_row("verify --deep, s", f"{verify_s:.1f}")
        out.print(table)
        for finding in report.findings[:20]:
            out.print(f"{finding.slide_id}: {finding.message}", markup=False)
        raise typer.Exit(0 if report.sound and not differing else 1)


class NoOpWorker:
    """Commits five rows for every slide."""

    def __init__(self, url: str, access: StoreConfig) -> None:
        self._store = RunStore.open(url, access)

    def prepare(self) -> str:
        return f"noop/{os.getpid()}"

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        row: CatalogRow = item.payload
        attempt = self._store.attempts.start(row.slide_id, deadline_s=600)
        summary = made_up_summary(row, attempt.attempt)
        files = ArrayFiles(arrays_path(row.slide_id, attempt.attempt), {}, {})
        won = self._store.commit_slide(_five_rows(row.slide_id, files.path), summary, files, attempt=attempt)
        return Outcome(row.slide_id, summary=summary if won else None)

    def state(self) -> WorkerStatus | None:
        return None

    def close(self) -> None: ...


class _Recorder:
    """A display that records time, and memory early and late."""

    def __init__(self, *, early: int) -> None:
        self.early = early
        self.memory: dict[str, tuple[float, float]] = {}
        self.wall_ms = self.cpu_ms = 0.0
        self._early: dict[str, float] | None = None
        self._printed_s = time.monotonic()

    def __enter__(self) -> _Recorder:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, tally: Tally, states: object) -> None:
        if self._early is None and tally.committed >= self.early:
            self._early = _memory_mb()
        if time.monotonic() - self._printed_s > 30:
            self._printed_s = time.monotonic()
            out.print(f"  {tally.committed:,} committed, {_memory_mb()} MB", markup=False, highlight=False)

    def message(self, line: str) -> None:
        out.print(line, markup=False)

    def finish(self) -> None:
        late = _memory_mb()
        self.memory = {name: ((self._early or late)[name], late[name]) for name in late}


def _drive(rows: list[CatalogRow], url: str, config: RunConfig) -> _Recorder:
    measured = _Recorder(early=min(10_000, len(rows) // 2))
    store = RunStore.open(url, config.store)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with ray_cluster("local"):
        wall_s, cpu_s = time.monotonic(), time.process_time()
        run_items(
            [WorkItem.of_slide(row) for row in rows],
            functools.partial(NoOpWorker, url, config.store),
            config=config,
            journal=DriverJournal(store.attempts, run=store),
            tally=Tally(total=len(rows)),
            display=measured,
        )
        measured.wall_ms = (time.monotonic() - wall_s) * 1000 / len(rows)
        measured.cpu_ms = (time.process_time() - cpu_s) * 1000 / len(rows)
        measured.finish()
    return measured


def _drive_resume(rows: list[CatalogRow], url: str, config: RunConfig) -> float:
    """Seconds from the start of a driver on a nearly finished run to its end."""

    def resume() -> None:
        store = RunStore.open(url, config.store)
        frozen = store.freeze_catalog(rows)
        committed = store.committed()
        left = [row for row in frozen if row.slide_id not in committed]
        assert len(left) == 10, len(left)
        _drive(left, url, config)

    return _timed(resume)


def _plain_loop(url: str, access: StoreConfig, *, count: int) -> float:
    """Milliseconds a commit in one process, without a scheduler, in a run of its own."""
    plain = f"{url}-plain"
    RunStore.open(plain, access).create_or_check(describe_run(RunConfig(), {}))
    worker = NoOpWorker(plain, access)
    items = [WorkItem.of_slide(CatalogRow(f"p{n:06d}", "/p.mrxs")) for n in range(count)]
    seconds = _timed(lambda: [worker.process(item) for item in items])
    return seconds * 1000 / count


def _memory_mb() -> dict[str, float]:
    """Resident memory of this process, and of Ray's servers below it."""
    servers = sum(_resident(pid) for pid in _descendants(os.getpid()) if not _is_worker(_command(pid)))
    return {"driver": round(_resident(os.getpid()), 1), "head": round(servers, 1)}


def _is_worker(command: list[str]) -> bool:
    # Ray names the process after the method it called last.
    return bool(command) and command[0].startswith("ray::_Actor")


def _resident(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            parents.setdefault(parent, []).append(int(folder.name))
    descendants, below = [], [pid]
    while below:
        children = parents.get(below.pop(), [])
        descendants += children
        below += children
    return descendants


def _command(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return []
    return text.split() or []


def _kill_for(seconds: float, every_s: float, slides: Path, run: Path, rng: random.Random) -> Counter[str]:
    """Keep `fossilray process` going for so long, with a fault now and then; what was done how often."""
    done: Counter[str] = Counter()
    end_s = time.monotonic() + seconds
    process = _start(slides, run)
    while time.monotonic() < end_s:
        time.sleep(min(every_s * rng.uniform(0.5, 1.5), max(0.0, end_s - time.monotonic())))
        if process.poll() is not None:
            done["driver started"] += 1
            process = _start(slides, run)
            continue
        fault = rng.choices(["worker killed", "driver killed", "driver signalled"], [6, 3, 1])[0]
        if fault == "worker killed":
            workers = [pid for pid in _descendants(process.pid) if _is_worker(_command(pid))]
            if workers:
                done[fault] += 1
                os.kill(rng.choice(workers), signal.SIGKILL)
            continue
        done[fault] += 1
        os.kill(process.pid, signal.SIGKILL if fault == "driver killed" else signal.SIGTERM)
        process.wait()
        process = _start(slides, run)
        committed = len(list((run / "objects").rglob("*.parquet")))
        out.print(f"  {fault}; {committed:,} slides committed, {dict(done)}", markup=False, highlight=False)
    process.send_signal(signal.SIGTERM)
    process.wait()
    return done


def _start(slides: Path, run: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from fossilray.cli.main import main; main()"]
    with (run.parent / "process.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "process", str(slides), "--run", str(run), "--workers", "2"], stdout=log, stderr=log
        )


def _many_names(folder: Path, *, size_px: int, names: int) -> tuple[Path, int]:
    """A folder of many slides, of which only a few differ; how many those are."""
    from fossilray.synthetic.archive import synthesise_archive

    few = 8
    originals = folder.parent / "originals"
    if not originals.exists():
        synthesise_archive(originals, slides=few, size_px=size_px, form="mrxs", seed=1, console=out)
    slides = sorted(originals.rglob("*.mrxs"))
    for number in range(names):
        original = slides[number % few]
        copy = folder / f"copy-{number:05d}-of-{number % few}.mrxs"
        if copy.exists():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        os.link(original, copy)
        copy.with_suffix("").mkdir(exist_ok=True)
        for part in original.with_suffix("").iterdir():
            os.link(part, copy.with_suffix("") / part.name)
    return folder, few


def _differing(store: RunStore, originals: int) -> list[str]:
    """Slides whose crops or embeddings are not those of the other copies of the same original."""
    seen: dict[str, dict[str, str]] = {}
    differing = []
    for slide_id in sorted(store.committed()):
        footer = store.footer(slide_id)
        assert footer is not None
        original = slide_id.rpartition("-")[2]
        if seen.setdefault(original, footer.arrays.sha256) != footer.arrays.sha256:
            differing.append(slide_id)
    return differing


@contextmanager
def _run(where: Where, folder: Path) -> Iterator[tuple[str, StoreConfig]]:
    """The run directory's address and how it is reached."""
    if where == "local":
        yield str(folder / f"run-{secrets.token_hex(3)}"), StoreConfig()
        return
    import boto3

    os.environ.update(
        AWS_ACCESS_KEY_ID="soak", AWS_SECRET_ACCESS_KEY="soak", AWS_EC2_METADATA_DISABLED="true"
    )
    with moto_server() as endpoint:
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="soak")
        yield "s3://soak/run", StoreConfig(endpoint_url=endpoint, region="us-east-1")


def _timed(work: object) -> float:
    began_s = time.monotonic()
    work()  # type: ignore[operator]
    return time.monotonic() - began_s


def _five_rows(slide_id: str, arrays: str) -> pa.Table:
    given = {"slide_id": [slide_id] * ROWS, "arrays": [arrays] * ROWS}
    count = np.arange(ROWS)
    columns = []
    for field in OBJECTS_SCHEMA:
        values = (
            count.astype(bool) if field.type == pa.bool_() else [None] * ROWS if field.nullable else count
        )
        columns.append(pa.array(given.get(field.name, values)).cast(field.type))
    return pa.Table.from_arrays(columns, schema=OBJECTS_SCHEMA)


def made_up_summary(row: CatalogRow, attempt: str) -> SlideSummary:
    values: dict[str, object] = {
        field.name: 0.0 if pa.types.is_floating(field.type) else 0 for field in SLIDES_SCHEMA
    }
    values |= {"slide_id": row.slide_id, "path": row.path, "well": UNASSIGNED_WELL, "vendor": "none"}
    values |= {
        "attempt": attempt,
        "host": "here",
        "finished_at": utc_now(),
        "objects": ROWS,
        "mpp": 0.25,
        "device": "none",
    }
    return SlideSummary(**values)  # type: ignore[arg-type]


if __name__ == "__main__":
    app()
