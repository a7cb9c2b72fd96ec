"""Slides and run in an object store that fails while the job runs; sixteen at once for one slide."""

# ruff: noqa: F811 (fixtures are imported by the name that tests use)

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from support.compare_runs import Watcher, assert_equal_runs
from support.fault_jobs import counts_of, run_slightly, settings
from support.faulty_s3 import (
    ACCESS_KEY,
    KEYS,
    SECRET_KEY,
    Controller,
    Fault,
    FaultyS3,
    faulty_s3,  # noqa: F401
    faulty_server,  # noqa: F401
)
from support.recording_display import RecordingDisplay
from support.remote_slides import s3_client, upload
from support.run_fixtures import a_run, commit
from support.s3_bucket import s3_endpoint  # noqa: F401 (fixture)
from support.slides_on_disk import write_slide

from fossilray.core.config import RunConfig, StoreConfig
from fossilray.core.errors import StoreAccessDenied
from fossilray.jobs.process import run_job
from fossilray.jobs.run_items import JobResult
from fossilray.store import RunStore
from fossilray.store.files.base import is_remote
from fossilray.store.maintenance.retry import retry_failures
from fossilray.store.maintenance.verify import verify_run

pytestmark = pytest.mark.faults

PROCESSES, THREADS = 4, 4
RACED = ("A17", "A18", "B1")

PASSING: list[tuple[Fault, int, str, str]] = [
    ("slow down", 6, "PUT", "/run/arrays/"),
    ("too many requests", 2, "PUT", "/run/pictures/"),
    ("reset", 3, "PUT", "/run/attempts/"),
    ("lost response", 3, "PUT", "/run/objects/"),
    ("internal error", 3, "GET", "Slidedat.ini"),
    ("half a response", 2, "GET", "Data0000.dat"),
    ("slow bytes", 2, "GET", "Data0001.dat"),
]
"""What fails, how often, and where; all of it goes by when the request is repeated."""


# Races


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(params=["disk", "S3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, faulty_s3: FaultyS3) -> RunStore:
    """A started run."""
    on_disk = request.param == "disk"
    opened = RunStore.open(
        str(tmp_path / "run") if on_disk else faulty_s3.url, StoreConfig() if on_disk else faulty_s3.config
    )
    opened.create_or_check(a_run())
    return opened


def test_of_sixteen_in_four_processes_one_wins_and_readers_never_see_two(
    store: RunStore, faulty_s3: FaultyS3, processes: ProcessPoolExecutor
) -> None:
    config = faulty_s3.config if is_remote(store.url) else StoreConfig()
    with Watcher(store, objects=dict.fromkeys(RACED, 3)):
        start_at = time.time() + 1.5
        racing = [
            processes.submit(race, store.url, config, RACED, start_at, KEYS, os.getpid())
            for _ in range(PROCESSES)
        ]
        won: list[tuple[str, str]] = []
        for process in racing:
            won += process.result(timeout=120)
    assert sorted(slide_id for slide_id, _ in won) == sorted(RACED)
    assert {row.slide_id: row.attempt for row in store.summaries()} == dict(won)
    groups = {tuple(path.split("/")[1:3]) for path in store.files.find("arrays")}
    assert groups == {(slide_id, f"{attempt}.zarr") for slide_id, attempt in won}


def race(
    url: str,
    config: StoreConfig,
    slides: tuple[str, ...],
    start_at: float,
    keys: Mapping[str, str],
    parent: int,
) -> list[tuple[str, str]]:
    """Commit each slide with several threads at the same moment as other processes; the (slide, attempt) that won."""
    assert os.getpid() != parent
    os.environ.update(keys)
    store = RunStore.open(url, config)
    time.sleep(max(0.0, start_at - time.time()))
    won = []
    with ThreadPoolExecutor(THREADS) as together:
        for slide_id in slides:
            attempts = [store.attempts.start(slide_id, deadline_s=60) for _ in range(THREADS)]
            commits = together.map(
                lambda one: commit(store, one.slide_id, attempt=one, arrays=True), attempts
            )
            won += [
                (slide_id, one.attempt) for one, has_won in zip(attempts, commits, strict=True) if has_won
            ]
    return won


# Whole jobs


def test_a_job_whose_slides_and_run_are_in_a_failing_store_ends_as_if_nothing_had_failed(
    some_slides: Path,
    sound_run: RunStore,
    shared_ray: str,
    faulty_s3: FaultyS3,
    s3_endpoint: str,
    tmp_path: Path,
) -> None:
    upload(some_slides, slides_url(faulty_s3), faulty_s3.config)
    for fault, times, method, path in PASSING:
        faulty_s3.controller.fail(fault, times, method=method, path=path)
    with forbidding(faulty_s3.controller, "/run/", for_s=3.0) as forbidden:
        result, display = run_watched(faulty_s3, s3_endpoint, sound_run, shared_ray, tmp_path)
    assert forbidden.is_set()
    # Which of the faults occurs first, and is shown, is not determined.
    assert any("trying again for" in line for line in display.messages), display.messages
    assert faulty_s3.controller.pending() == 0
    assert_ended_well(result, faulty_s3, s3_endpoint, sound_run, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, *PASSING], ids=lambda fault: fault and fault[0])
def test_a_job_in_s3_with_one_kind_of_fault_ends_as_if_nothing_had_failed(
    fault: tuple[Fault, int, str, str] | None,
    some_slides: Path,
    sound_run: RunStore,
    shared_ray: str,
    faulty_s3: FaultyS3,
    s3_endpoint: str,
    tmp_path: Path,
) -> None:
    upload(some_slides, slides_url(faulty_s3), faulty_s3.config)
    if fault is not None:
        name, times, method, path = fault
        faulty_s3.controller.fail(name, times, method=method, path=path)
    result, _ = run_watched(faulty_s3, s3_endpoint, sound_run, shared_ray, tmp_path)
    assert faulty_s3.controller.pending() == 0
    assert_ended_well(result, faulty_s3, s3_endpoint, sound_run, tmp_path)


def test_a_store_that_forbids_from_the_start_ends_the_job_at_once(
    some_slides: Path, faulty_s3: FaultyS3, tmp_path: Path
) -> None:
    faulty_s3.controller.forbids = "/run/"
    with pytest.raises(StoreAccessDenied, match=r"cannot read .*; check store\.profile") as caught:
        run_job(
            str(some_slides),
            run_url(faulty_s3),
            config_of(faulty_s3, tmp_path),
            address="local",
            display=RecordingDisplay(),
        )
    assert SECRET_KEY not in str(caught.value)
    assert ACCESS_KEY not in str(caught.value)


@pytest.mark.slow
def test_a_slide_that_finds_no_room_in_scratch_fails_alone_and_is_made_once_there_is(
    faulty_s3: FaultyS3, small_disk: Path, tmp_path: Path
) -> None:
    for name, size in (("a", 1536), ("b", 1536), ("large", 4096)):
        write_slide(tmp_path / "slides" / f"{name}.mrxs", size=size)
    upload(tmp_path / "slides", slides_url(faulty_s3), faulty_s3.config)
    fill(small_disk, but_for=folder_bytes(tmp_path / "slides" / "large") - 50_000)
    config = config_of(faulty_s3, small_disk)
    store = RunStore.open(str(tmp_path / "run"))

    result = run_job(slides_url(faulty_s3), store.url, config, address="local", display=RecordingDisplay())
    assert (result.tally.committed, result.tally.failed) == (2, 1)
    assert store.committed() == {"a", "b"}
    failures = store.attempts.failures()
    assert {(one.slide_id, one.error, one.quarantined) for one in failures} == {
        ("large", "ScratchFull", False)
    }
    assert len(failures) == config.workers.max_tries
    assert "free some space there" in failures[-1].message

    (small_disk / "ballast").unlink()
    retry_failures(store, error="ScratchFull")
    result = run_job(slides_url(faulty_s3), store.url, config, address="local", display=RecordingDisplay())
    assert (result.tally.committed, result.tally.failed) == (1, 0)
    assert store.committed() == {"a", "b", "large"}
    assert verify_run(store, deep=True).sound
    assert not left_in(small_disk)


# Helpers


def run_watched(
    s3: FaultyS3, sound_endpoint: str, sound: RunStore, address: str, tmp_path: Path
) -> tuple[JobResult, RecordingDisplay]:
    """The job, while a reader looks on who is spared the faults."""
    display = RecordingDisplay()
    reader = RunStore.open(run_url(s3), s3.config.model_copy(update={"endpoint_url": sound_endpoint}))
    config = config_of(s3, tmp_path / "scratch")
    with Watcher(reader, objects=counts_of(sound)):
        result = run_slightly(slides_url(s3), run_url(s3), config, address=address, display=display)
    return result, display


def assert_ended_well(
    result: JobResult, s3: FaultyS3, sound_endpoint: str, sound: RunStore, tmp_path: Path
) -> None:
    """All committed and equal, nothing left on the disk, and the keys nowhere."""
    s3.controller.heal()
    run = RunStore.open(run_url(s3), s3.config)
    assert (result.tally.committed, result.tally.failed, result.failures) == (len(sound.committed()), 0, ())
    assert_equal_runs(run, sound)
    assert verify_run(run).sound
    assert not left_in(tmp_path / "scratch")
    client = s3_client(s3.config)
    bucket, _, prefix = run.root.partition("/")
    keys = [one["Key"] for one in client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]]
    assert len(keys) > 5 * len(sound.committed())
    for key in keys:
        content = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        assert SECRET_KEY.encode() not in content, key
        assert ACCESS_KEY.encode() not in content, key


def slides_url(s3: FaultyS3) -> str:
    return f"{s3.url.rpartition('/')[0]}/slides"


def run_url(s3: FaultyS3) -> str:
    return s3.url


def config_of(s3: FaultyS3, scratch: Path) -> RunConfig:
    return settings(
        f"store.endpoint_url={s3.config.endpoint_url}",
        f"store.region={s3.config.region}",
        f"store.tries={s3.config.tries}",
        f"slides.scratch={scratch}",
    )


@contextlib.contextmanager
def forbidding(controller: Controller, path: str, *, for_s: float) -> Iterator[threading.Event]:
    """From the first commit on, everything below a path is forbidden for a while."""
    was, end = threading.Event(), threading.Event()

    def watch() -> None:
        while not end.wait(0.01):
            if controller.requests_for("PUT", "/objects/"):
                controller.forbids = path
                was.set()
                end.wait(for_s)
                controller.forbids = ""
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield was
    finally:
        end.set()
        thread.join(timeout=60)


def left_in(scratch: Path) -> list[Path]:
    """Files of slides; a process that is killed leaves its empty folder and lock to the next one."""
    return [path for path in scratch.rglob("*") if path.is_file() and path.name != "lock"]


def fill(disk: Path, *, but_for: int) -> None:
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - but_for))


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
