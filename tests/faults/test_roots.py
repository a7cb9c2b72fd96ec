"""The folder of the slides, or the disk of the run, goes away in the middle of a job and comes back, or does not."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.compare_runs import assert_equal_runs
from support.fault_jobs import NAMES, run_slightly, settings
from support.recording_display import RecordingDisplay

from fossilray.core.errors import SourcesOut, StoreUnreachable
from fossilray.jobs.progress import Tally
from fossilray.jobs.run_items import JobResult
from fossilray.slides.catalog import find_slides, write_catalog
from fossilray.store import RunStore

pytestmark = pytest.mark.faults


class Acting(RecordingDisplay):
    """A display that does something once so many slides are committed, in a thread of its own."""

    def __init__(self, after: int, act: Callable[[], None]) -> None:
        super().__init__()
        self._after, self._act = after, act
        self._thread = threading.Thread(target=act)

    def update(self, tally: Tally, states: object) -> None:
        if tally.committed >= self._after and self._thread.ident is None:
            self._thread.start()

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()


@pytest.fixture
def own_slides(some_slides: Path, tmp_path: Path) -> Path:
    """A catalog of slides a to g below a folder that may be moved."""
    subprocess.run(["cp", "-r", str(some_slides), str(tmp_path / "share")], check=True)
    write_catalog(find_slides(str(tmp_path / "share")), tmp_path / "catalog.csv")
    return tmp_path / "catalog.csv"


def test_slides_that_go_away_for_a_while_are_waited_for_and_none_of_them_fails(
    own_slides: Path, sound_run: RunStore, shared_ray: str, tmp_path: Path
) -> None:
    def leave_and_return() -> None:
        with away(tmp_path / "share"):
            time.sleep(3)

    display = Acting(1, leave_and_return)
    result = drive(shared_ray, own_slides, tmp_path / "run", display)
    display.join()
    store = RunStore.open(str(tmp_path / "run"))
    assert (result.exit_code, result.tally.committed, result.tally.failed) == (0, len(NAMES), 0), (
        display.messages
    )
    assert not result.failures
    assert sum("do not count as failed" in line for line in display.messages) == 1, display.messages
    assert display.messages[-1] == f"{tmp_path / 'share'} can be read again"
    assert all(summary.tiles_failed == 0 for summary in store.summaries())
    assert_equal_runs(store, sound_run)


@pytest.mark.slow
def test_slides_that_stay_away_end_the_job_and_the_same_command_finishes(
    own_slides: Path, sound_run: RunStore, shared_ray: str, tmp_path: Path
) -> None:
    share = tmp_path / "share"
    display = Acting(1, lambda: leave(share))
    with pytest.raises(SourcesOut, match="none of these counts as failed: start the same command again"):
        drive(shared_ray, own_slides, tmp_path / "run", display, "store.patience_minutes=0.05")
    display.join()
    store = RunStore.open(str(tmp_path / "run"))
    assert 1 <= len(store.committed()) < len(NAMES)
    assert not [failure for failure in store.attempts.failures() if failure.quarantined]
    (heartbeat,) = store.attempts.heartbeats()
    assert heartbeat.ended
    share.rmdir()
    share.with_name("elsewhere").rename(share)
    again = drive(shared_ray, own_slides, tmp_path / "run", RecordingDisplay())
    assert (again.exit_code, again.failures) == (0, ())
    assert_equal_runs(store, sound_run)


@pytest.mark.slow
def test_a_share_that_is_unmounted_for_a_while_is_waited_for(
    own_slides: Path, sound_run: RunStore, shared_ray: str, tmp_path: Path
) -> None:
    share, source = tmp_path / "share", tmp_path / "source"
    share.rename(source)
    share.mkdir()
    mount = ["mount", "--bind", str(source), str(share)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("mounting a share needs root")

    def unmount_and_mount() -> None:
        subprocess.run(["umount", "--lazy", str(share)], check=True)
        time.sleep(3)
        subprocess.run(mount, check=True)

    display = Acting(1, unmount_and_mount)
    try:
        result = drive(shared_ray, own_slides, tmp_path / "run", display)
    finally:
        display.join()
        subprocess.run(["umount", "--lazy", str(share)], check=True)
    assert (result.exit_code, result.tally.failed, result.failures) == (0, 0, ()), display.messages
    assert any("do not count as failed" in line for line in display.messages), display.messages
    assert_equal_runs(RunStore.open(str(tmp_path / "run")), sound_run)


@pytest.mark.slow
def test_a_run_directory_that_goes_away_for_a_while_loses_nothing(
    own_slides: Path, sound_run: RunStore, shared_ray: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def leave_and_return() -> None:
        with away(run):
            time.sleep(4)
            assert not list(run.iterdir()), "nothing was written below the empty mount point"

    display = Acting(1, leave_and_return)
    result = drive(shared_ray, own_slides, run, display)
    display.join()
    assert (result.exit_code, result.tally.failed) == (0, 0), display.messages
    assert any("is not mounted" in line for line in display.messages), display.messages
    assert_equal_runs(RunStore.open(str(run)), sound_run)


@pytest.mark.slow
def test_a_run_directory_that_stays_away_ends_the_job(
    own_slides: Path, shared_ray: str, tmp_path: Path
) -> None:
    display = Acting(1, lambda: leave(tmp_path / "run"))
    with pytest.raises(StoreUnreachable, match="committed slides are kept") as caught:
        drive(shared_ray, own_slides, tmp_path / "run", display, "store.patience_minutes=0.05")
    display.join()
    assert caught.value.exit_code == 5
    assert not list((tmp_path / "run").iterdir())


def drive(address: str, catalog: Path, run: Path, display: RecordingDisplay, *more: str) -> JobResult:
    return run_slightly(catalog, run, settings(*more), address=address, display=display)


@contextlib.contextmanager
def away(folder: Path) -> Iterator[None]:
    """For a while the folder is empty."""
    leave(folder)
    try:
        yield
    finally:
        folder.rmdir()
        folder.with_name("elsewhere").rename(folder)


def leave(folder: Path) -> None:
    """The folder is empty, as where a share is not mounted."""
    folder.rename(folder.with_name("elsewhere"))
    folder.mkdir()
