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

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
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
)


def _shown(report: StatusReport) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(render(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_finished_run_counts_slides_objects_and_failures(tmp_path: Path) -> None:
    report = describe(write_small_run(tmp_path / "run"), now=NOW)
    assert (report.total, report.committed, report.waiting) == (6, 4, 0)
    assert report.objects == sum(COUNTS.values())
    assert [failure.slide_id for failure in report.failed] == ["e-broken"]
    assert [failure.slide_id for failure in report.quarantined] == ["f-poison"]
    assert report.failed_by_class == {"NotASlide": 1, "WorkerDied": 1}
    assert (report.tiles_lost, report.tiles_wanted) == (4, 80)
    assert report.ends_at is None
    shown = _shown(report)
    assert "4 of 6 slides" in shown
    assert "e-broken" in shown
    assert "WorkerDied (quarantined)" in shown


def test_a_run_that_has_just_begun_has_everything_waiting(tmp_path: Path) -> None:
    report = describe(start_run(tmp_path / "run"), now=NOW)
    assert (report.total, report.committed, report.waiting) == (6, 0, 6)
    assert "none is running" in _shown(report)


def test_a_living_driver_has_slides_in_flight_and_an_end(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.begin_attempt("c-2080", deadline_s=60)
    store.begin_attempt("a-2030", deadline_s=60)
    store.write_heartbeat(BEAT)
    report = describe(store, now=NOW)
    assert [attempt.slide_id for attempt in report.in_flight] == ["c-2080"]
    assert [attempt.slide_id for attempt in report.interrupted] == ["a-2030"]
    assert report.ends_at == NOW + timedelta(hours=6 / 8)
    assert "2026-01-02 12:45" in _shown(report)


def test_a_driver_that_went_silent_has_nothing_in_flight(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.begin_attempt("c-2080", deadline_s=60)
    store.write_heartbeat(replace(BEAT, beat_at=(NOW - timedelta(minutes=10)).isoformat()))
    report = describe(store, now=NOW)
    assert report.in_flight == ()
    assert [attempt.slide_id for attempt in report.interrupted] == ["c-2080"]
    assert report.slides_per_hour == 8.0
    assert "in the last job" in _shown(report)


def test_a_driver_that_has_ended_is_not_running(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.write_heartbeat(replace(BEAT, in_flight=(), committed=6))
    assert describe(store, now=NOW).drivers == ()


def test_a_failed_slide_that_is_tried_again_is_in_flight_and_not_failed(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run", counts={"a-2030": 1})
    store.begin_attempt("e-broken", deadline_s=60)
    store.write_heartbeat(replace(BEAT, in_flight=("e-broken",)))
    report = describe(store, now=NOW)
    assert [attempt.slide_id for attempt in report.in_flight] == ["e-broken"]
    assert report.failed == ()


def test_asking_where_no_run_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound):
        describe(RunStore.open(str(tmp_path)))
