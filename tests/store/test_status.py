"""How far a run is, from the run directory alone."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.rendered_text import text_of
from support.small_run import COUNTS, start_run, write_small_run

from fossilray.core.errors import RunNotFound
from fossilray.core.heartbeat import Heartbeat
from fossilray.core.machine import boot_id, pid_namespace, process_start
from fossilray.jobs.journal import DriverJournal
from fossilray.jobs.progress import Tally
from fossilray.store import RunStore
from fossilray.store.status import read_status, render_status

NOW = datetime.now(UTC)
"""The store's time: files are stamped by it."""
BEAT = Heartbeat(
    driver_id="driver-1",
    started_at=(NOW - timedelta(hours=1)).isoformat(),
    beat_at=(NOW - timedelta(seconds=20)).isoformat(),
    total=6,
    committed=2,
    failed=0,
    objects=100,
    slides_per_hour=8.0,
    workers=1,
    in_flight=("c-2080",),
    host="node-7",
    pid=4711,
)
LATER = NOW + timedelta(minutes=10)

needs_process_times = pytest.mark.skipif(
    not process_start(os.getpid()), reason="the system tells no process's start"
)


@contextmanager
def _process() -> Iterator[Heartbeat]:
    """The heartbeat of a driver of this machine, which waits for a folder; its process lives within the block."""
    child = subprocess.Popen(["sleep", "60"])
    try:
        yield replace(
            BEAT, driver_id=f"driver-of-{child.pid}", out=("/mnt/sl4: nothing else there can be read",),
            host=socket.gethostname(), pid=child.pid, boot=boot_id(), pid_namespace=pid_namespace(),
            process_start=process_start(child.pid),
        )  # fmt: skip
    finally:
        child.kill()
        child.wait()


def test_a_finished_run_counts_slides_objects_and_failures(tmp_path: Path) -> None:
    report = read_status(write_small_run(tmp_path / "run"))
    assert (report.counts.total, report.counts.committed, report.counts.waiting) == (6, 4, 0)
    assert report.objects == sum(COUNTS.values())
    assert [failure.slide_id for failure in report.failed] == ["e-broken"]
    assert [failure.slide_id for failure in report.quarantined] == ["f-poison"]
    assert report.failed_by_class == {"NotASlide": 1, "WorkerDied": 1}
    assert (report.tiles_lost, report.tiles_wanted) == (4, 80)
    assert report.ends_at is None
    shown = text_of(render_status(report))
    assert "4 of 6 slides" in shown
    assert "e-broken" in shown
    assert "quarantined  open   WorkerDied" in shown


def test_a_run_that_has_just_begun_has_everything_waiting(tmp_path: Path) -> None:
    report = read_status(start_run(tmp_path / "run"))
    assert (report.counts.total, report.counts.committed, report.counts.waiting) == (6, 0, 6)
    assert "none is running; the same command processes the rest" in text_of(render_status(report))


def test_a_living_driver_has_slides_in_flight_and_an_end(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.attempts.start("c-2080", deadline_s=60)
    store.attempts.write_heartbeat(BEAT)
    report = read_status(store, now=NOW)
    assert [attempt.slide_id for attempt in report.in_flight] == ["c-2080"]
    assert report.ends_at == NOW + timedelta(hours=6 / 8)
    assert "process 4711 on node-7" in text_of(render_status(report))


def test_a_driver_that_went_silent_is_not_to_be_replaced_unseen(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.attempts.start("c-2080", deadline_s=60)
    store.attempts.write_heartbeat(BEAT)
    report = read_status(store, now=LATER)
    assert report.in_flight == ()
    assert [attempt.slide_id for attempt in report.interrupted] == ["c-2080"]
    assert report.slides_per_hour == 8.0
    shown = text_of(render_status(report))
    assert "in the last job" in shown
    assert "no heartbeat on node-7 since 10 min: process 4711 on node-7" in shown
    assert "once it has ended, the same command processes the rest" in shown


def test_while_a_driver_lives_nothing_asks_for_a_second_one(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.attempts.write_heartbeat(BEAT)
    for slide_id in COUNTS:
        store.attempts.start(slide_id, deadline_s=60)
        report = read_status(store)
        assert "same command" not in text_of(render_status(report))
        assert report.interrupted == ()


def test_a_driver_that_was_asked_to_stop_says_so_and_has_no_end(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.attempts.start("c-2080", deadline_s=60)
    store.attempts.write_heartbeat(replace(BEAT, stopping=True))
    report = read_status(store, now=NOW)
    assert report.ends_at is None
    assert "stopping, slides in progress end first" in text_of(render_status(report))


def test_what_a_driver_waits_for_and_what_fails_alike_is_said(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    alike = (
        "9 of 10 slides failed alike: ValueError at fossilray/processing/detection/merge.py:120 (no boxes)"
    )
    store.attempts.write_heartbeat(replace(BEAT, out=("/mnt/slides is out since 12:00",), alike=alike))
    shown = text_of(render_status(read_status(store, now=NOW)))
    assert "/mnt/slides is out since 12:00" in shown
    assert alike in shown
    store.attempts.write_heartbeat(replace(BEAT, ended=True, alike=alike))
    assert alike in text_of(render_status(read_status(store, now=NOW)))


def test_a_driver_that_has_ended_is_not_running(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.attempts.write_heartbeat(replace(BEAT, in_flight=(), committed=6))
    assert read_status(store, now=NOW).drivers == ()


def test_asking_where_no_run_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound):
        read_status(RunStore.open(str(tmp_path)))


@needs_process_times
def test_a_driver_whose_process_was_killed_is_not_running_at_once(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.attempts.start("c-2080", deadline_s=60)
    with _process() as beat:
        store.attempts.write_heartbeat(beat)
        alive = read_status(store, now=NOW)
        assert alive.drivers == (beat,)
        assert "/mnt/sl4" in text_of(render_status(alive))
    report = read_status(store, now=NOW)
    assert (report.drivers, report.unresponsive, report.ends_at, report.in_flight) == ((), (), None, ())
    shown = text_of(render_status(report))
    assert "none is running; the same command processes the rest" in shown
    assert "waits for" not in shown
    journal = DriverJournal(store.attempts, run=store)
    journal.heartbeat(Tally(total=6), ())
    journal.close(Tally(total=6))
    assert journal.other_driver is None


@needs_process_times
def test_a_number_that_another_process_has_now_is_no_driver(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    with _process() as beat:
        store.attempts.write_heartbeat(replace(beat, process_start="1"))
        assert read_status(store, now=NOW).drivers == ()


@needs_process_times
def test_a_stopped_driver_gives_no_sign_even_if_a_later_one_has_ended(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    with _process() as beat:
        os.kill(beat.pid, signal.SIGSTOP)
        store.attempts.write_heartbeat(beat)
        store.attempts.write_heartbeat(_later_driver(ended=True))
        report = read_status(store, now=LATER)
        assert (report.drivers, report.unresponsive) == ((), (beat,))
        assert f"no heartbeat on {beat.host} since 10 min: process {beat.pid}" in text_of(
            render_status(report)
        )
    assert "none is running" in text_of(render_status(read_status(store, now=LATER)))


@pytest.mark.parametrize("of_here", [True, False])
def test_after_a_later_driver_finished_the_run_nothing_runs_or_is_waited_for(
    tmp_path: Path, of_here: bool
) -> None:
    store = write_small_run(tmp_path / "run")
    with _process() as beat:
        killed = beat if of_here and beat.process_start else replace(beat, host="node-7", boot="another")
    store.attempts.write_heartbeat(killed)
    assert "waits for" not in text_of(render_status(read_status(store, now=NOW)))
    store.attempts.write_heartbeat(_later_driver(committed=4, failed=2, ended=True))
    report = read_status(store, now=NOW)
    assert (report.drivers, report.unresponsive, report.ends_at) == ((), (), None)
    assert report.slides_per_hour == 99.0
    assert report.is_done


def test_a_later_driver_that_ended_early_leaves_another_hosts_driver_running(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.attempts.write_heartbeat(BEAT)
    store.attempts.write_heartbeat(_later_driver(ended=True))
    assert [driver.host for driver in read_status(store, now=NOW).drivers] == ["node-7"]


@needs_process_times
def test_a_driver_of_this_process_says_which_process_it_is(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    journal = DriverJournal(store.attempts, run=store)
    journal.heartbeat(Tally(total=6), ())
    journal.close(Tally(total=6))
    (beat,) = store.attempts.heartbeats()
    assert (beat.boot, beat.pid_namespace) == (boot_id(), pid_namespace())
    assert beat.process_start == process_start(os.getpid())


def _later_driver(**fields: object) -> Heartbeat:
    later = replace(
        BEAT, driver_id="later", started_at=(NOW - timedelta(seconds=15)).isoformat(), beat_at=NOW.isoformat(),
        slides_per_hour=99.0, in_flight=(), host="node-9",
    )  # fmt: skip
    return replace(later, **fields)  # type: ignore[arg-type]
