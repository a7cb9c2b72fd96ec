"""A run watched from elsewhere: again and again, with an alarm, on a terminal and without."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console
from support.cli_runner import invoke
from support.small_run import COUNTS, commit_slide, start_run, write_small_run

from fossilray.core.errors import StoreUnreachable
from fossilray.core.heartbeat import Heartbeat
from fossilray.core.records import utc_now
from fossilray.jobs.progress import CommitAlarm
from fossilray.jobs.watch import check_alarm, watch_run
from fossilray.store import RunStore
from fossilray.store.status import read_status


def finish_meanwhile(store: RunStore) -> Callable[[float], None]:
    """Instead of sleeping: one more slide is committed each time, the last two fail, the driver ends."""
    left = list(COUNTS)

    def sleep(_seconds: float) -> None:
        if left:
            commit_slide(store, left.pop(0), count=2, well="6407/6-5", depth_m=None, seed=0)
        else:
            write_failures(store)

    return sleep


def write_failures(store: RunStore) -> None:
    from support.run_fixtures import a_failure

    for slide_id in ("e-broken", "f-poison"):
        store.attempts.record_failure(
            a_failure(slide_id, store.attempts.start(slide_id, deadline_s=60).attempt)
        )


def test_watching_prints_a_line_each_time_and_ends_with_the_run(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    stream = io.StringIO()
    assert watch_run(store, Console(file=stream), every_s=30, sleep=finish_meanwhile(store)) is None
    lines = stream.getvalue().splitlines()
    assert [f"committed {n} of 6 slides" in line for n, line in zip((0, 1, 2, 3, 4, 4), lines, strict=True)]
    assert "waiting 6" in lines[0]
    assert "quarantined 2" in lines[-1]
    assert all(line.startswith("20") for line in lines)


def test_watching_for_programs_gives_one_json_object_a_line(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    stream = io.StringIO()
    watch_run(store, Console(file=stream), every_s=30, as_json=True, sleep=finish_meanwhile(store))
    reports = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [report["committed"] for report in reports] == [0, 1, 2, 3, 4, 4]
    assert [report["is_done"] for report in reports] == [False] * 5 + [True]


def test_on_a_terminal_the_status_is_updated_in_place(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    assert watch_run(store, console, every_s=30, sleep=finish_meanwhile(store)) is None
    assert "4 of 6 slides" in stream.getvalue()
    assert "\x1b[1A" in stream.getvalue()  # the cursor goes up again


def test_a_store_that_is_out_for_a_moment_is_reported_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = start_run(tmp_path / "run")
    away = iter([True])
    finish = finish_meanwhile(store)

    read_table = store.summaries_table

    def fail_once() -> pa.Table:
        if next(away, False):
            raise StoreUnreachable("s3://bucket/run does not reply")
        return read_table()

    monkeypatch.setattr(store, "summaries_table", fail_once)
    stream = io.StringIO()
    assert watch_run(store, Console(file=stream, width=200), every_s=30, sleep=finish) is None
    assert "does not reply; trying again" in stream.getvalue().splitlines()[0]


def test_the_alarm_ends_watching_and_states_since_when(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    now = datetime.now(UTC)
    early, late = read_status(store), read_status(store, now=now + timedelta(minutes=31))
    assert check_alarm(early, minutes=30) is None
    assert check_alarm(late, minutes=None) is None
    alarm = check_alarm(late, minutes=30)
    assert alarm is not None
    assert "no slide was committed since" in alarm
    assert "6 of 6 are left, no driver is running" in alarm


def test_a_driver_that_has_just_started_has_its_time(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    later = datetime.now(UTC) + timedelta(hours=5)
    heartbeat = Heartbeat("driver-1", later.isoformat(), later.isoformat(), 6, 0, 0, 0, 0.0, 1, ("a-2030",))
    store.attempts.write_heartbeat(heartbeat)
    assert check_alarm(read_status(store, now=later + timedelta(minutes=1)), minutes=30) is None
    heartbeat = replace(heartbeat, beat_at=(later + timedelta(minutes=31)).isoformat())
    store.attempts.write_heartbeat(heartbeat)
    assert check_alarm(read_status(store, now=later + timedelta(minutes=31)), minutes=30) is not None


def test_a_run_that_is_done_raises_no_alarm(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run")
    report = read_status(store, now=datetime.now(UTC) + timedelta(days=9))
    assert report.is_done
    assert check_alarm(report, minutes=1) is None


def test_status_exits_with_4_when_the_alarm_is_due(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    store.attempts.write_heartbeat(Heartbeat("driver-1", utc_now(), utc_now(), 6, 0, 0, 0, 0.0, 1, ()))
    folder = str(tmp_path / "run")
    assert invoke("status", folder, "--alarm-minutes", "30").exit_code == 0
    quiet = tmp_path / "quiet"
    old = json.loads(start_run(quiet).files.read("run.json"))
    (quiet / "run.json").write_text(json.dumps({**old, "created_at": "2026-01-01T00:00:00+00:00"}))
    for words in ([], ["--json"], ["--watch"]):
        invoked = invoke("status", quiet, "--alarm-minutes", "30", *words)
        assert invoked.exit_code == 4
        assert "no slide was committed since 2026-01-01 00:00 UTC" in invoked.stderr


def test_the_alarm_of_a_job_is_due_once_per_period_without_commits() -> None:
    clock = iter([0.0, 100.0, 601.0, 700.0, 800.0, 1400.0]).__next__
    alarm = CommitAlarm(10, clock=clock)
    assert [alarm.is_due(), alarm.is_due()] == [False, True]
    assert not alarm.is_due()
    alarm.committed()
    assert [alarm.is_due(), alarm.is_due()] == [False, True]
