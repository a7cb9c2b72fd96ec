"""How far a run is, from the run directory alone."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from small_run import COUNTS, start_run, write_small_run

from fossilray.errors import RunNotFound
from fossilray.records import Heartbeat
from fossilray.status import StatusReport, describe, render
from fossilray.store import RunStore

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


def _shown(report: StatusReport) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_finished_run_counts_slides_objects_and_failures(tmp_path: Path) -> None:
    report = describe(write_small_run(tmp_path / "run"))
    assert (report.counts.total, report.counts.committed, report.counts.waiting) == (6, 4, 0)
    assert report.objects == sum(COUNTS.values())
    assert [failure.slide_id for failure in report.failed] == ["e-broken"]
    assert [failure.slide_id for failure in report.quarantined] == ["f-poison"]
    assert report.failed_by_class == {"NotASlide": 1, "WorkerDied": 1}
    assert (report.tiles_lost, report.tiles_wanted) == (4, 80)
    assert report.ends_at is None
    shown = _shown(report)
    assert "4 of 6 slides" in shown
    assert "e-broken" in shown
    assert "quarantined  open   WorkerDied" in shown


def test_a_run_that_has_just_begun_has_everything_waiting(tmp_path: Path) -> None:
    report = describe(start_run(tmp_path / "run"))
    assert (report.counts.total, report.counts.committed, report.counts.waiting) == (6, 0, 6)
    assert "none is running; the same command processes the rest" in _shown(report)


def test_a_living_driver_has_slides_in_flight_and_an_end(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.begin_attempt("c-2080", deadline_s=60)
    store.write_heartbeat(BEAT)
    report = describe(store, now=NOW)
    assert [attempt.slide_id for attempt in report.in_flight] == ["c-2080"]
    assert report.ends_at == NOW + timedelta(hours=6 / 8)
    assert "process 4711 on node-7" in _shown(report)


def test_a_driver_that_went_silent_is_not_to_be_replaced_unseen(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.begin_attempt("c-2080", deadline_s=60)
    store.write_heartbeat(BEAT)
    report = describe(store, now=LATER)
    assert report.in_flight == ()
    assert [attempt.slide_id for attempt in report.interrupted] == ["c-2080"]
    assert report.slides_per_hour == 8.0
    shown = _shown(report)
    assert "in the last job" in shown
    assert "no sign of life for 10 min from process 4711 on node-7" in shown
    assert "once it has ended, the same command processes the rest" in shown


def test_while_a_driver_lives_nothing_asks_for_a_second_one(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.write_heartbeat(BEAT)
    for slide_id in COUNTS:
        store.begin_attempt(slide_id, deadline_s=60)
        report = describe(store)
        assert "same command" not in _shown(report)
        assert report.interrupted == ()


def test_a_driver_that_was_asked_to_stop_says_so_and_has_no_end(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.begin_attempt("c-2080", deadline_s=60)
    store.write_heartbeat(replace(BEAT, stopping=True))
    report = describe(store, now=NOW)
    assert report.ends_at is None
    assert "stopping, slides in progress end first" in _shown(report)


def test_what_a_driver_waits_for_and_what_fails_alike_is_said(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    alike = "9 of 10 slides failed alike: ValueError at fossilray/merge.py:120 (no boxes)"
    store.write_heartbeat(replace(BEAT, out=("/mnt/slides is out since 12:00",), alike=alike))
    shown = _shown(describe(store, now=NOW))
    assert "/mnt/slides is out since 12:00" in shown
    assert alike in shown
    store.write_heartbeat(replace(BEAT, ended=True, alike=alike))
    assert alike in _shown(describe(store, now=NOW))


def test_a_driver_that_has_ended_is_not_running(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.write_heartbeat(replace(BEAT, in_flight=(), committed=6))
    assert describe(store, now=NOW).drivers == ()


def test_asking_where_no_run_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound):
        describe(RunStore.open(str(tmp_path)))
