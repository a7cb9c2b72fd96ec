"""Drivers are killed, stopped, doubled, and cut off from their disk; the same command again finishes."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.compare_runs import Watcher, assert_equal_runs
from support.fault_jobs import counts_of, run_slightly, run_with, settings, start_process
from support.faulty_worker import Fault
from support.recording_display import RecordingDisplay
from support.waiting import wait_for

from fossilray.core.errors import StoreFull, UsageError
from fossilray.jobs.journal import require_single_driver
from fossilray.jobs.process import run_job
from fossilray.store import RunStore
from fossilray.store.run.layout import pending_path

pytestmark = pytest.mark.faults


@pytest.mark.slow
def test_a_killed_driver_takes_its_workers_along_and_the_same_command_finishes(
    some_slides: Path, embedded_run: RunStore, tmp_path: Path
) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    with Watcher(store, objects=counts_of(embedded_run)):
        driver = start_process(some_slides, store.url)
        wait_for_a_commit(store, driver)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait(timeout=60)
        committed = store.committed()
        assert committed != set(counts_of(embedded_run)), "the driver was too quick to be killed"
        again = start_process(some_slides, store.url)
        text, _ = again.communicate(timeout=240)
    assert again.returncode == 0, text
    assert_equal_runs(store, embedded_run)
    assert not store.attempts.failures(), "slides in flight under a killed driver have no failure"


@pytest.mark.slow
def test_a_stopped_driver_ends_what_is_in_flight_and_no_more(
    some_slides: Path, embedded_run: RunStore, tmp_path: Path
) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    with Watcher(store, objects=counts_of(embedded_run)):
        driver = start_process(some_slides, store.url)
        wait_for_a_commit(store, driver)
        os.kill(driver.pid, signal.SIGTERM)
        text, _ = driver.communicate(timeout=120)
    assert driver.returncode == 3, text
    assert "run the same command again to resume" in text
    assert 0 < len(store.committed()) < len(counts_of(embedded_run))
    assert not store.attempts.running(), "what was begun was ended"
    assert store.attempts.heartbeats()[0].ended


@pytest.mark.slow
def test_two_drivers_at_once_commit_each_slide_once_and_both_say_so(
    some_slides: Path, embedded_run: RunStore, tmp_path: Path
) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    with Watcher(store, objects=counts_of(embedded_run)):
        drivers = [
            start_process(some_slides, store.url, "workers.count=1"),
            start_process(some_slides, store.url, "workers.count=1"),
        ]
        texts = [driver.communicate(timeout=280)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], texts
    assert all("another driver" in text for text in texts), texts
    assert_equal_runs(store, embedded_run)
    named = {summary.slide_id: summary.attempt for summary in store.summaries()}
    groups = {path.split("/")[1]: path.split("/")[2] for path in store.files.find("arrays")}
    assert groups == {slide_id: f"{attempt}.zarr" for slide_id, attempt in named.items()}


def test_where_one_driver_commits_a_second_is_refused(some_slides: Path, tmp_path: Path) -> None:
    config = settings("store.single_writer=true")
    store = RunStore.open(str(tmp_path / "run"), config.store)
    with (
        require_single_driver(store.files),
        pytest.raises(
            UsageError, match=r"another driver that alone commits \(store\.single_writer\) is at work"
        ),
    ):
        run_job(str(some_slides), store.url, config, address="local", display=RecordingDisplay())


@pytest.mark.slow
def test_of_two_sole_drivers_started_together_exactly_one_continues(
    some_slides: Path, embedded_run: RunStore, tmp_path: Path
) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    assignments = ("workers.count=1", "store.single_writer=true")
    drivers = [start_process(some_slides, store.url, *assignments) for _ in range(2)]
    texts = [driver.communicate(timeout=280)[0] for driver in drivers]
    assert sorted(driver.returncode for driver in drivers) == [0, 2], texts
    assert sum("another driver that alone commits" in text for text in texts) == 1, texts
    assert_equal_runs(store, embedded_run)


@pytest.mark.slow
def test_what_was_submitted_to_a_dead_driver_is_committed_by_the_next(
    some_slides: Path, embedded_run: RunStore, tmp_path: Path
) -> None:
    config = settings("store.single_writer=true")
    store = RunStore.open(str(tmp_path / "run"), config.store)
    run_job(str(some_slides), store.url, config, address="local", display=RecordingDisplay())
    path = store.committed_files()["c"]
    footer = store.footer("c")
    assert footer is not None
    store.files.write(pending_path("c", footer.attempt), store.files.read(path))
    store.files.delete(path)
    result = run_job(str(some_slides), store.url, config, address="local", display=RecordingDisplay())
    assert (result.tally.committed, result.tally.already_committed) == (0, 7), "nothing was left to do"
    assert not store.submitted()
    assert_equal_runs(store, embedded_run)


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("embedding", id="in arrays", marks=pytest.mark.slow),
        pytest.param("before the commit", id="in Parquet", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_stops_the_job_and_with_room_the_same_command_finishes(
    stage: str, some_slides: Path, sound_run: RunStore, shared_ray: str, tmp_path: Path, small_disk: Path
) -> None:
    store = RunStore.open(str(small_disk / "run"))
    counts = counts_of(sound_run)
    fault = Fault("c", stage, "fill", ballast=str(small_disk / "ballast"))  # type: ignore[arg-type]
    with pytest.raises(StoreFull, match=r"No space left on device; free some space"):
        run_with(
            [fault],
            some_slides,
            store,
            tmp_path / "marks",
            counts=counts,
            address=shared_ray,
            more=("store.patience_minutes=0.02",),
        )
    assert "c" not in store.committed()
    (small_disk / "ballast").unlink()
    with Watcher(store, objects=counts):
        result = run_slightly(
            some_slides, store.url, settings(), address=shared_ray, display=RecordingDisplay()
        )
    assert result.tally.failed == 0
    assert_equal_runs(store, sound_run)


def wait_for_a_commit(store: RunStore, driver: subprocess.Popen[str]) -> None:
    wait_for(
        lambda: bool(store.committed()),
        lives=lambda: driver.poll() is None,
        log=lambda: "" if driver.poll() is None else driver.communicate()[0],
    )
