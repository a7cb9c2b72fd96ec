"""Jobs with faults over a few small slides, and the run that no fault befell to compare with."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from ray import cloudpickle
from support import faulty_worker
from support.compare_runs import Watcher
from support.faulty_worker import Fault, FaultyWorker, SlightWorker
from support.recording_display import RecordingDisplay
from support.shared_ray import SharedRay
from support.slides_on_disk import write_slide

from fossilray.core.config import RunConfig, load_config
from fossilray.jobs.process import run_job
from fossilray.jobs.run_items import JobResult
from fossilray.store import RunStore

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "detector.kind=classical",
    "crops.size_px=64",
    "workers.count=2",
    "workers.cpus_per_worker=0.4",
    "workers.retry_after_s=0.1",
    "slides.read_threads=1",
)
NAMES = ("a", "b", "c", "d", "e", "f", "g")
PROCESS = (sys.executable, "-c", "from fossilray.cli.main import main; main()", "process")


@pytest.fixture(scope="session")
def some_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with slides a to g."""
    folder = tmp_path_factory.mktemp("some") / "slides"
    for number, name in enumerate(NAMES):
        write_slide(folder / f"{name}.mrxs", objects=5 + number)
    return folder


@pytest.fixture(scope="session")
def sound_run(
    some_slides: Path, ray_of_files: SharedRay, tmp_path_factory: pytest.TempPathFactory
) -> RunStore:
    """The run over them that no fault befell."""
    run = tmp_path_factory.mktemp("sound") / "run"
    address = ray_of_files.address
    result = run_slightly(some_slides, run, settings(), address=address, display=RecordingDisplay())
    assert result.tally.committed == len(NAMES)
    return RunStore.open(str(run))


@pytest.fixture(scope="session")
def embedded_run(
    some_slides: Path, ray_of_files: SharedRay, tmp_path_factory: pytest.TempPathFactory
) -> RunStore:
    """The same with the configured backbone, as the command gives it."""
    run = tmp_path_factory.mktemp("embedded") / "run"
    address = ray_of_files.address
    run_job(str(some_slides), str(run), settings(), address=address, display=RecordingDisplay())
    return RunStore.open(str(run))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB, where the system lets us have one."""
    mount = tmp_path / "disk"
    mount.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mount)], check=True, capture_output=True
        )
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("mounting a small disk needs root")
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


def settings(*more: str) -> RunConfig:
    return load_config(None, [*SETTINGS, *more])


def run_with(
    faults: Sequence[Fault],
    slides: Path | str,
    store: RunStore,
    marks: Path,
    *,
    counts: dict[str, int],
    address: str,
    more: tuple[str, ...] = (),
) -> tuple[JobResult, RecordingDisplay]:
    """A job with faults, while a bare reader looks on. counts: objects of each slide; marks: a folder."""
    marks.mkdir(exist_ok=True)
    display = RecordingDisplay()
    with by_value(), Watcher(store, objects=counts):
        result = run_job(
            str(slides),
            store.url,
            settings(*more),
            address=address,
            display=display,
            make_worker=functools.partial(FaultyWorker, faults=tuple(faults), marks=marks),
        )
    return result, display


def run_slightly(
    slides: Path | str, run: Path | str, config: RunConfig, *, address: str, display: RecordingDisplay
) -> JobResult:
    """A job whose workers embed without PyTorch."""
    with by_value():
        return run_job(
            str(slides), str(run), config, address=address, display=display, make_worker=SlightWorker
        )


def counts_of(run: RunStore) -> dict[str, int]:
    """How many objects each slide of a run has."""
    return {summary.slide_id: summary.objects for summary in run.summaries()}


def start_process(slides: Path | str, run: str, *more: str) -> subprocess.Popen[str]:
    """The real command in a process of its own; `more` as `--set` takes it."""
    assignments = [word for assignment in (*SETTINGS, *more) for word in ("--set", assignment)]
    return subprocess.Popen(
        [*PROCESS, str(slides), "--run", run, *assignments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@contextlib.contextmanager
def by_value() -> Iterator[None]:
    """Workers cannot import modules of tests by name."""
    cloudpickle.register_pickle_by_value(faulty_worker)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(faulty_worker)
