"""The driver with fake workers that fail on command: all of it over threads, and the protocol over a local Ray too."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from ray import cloudpickle
from support import run_fixtures
from support.recording_display import RecordingDisplay
from support.thread_actors import NODES, ThreadActors, WorkerExit
from support.waiting import wait_for

from fossilray.core.config import RunConfig, StoreConfig, WorkersConfig
from fossilray.core.errors import SlidesFailAlike, SourcesOut, StoreUnreachable, WeightsError, WorkerError
from fossilray.core.records import UNASSIGNED_WELL, Failure, Outcome, WorkItem, utc_now
from fossilray.core.worker import WorkerStatus
from fossilray.jobs.journal import LOSS_WEIGHTS, DriverJournal
from fossilray.jobs.progress import Tally
from fossilray.jobs.scheduler import ray_cluster, run_items, workers_that_fit
from fossilray.jobs.scheduler.actors import StartActors
from fossilray.jobs.scheduler.ray_actors import RayActors
from fossilray.store import RunStore
from fossilray.store.run.run_record import describe_run

WORKERS = WorkersConfig(
    count=2,
    cpus_per_worker=0.4,
    max_deaths=2,
    max_tries=2,
    retry_after_s=0.1,
    stall_minutes=0.05,
    memory_gb=0.7,
)
CONFIG = RunConfig(workers=WORKERS, store=StoreConfig(patience_minutes=0.06))


class ScriptedWorker:
    """Does to each slide what its name begins with, and leaves a line per try in a file."""

    def __init__(self, log: Path, end: Callable[[], NoReturn]) -> None:
        self._log = log
        self._end = end
        self._name = secrets.token_hex(4)
        self._state: WorkerStatus | None = None

    def prepare(self) -> str:
        return f"fake/{self._name}"

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        with self._log.open("a") as log:
            log.write(f"{item.key} {self._name} {upcoming.key if upcoming else '-'}\n")
        self._state = WorkerStatus(item.key, "detect", 0.5)
        act = item.key.split("-")[0]
        if act == "kills":
            self._end()
        if act == "kills_once" and self._tries(item) == 1:
            self._end()
        if act == "bug":
            raise KeyError("a bug")
        if act in ("slow", "spoilt"):
            time.sleep(1.0)
        if act in ("unreadable", "spoilt") or (act == "flaky" and self._tries(item) == 1):
            return Outcome(item.key, failure=failure(item.key, transient=act == "flaky"))
        if act == "unfetched" or (act == "outage" and time.time() - self._began() < 1.5):
            return Outcome(item.key, failure=failure(item.key, transient=True, error="SourceUnreachable"))
        if act == "gone" or (act == "away" and time.time() - self._began() < 1.5):
            out = failure(item.key, transient=True, error="SourceOut", root="/share")
            return Outcome(item.key, failure=out)
        if act == "hangs":
            time.sleep(3600)
        if act == "walks":  # longer than a stall, but it moves
            for step in range(40):
                self._state = WorkerStatus(item.key, "detect", step / 40)
                time.sleep(0.15)
        if act == "swells":
            self._state = WorkerStatus(item.key, "crops", 0.1, resident_bytes=2 * 10**9)
            time.sleep(3600)
        if act == "offline" or (act == "offline_once" and self._tries(item) == 1):
            raise StoreUnreachable("s3://bucket/run does not reply; check the network")
        return Outcome(
            item.key,
            summary=run_fixtures.a_summary(item.key, "0" * 16, objects=7, well=UNASSIGNED_WELL),
        )

    def state(self) -> WorkerStatus | None:
        return self._state

    def close(self) -> None:
        with self._log.open("a") as log:
            log.write(f"closed {self._name} -\n")

    def _began(self) -> float:
        """Time at which the first slide of the job was started."""
        with contextlib.suppress(FileExistsError), self._log.with_suffix(".began").open("x") as began:
            began.write(str(time.time()))
        return self._log.with_suffix(".began").stat().st_mtime

    def _tries(self, item: WorkItem) -> int:
        return sum(line.startswith(item.key + " ") for line in self._log.read_text().splitlines())


def end_process() -> NoReturn:
    os._exit(1)


def end_thread() -> NoReturn:
    raise WorkerExit


class WorkerWithoutWeights(ScriptedWorker):
    def prepare(self) -> str:
        raise WeightsError("weights.pt is not there; check detector.weights")


class Job:
    """A run, and jobs on it; `system` is threads or ray."""

    def __init__(self, folder: Path, system: str) -> None:
        self.folder = folder
        self.store = new_run(folder / "run")
        self._log = folder / "tries.log"
        self._start_actors: StartActors = RayActors if system == "ray" else ThreadActors
        self._end = end_process if system == "ray" else end_thread

    def run(
        self,
        names: list[str],
        *,
        worker: type[ScriptedWorker] = ScriptedWorker,
        store: RunStore | None = None,
        stop: threading.Event | None = None,
        stop_after: int | None = None,
        folder: str = "/",
        workers: WorkersConfig = WORKERS,
    ) -> tuple[Tally, RecordingDisplay]:
        """Process slides of these names, all of them in one folder or bucket."""
        items = [WorkItem(name, source=f"{folder}{name}.mrxs") for name in names]
        return self.run_items(
            items, worker=worker, store=store, stop=stop, stop_after=stop_after, workers=workers
        )

    def run_items(
        self,
        items: list[WorkItem],
        *,
        worker: type[ScriptedWorker] = ScriptedWorker,
        store: RunStore | None = None,
        stop: threading.Event | None = None,
        stop_after: int | None = None,
        workers: WorkersConfig = WORKERS,
        unit: str = "slide",
        start_actors: StartActors | None = None,
        display: RecordingDisplay | None = None,
    ) -> tuple[Tally, RecordingDisplay]:
        display = display or RecordingDisplay(stop, stop_after)
        tally = run_items(
            items,
            functools.partial(worker, self._log, self._end),
            config=CONFIG.model_copy(update={"workers": workers}),
            journal=DriverJournal((store or self.store).attempts, run=store or self.store, unit=unit),
            tally=Tally(total=len(items), unit=unit),
            display=display,
            stop=stop,
            start_actors=start_actors or self._start_actors,
        )
        return tally, display

    @property
    def lines(self) -> list[list[str]]:
        """The lines of the log: slide or `closed`, worker, the next slide or `-`."""
        return [line.split() for line in self._log.read_text().splitlines()] if self._log.exists() else []

    @property
    def tried(self) -> list[str]:
        """The slides in the order in which they were tried."""
        return [line[0] for line in self.lines if line[0] != "closed"]


@pytest.fixture(scope="module")
def private_ray() -> Iterator[None]:
    # Workers cannot import modules of tests by name.
    carried = (sys.modules[__name__], run_fixtures)
    for module in carried:
        cloudpickle.register_pickle_by_value(module)
    with ray_cluster("local"):
        yield
    for module in carried:
        cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Job:
    system: str = getattr(request, "param", "threads")
    if system == "ray":
        request.getfixturevalue("private_ray")
    return Job(tmp_path, system)


over_both = pytest.mark.parametrize("job", ["threads", "ray"], indirect=True)


def new_run(folder: Path) -> RunStore:
    store = RunStore.open(str(folder))
    store.create_or_check(describe_run(RunConfig(), {}))
    return store


@over_both
def test_every_slide_is_finished_once(job: Job) -> None:
    tally, _ = job.run([f"fine-{n}" for n in range(40)])
    assert (tally.committed, tally.failed, tally.finished) == (40, 0, 40)
    assert tally.objects == 40 * 7
    assert len(job.tried) == 40


@over_both
def test_a_slide_that_kills_its_workers_is_quarantined_and_its_neighbours_are_not(job: Job) -> None:
    names = [f"fine-{n}" for n in range(12)]
    names[3:3] = ["kills-a"]
    names[8:8] = ["kills-b"]
    tally, display = job.run(names)
    assert (tally.committed, tally.failed) == (12, 2)
    assert job.tried.count("kills-a") == job.tried.count("kills-b") == WORKERS.max_deaths
    assert {
        f.slide_id for f in job.store.attempts.failures() if f.quarantined and f.error == "WorkerDied"
    } == {
        "kills-a",
        "kills-b",
    }
    assert any("quarantined" in line for line in display.messages)


def test_a_slide_whose_worker_died_once_is_tried_again(job: Job) -> None:
    tally, _ = job.run(["kills_once-a", "fine-1", "fine-2"])
    assert (tally.committed, tally.failed, tally.retried) == (3, 0, 1)


def test_deaths_of_an_earlier_driver_count(job: Job) -> None:
    DriverJournal(job.store.attempts, run=job.store).record_loss(
        "kills-a", error="WorkerDied", reason="SIGKILL", stage="detect", quarantined=False
    )
    wait_for(lambda: bool(job.store.attempts.failures()), 10)
    tally, _ = job.run(["kills-a"])
    assert tally.failed == 1
    assert job.tried == ["kills-a"]


def test_a_slide_that_lost_a_worker_before_comes_last(job: Job) -> None:
    journal = DriverJournal(job.store.attempts, run=job.store)
    journal.record_loss("fine-0", error="WorkerDied", reason="SIGKILL", stage="detect", quarantined=False)
    journal.close(Tally(total=1))
    job.run([f"fine-{n}" for n in range(8)])
    assert "fine-0" in job.tried[-2:]


def test_only_transient_failures_are_tried_again(job: Job) -> None:
    tally, display = job.run(["unreadable-a", "flaky-b", "fine-c"])
    assert (tally.committed, tally.failed, tally.retried) == (2, 1, 1)
    assert job.tried.count("unreadable-a") == 1
    assert job.tried.count("flaky-b") == 2
    assert display.messages == ["unreadable-a: unreadable pixels"]


@over_both
def test_an_exception_of_any_class_is_its_slides_failure_and_the_job_continues(job: Job) -> None:
    tally, display = job.run(["bug-a", *(f"fine-{n}" for n in range(6))])
    assert (tally.committed, tally.failed) == (6, 1)
    assert job.tried.count("bug-a") == WORKERS.max_tries
    (last,) = (failure for failure in job.store.attempts.failures() if failure.quarantined)
    assert (last.slide_id, last.error, last.transient) == ("bug-a", "KeyError", False)
    assert "a bug" in last.message
    assert 'raise KeyError("a bug")' in (last.traceback or "")
    assert display.messages == ["bug-a: 'a bug'"]


def test_slides_that_fail_alike_are_reported_as_one_and_end_the_job_past_the_configured_share(
    job: Job,
) -> None:
    names = [f"bug-{n:02d}" for n in range(9)]
    tally, display = job.run([*names, "fine-a"])
    assert (tally.committed, tally.failed) == (1, 9)
    assert sum("fail alike" in line for line in display.messages) == 1
    assert "9 of 10 slides failed alike: KeyError at" in display.messages[-1]
    again = new_run(job.folder / "again")
    with pytest.raises(
        SlidesFailAlike, match=r"[4-9] of \d slides failed alike: KeyError .*workers\.alike_share = 0\.3"
    ):
        job.run(
            [*names, "fine-a"],
            store=again,
            workers=WORKERS.model_copy(update={"alike_slides": 4, "alike_share": 0.3}),
        )
    assert not [failure for failure in again.attempts.failures() if failure.quarantined], (
        "the next start begins again"
    )


@over_both
def test_weights_that_do_not_load_stop_the_job_with_their_own_error(job: Job) -> None:
    with pytest.raises(WeightsError, match=r"check detector\.weights"):
        job.run(["fine-a"], worker=WorkerWithoutWeights)


def test_a_stopped_job_ends_what_is_in_flight_and_starts_nothing_more(job: Job) -> None:
    stop = threading.Event()
    tally, _ = job.run([f"slow-{n:02d}" for n in range(60)], stop=stop, stop_after=2)
    assert 0 < tally.committed < 60
    assert tally.committed == len(job.tried)


@pytest.mark.slow
@over_both
def test_a_slide_that_hangs_is_stopped_and_one_that_only_takes_long_is_not(job: Job) -> None:
    tally, _ = job.run(["hangs-a", "walks-b", "fine-c"])
    assert (tally.committed, tally.failed) == (2, 1)
    last = job.store.attempts.failures()[-1]
    assert (last.slide_id, last.error, last.stage, last.quarantined) == ("hangs-a", "Stalled", "detect", True)
    assert "workers.stall_minutes" in last.message
    assert job.tried.count("walks-b") == 1


@over_both
def test_a_worker_that_holds_too_much_memory_is_stopped(job: Job) -> None:
    tally, _ = job.run(["swells-a", "fine-b"])
    assert (tally.committed, tally.failed) == (1, 1)
    assert {failure.error for failure in job.store.attempts.failures()} == {"MemoryExceeded"}
    assert "2.0 GB in stage crops" in job.store.attempts.failures()[0].message


def test_lost_machines_weigh_less_than_deaths(job: Job) -> None:
    journal = DriverJournal(job.store.attempts, run=job.store)
    for _ in range(3):
        journal.record_loss("fine-a", error="NodeDied", reason="preempted", stage="detect", quarantined=False)
    journal.close(Tally(total=1))
    assert journal.failure_weights() == {"fine-a": pytest.approx(1.0)}
    assert job.run(["fine-a"])[0].committed == 1
    assert LOSS_WEIGHTS["NodeDied"] * WORKERS.max_deaths < 1


@over_both
def test_a_store_that_is_away_for_a_moment_costs_no_slide(job: Job) -> None:
    tally, display = job.run(["offline_once-a", "fine-b"])
    assert (tally.committed, tally.failed, tally.retried) == (2, 0, 1)
    assert any("does not reply" in line for line in display.messages)


def test_a_store_that_stays_away_ends_the_job_with_its_own_error(job: Job) -> None:
    with pytest.raises(StoreUnreachable, match="does not reply"):
        job.run(["offline-a"])


def test_an_outage_of_the_slides_own_store_costs_no_slide(job: Job) -> None:
    tally, display = job.run([f"outage-{n}" for n in range(6)])
    assert (tally.committed, tally.failed) == (6, 0)
    assert sum("trying again" in line for line in display.messages) == 1


def test_a_folder_that_goes_away_is_waited_for_while_others_continue(job: Job) -> None:
    names = [f"away-{n}" for n in range(8)]
    items = [WorkItem(name, source=f"/share/{name}.mrxs") for name in names]
    items += [WorkItem(f"fine-{n}", source=f"/disk/fine-{n}.mrxs") for n in range(8)]
    tally, display = job.run_items(items)
    assert (tally.committed, tally.failed) == (16, 0)
    assert [line for line in display.messages if "store.patience_minutes" in line] == display.messages[:1]
    assert display.messages[-1] == "/share can be read again"
    attempts = job.tried
    before_the_end = attempts[
        : max(number for number, name in enumerate(attempts) if name.startswith("fine")) + 1
    ]
    assert {f"fine-{n}" for n in range(8)} <= set(before_the_end)
    assert len(attempts) < 16 + 12, "one probe at a time, not all of them"


def test_a_folder_that_stays_away_ends_the_job_and_no_slide_of_it_has_failed(job: Job) -> None:
    items = [WorkItem(f"gone-{n}", source=f"/share/gone-{n}.mrxs") for n in range(5)]
    items += [WorkItem(f"fine-{n}", source=f"/disk/fine-{n}.mrxs") for n in range(3)]
    with pytest.raises(
        SourcesOut, match=r"3 of 8 slides are committed, 5 wait and none of these counts"
    ) as caught:
        job.run_items(items)
    assert caught.value.exit_code == 5
    assert not [failure for failure in job.store.attempts.failures() if failure.quarantined]
    (heartbeat,) = job.store.attempts.heartbeats()
    assert heartbeat.ended


def test_a_straggler_that_fails_is_copied_once_and_ends(job: Job) -> None:
    """Two workers that fail in turn, each while the other one still tries, would never end."""
    tally, _ = job.run(["spoilt-a", *(f"fine-{n}" for n in range(6))])
    assert (tally.committed, tally.failed) == (6, 1)
    assert job.tried.count("spoilt-a") <= 2


def test_one_slide_that_its_store_will_not_give_fails_alone(job: Job) -> None:
    tally, _ = job.run(["unfetched-a", *(f"fine-{n}" for n in range(6))])
    assert (tally.committed, tally.failed) == (6, 1)
    assert job.tried.count("unfetched-a") == WORKERS.max_tries


@over_both
def test_workers_are_closed_before_they_are_killed(job: Job) -> None:
    job.run(["fine-a", "fine-b", "fine-c"])
    workers = {line[1] for line in job.lines if line[0] != "closed"}
    assert workers <= {line[1] for line in job.lines if line[0] == "closed"}


def test_each_worker_gets_the_next_slide_that_must_be_downloaded(job: Job) -> None:
    names = [f"fine-{n:02d}" for n in range(12)]
    tally, _ = job.run([*names, "kills-x"], folder="s3://bucket/")
    assert (tally.committed, tally.failed) == (12, 1)
    tries = [line for line in job.lines if line[0] != "closed"]
    kept = sum(
        after[0] == upcoming
        for worker in {line[1] for line in tries}
        for own in [[line for line in tries if line[1] == worker]]
        for (_, _, upcoming), after in itertools.pairwise(own)
        if upcoming != "-"
    )
    assert kept > 0
    assert sum(line[2] != "-" for line in tries) > 4
    assert len([line for line in tries if line[0].startswith("fine")]) == 12


def test_the_driver_leaves_summaries_and_a_heartbeat(job: Job) -> None:
    job.run(["fine-a", "fine-b"])
    heartbeat = job.store.attempts.heartbeats()[0]
    assert (heartbeat.total, heartbeat.committed, heartbeat.in_flight) == (2, 2, ())
    assert job.store.files.find("slides")


@over_both
def test_what_this_machine_does_not_have_ends_a_private_job_at_once(job: Job) -> None:
    greedy = WORKERS.model_copy(update={"resources": {"unobtainium": 1.0}})
    with pytest.raises(WorkerError, match=r"requests 0\.4 CPU, 1 unobtainium, and this machine has \d+ CPU"):
        job.run(["fine-a"], workers=greedy)
    assert not job.lines


@pytest.mark.usefixtures("private_ray")
def test_workers_fit_the_cluster_unless_their_number_is_given() -> None:
    assert workers_that_fit(WorkersConfig(count=7)) == 7
    assert workers_that_fit(WorkersConfig(cpus_per_worker=1000)) == 1
    assert 1 <= workers_that_fit(WorkersConfig()) <= (os.cpu_count() or 1)


def test_messages_name_the_unit_of_the_job(job: Job) -> None:
    items = [WorkItem(f"bug-{n}") for n in range(3)]
    _, display = job.run_items(items, unit="shard")
    assert "3 of 3 shards failed alike: KeyError at" in display.messages[-1]
    job.run_items([WorkItem("kills-a")], unit="shard")
    assert "the worker was lost while it processed this shard" in job.store.attempts.failures()[-1].message


def test_shards_whose_workers_stall_are_quarantined_and_not_taken_for_an_outage(job: Job) -> None:
    """Items without a source belong to no folder that could be out."""
    workers = WORKERS.model_copy(update={"stall_minutes": 0.005, "count": 6, "max_deaths": 1})
    tally, display = job.run_items([WorkItem(f"hangs-{n}") for n in range(5)], workers=workers)
    assert (tally.failed, tally.quarantined) == (5, 5)
    assert not [line for line in display.messages if "trying again" in line]


def test_a_straggler_is_not_copied_to_a_draining_node(job: Job) -> None:
    """Both nodes drain: the idle worker is released before the slow slide is a straggler."""
    systems: list[ThreadActors] = []

    def start(*arguments: Any) -> ThreadActors:
        systems.append(ThreadActors(*arguments))
        return systems[0]

    class Draining(RecordingDisplay):
        def update(self, tally: Tally, states: object) -> None:
            if tally.committed == 4:
                systems[0].draining |= set(NODES)

    tally, _ = job.run_items(
        [WorkItem(name) for name in ("slow-a", "fine-a", "fine-b", "fine-c", "fine-d")],
        start_actors=start,
        display=Draining(None, None),
    )
    assert (tally.committed, tally.failed) == (5, 0)
    assert job.tried.count("slow-a") == 1
    assert [line[0] for line in job.lines[-2:-1]] == ["closed"]


def failure(
    slide_id: str, *, transient: bool, error: str = "UnreadableRegion", root: str | None = None
) -> Failure:
    return Failure(
        slide_id,
        "0" * 16,
        "detect",
        error,
        "unreadable pixels",
        transient,
        not transient,
        "h",
        utc_now(),
        root=root,
    )
