"""The driver over a real local Ray; the workers are fakes, because here the faults are the subject."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray import cloudpickle
from support import run_fixtures

from fossilray.core.config import RunConfig, StoreConfig, WorkersConfig
from fossilray.core.errors import SlidesFailAlike, SourcesOut, StoreUnreachable, WeightsError, WorkerError
from fossilray.core.records import UNASSIGNED_WELL, CatalogRow, Failure, Outcome, WorkerStatus, utc_now
from fossilray.jobs.journal import LOSS_WEIGHTS, DriverJournal
from fossilray.jobs.progress import Tally
from fossilray.jobs.scheduler import ray_cluster, run_items, workers_that_fit
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
    """Does to each slide what its name says, and leaves a line per try in a file."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._state: WorkerStatus | None = None

    def prepare(self) -> str:
        return f"fake/{os.getpid()}"

    def process(self, row: CatalogRow, upcoming: CatalogRow | None = None) -> Outcome:
        with self._log.open("a") as log:
            log.write(f"{row.slide_id} {os.getpid()} {upcoming.slide_id if upcoming else '-'}\n")
        self._state = WorkerStatus(row.slide_id, "detect", 0.5)
        act = row.slide_id.split("-")[0]
        if act == "kills":
            os._exit(1)
        if act == "kills_once" and self._tries(row) == 1:
            os._exit(1)
        if act == "bug":
            raise KeyError("a bug")
        if act in ("slow", "spoilt"):
            time.sleep(1.0)
        if act in ("unreadable", "spoilt") or (act == "flaky" and self._tries(row) == 1):
            return Outcome(row.slide_id, failure=failure(row.slide_id, transient=act == "flaky"))
        if act == "unfetched" or (act == "outage" and time.time() - self._began() < 1.5):
            return Outcome(
                row.slide_id, failure=failure(row.slide_id, transient=True, error="SourceUnreachable")
            )
        if act == "gone" or (act == "away" and time.time() - self._began() < 1.5):
            out = failure(row.slide_id, transient=True, error="SourceOut", root="/share")
            return Outcome(row.slide_id, failure=out)
        if act == "hangs":
            time.sleep(3600)
        if act == "walks":  # longer than a stall, but it moves
            for step in range(40):
                self._state = WorkerStatus(row.slide_id, "detect", step / 40)
                time.sleep(0.15)
        if act == "swells":
            self._state = WorkerStatus(row.slide_id, "crops", 0.1, resident_bytes=2 * 10**9)
            time.sleep(3600)
        if act == "offline" or (act == "offline_once" and self._tries(row) == 1):
            raise StoreUnreachable("s3://bucket/run does not answer; check the network")
        return Outcome(
            row.slide_id,
            summary=run_fixtures.a_summary(row.slide_id, "0" * 16, objects=7, well=UNASSIGNED_WELL),
        )

    def state(self) -> WorkerStatus | None:
        return self._state

    def close(self) -> None:
        with self._log.open("a") as log:
            log.write(f"closed {os.getpid()} -\n")

    def _began(self) -> float:
        """When the first slide of all was begun."""
        with contextlib.suppress(FileExistsError), self._log.with_suffix(".began").open("x") as began:
            began.write(str(time.time()))
        return self._log.with_suffix(".began").stat().st_mtime

    def _tries(self, row: CatalogRow) -> int:
        return sum(line.startswith(row.slide_id + " ") for line in self._log.read_text().splitlines())


class WorkerWithoutWeights(ScriptedWorker):
    def prepare(self) -> str:
        raise WeightsError("weights.pt is not there; check detector.weights")


class Silent:
    """A display that keeps what it was told, and asks the driver to stop after so many commits."""

    def __init__(self, stop: threading.Event | None, stop_after: int | None) -> None:
        self.said: list[str] = []
        self._stop, self._stop_after = stop, stop_after

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, tally: Tally, states: object) -> None:
        if self._stop is not None and self._stop_after is not None and tally.committed >= self._stop_after:
            self._stop.set()

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    # Workers cannot import modules of tests by name.
    carried = (sys.modules[__name__], run_fixtures)
    for module in carried:
        cloudpickle.register_pickle_by_value(module)
    with ray_cluster("local"):
        yield
    for module in carried:
        cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(describe_run(RunConfig(), {}))
    return store


def test_every_slide_is_settled_once(store: RunStore, tmp_path: Path) -> None:
    tally, _ = drive(store, tmp_path, [f"fine-{n}" for n in range(40)])
    assert (tally.committed, tally.failed, tally.finished) == (40, 0, 40)
    assert tally.objects == 40 * 7
    assert len(tried(tmp_path)) == 40


def test_a_slide_that_kills_its_workers_is_quarantined_and_its_neighbours_are_not(
    store: RunStore, tmp_path: Path
) -> None:
    names = [f"fine-{n}" for n in range(12)]
    names[3:3] = ["kills-a"]
    names[8:8] = ["kills-b"]
    tally, display = drive(store, tmp_path, names)
    assert (tally.committed, tally.failed) == (12, 2)
    assert tried(tmp_path).count("kills-a") == tried(tmp_path).count("kills-b") == WORKERS.max_deaths
    assert {f.slide_id for f in store.failures() if f.quarantined and f.error == "WorkerDied"} == {
        "kills-a",
        "kills-b",
    }
    assert any("quarantined" in line for line in display.said)


def test_a_slide_whose_worker_died_once_is_tried_again(store: RunStore, tmp_path: Path) -> None:
    tally, _ = drive(store, tmp_path, ["kills_once-a", "fine-1", "fine-2"])
    assert (tally.committed, tally.failed, tally.retried) == (3, 0, 1)


def test_deaths_of_an_earlier_driver_count(store: RunStore, tmp_path: Path) -> None:
    DriverJournal(store).lost(
        "kills-a", error="WorkerDied", reason="SIGKILL", stage="detect", quarantined=False
    )
    deadline = time.monotonic() + 10
    while not store.failures() and time.monotonic() < deadline:
        time.sleep(0.05)
    tally, _ = drive(store, tmp_path, ["kills-a"])
    assert tally.failed == 1
    assert tried(tmp_path) == ["kills-a"]


def test_a_slide_that_lost_a_worker_before_comes_last(store: RunStore, tmp_path: Path) -> None:
    ledger = DriverJournal(store)
    ledger.lost("fine-0", error="WorkerDied", reason="SIGKILL", stage="detect", quarantined=False)
    ledger.close(Tally(total=1))
    drive(store, tmp_path, [f"fine-{n}" for n in range(8)])
    assert "fine-0" in tried(tmp_path)[-2:]


def test_only_transient_failures_are_tried_again(store: RunStore, tmp_path: Path) -> None:
    tally, display = drive(store, tmp_path, ["unreadable-a", "flaky-b", "fine-c"])
    assert (tally.committed, tally.failed, tally.retried) == (2, 1, 1)
    assert tried(tmp_path).count("unreadable-a") == 1
    assert tried(tmp_path).count("flaky-b") == 2
    assert display.said == ["unreadable-a: no such pixels"]


def test_an_exception_of_any_class_is_its_slides_failure_and_the_job_goes_on(
    store: RunStore, tmp_path: Path
) -> None:
    tally, display = drive(store, tmp_path, ["bug-a", *(f"fine-{n}" for n in range(6))])
    assert (tally.committed, tally.failed) == (6, 1)
    assert tried(tmp_path).count("bug-a") == WORKERS.max_tries
    (last,) = (one for one in store.failures() if one.quarantined)
    assert (last.slide_id, last.error, last.transient) == ("bug-a", "KeyError", False)
    assert "a bug" in last.message
    assert 'raise KeyError("a bug")' in (last.traceback or "")
    assert display.said == ["bug-a: 'a bug'"]


def test_slides_that_fail_alike_are_told_as_one_and_end_the_job_past_the_configured_share(
    store: RunStore, tmp_path: Path
) -> None:
    names = [f"bug-{n:02d}" for n in range(9)]
    tally, display = drive(store, tmp_path, [*names, "fine-a"])
    assert (tally.committed, tally.failed) == (1, 9)
    assert sum("fail alike" in line for line in display.said) == 1
    assert "9 of 10 slides failed alike: KeyError at" in display.said[-1]
    forgiven = RunStore.open(str(tmp_path / "again"))
    forgiven.create_or_check(describe_run(RunConfig(), {}))
    with pytest.raises(
        SlidesFailAlike, match=r"4 of \d slides failed alike: KeyError .*workers\.alike_share = 0\.3"
    ):
        drive(
            forgiven,
            tmp_path,
            [*names, "fine-a"],
            workers=WORKERS.model_copy(update={"alike_slides": 4, "alike_share": 0.3}),
        )
    assert not [one for one in forgiven.failures() if one.quarantined], "the next start begins again"


def test_weights_that_do_not_load_stop_the_job_with_their_own_error(store: RunStore, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"check detector\.weights"):
        drive(store, tmp_path, ["fine-a"], worker=WorkerWithoutWeights)


def test_asked_to_stop_it_ends_what_is_in_flight_and_starts_nothing_more(
    store: RunStore, tmp_path: Path
) -> None:
    stop = threading.Event()
    tally, _ = drive(store, tmp_path, [f"slow-{n:02d}" for n in range(60)], stop=stop, stop_after=2)
    assert 0 < tally.committed < 60
    assert tally.committed == len(tried(tmp_path))


@pytest.mark.slow
def test_a_slide_that_hangs_is_stopped_and_one_that_only_takes_long_is_not(
    store: RunStore, tmp_path: Path
) -> None:
    tally, _ = drive(store, tmp_path, ["hangs-a", "walks-b", "fine-c"])
    assert (tally.committed, tally.failed) == (2, 1)
    last = store.failures()[-1]
    assert (last.slide_id, last.error, last.stage, last.quarantined) == ("hangs-a", "Stalled", "detect", True)
    assert "workers.stall_minutes" in last.message
    assert tried(tmp_path).count("walks-b") == 1


def test_a_worker_that_holds_too_much_memory_is_stopped(store: RunStore, tmp_path: Path) -> None:
    tally, _ = drive(store, tmp_path, ["swells-a", "fine-b"])
    assert (tally.committed, tally.failed) == (1, 1)
    assert {failure.error for failure in store.failures()} == {"MemoryExceeded"}
    assert "2.0 GB in stage crops" in store.failures()[0].message


def test_lost_machines_weigh_less_than_deaths(store: RunStore, tmp_path: Path) -> None:
    ledger = DriverJournal(store)
    for _ in range(3):
        ledger.lost("fine-a", error="NodeDied", reason="preempted", stage="detect", quarantined=False)
    ledger.close(Tally(total=1))
    assert ledger.blame() == {"fine-a": pytest.approx(1.0)}
    assert drive(store, tmp_path, ["fine-a"])[0].committed == 1
    assert LOSS_WEIGHTS["NodeDied"] * WORKERS.max_deaths < 1


def test_a_store_that_is_away_for_a_moment_costs_no_slide(store: RunStore, tmp_path: Path) -> None:
    tally, display = drive(store, tmp_path, ["offline_once-a", "fine-b"])
    assert (tally.committed, tally.failed, tally.retried) == (2, 0, 1)
    assert any("does not answer" in line for line in display.said)


def test_a_store_that_stays_away_ends_the_job_with_its_own_error(store: RunStore, tmp_path: Path) -> None:
    with pytest.raises(StoreUnreachable, match="does not answer"):
        drive(store, tmp_path, ["offline-a"])


def test_an_outage_of_the_slides_own_store_costs_no_slide(store: RunStore, tmp_path: Path) -> None:
    tally, display = drive(store, tmp_path, [f"outage-{n}" for n in range(6)])
    assert (tally.committed, tally.failed) == (6, 0)
    assert sum("trying again" in line for line in display.said) == 1


def test_a_folder_that_goes_away_is_waited_for_while_others_go_on(store: RunStore, tmp_path: Path) -> None:
    names = [f"away-{n}" for n in range(8)]
    rows = [CatalogRow(name, f"/share/{name}.mrxs") for name in names]
    rows += [CatalogRow(f"fine-{n}", f"/disk/fine-{n}.mrxs") for n in range(8)]
    tally, display = drive_rows(store, tmp_path, rows)
    assert (tally.committed, tally.failed) == (16, 0)
    assert [line for line in display.said if "store.patience_minutes" in line] == display.said[:1]
    assert display.said[-1] == "/share can be read again"
    attempts = tried(tmp_path)
    before_the_end = attempts[
        : max(number for number, name in enumerate(attempts) if name.startswith("fine")) + 1
    ]
    assert {f"fine-{n}" for n in range(8)} <= set(before_the_end)
    assert len(attempts) < 16 + 12, "one scout at a time, not all of them"


def test_a_folder_that_stays_away_ends_the_job_and_no_slide_of_it_has_failed(
    store: RunStore, tmp_path: Path
) -> None:
    rows = [CatalogRow(f"gone-{n}", f"/share/gone-{n}.mrxs") for n in range(5)]
    rows += [CatalogRow(f"fine-{n}", f"/disk/fine-{n}.mrxs") for n in range(3)]
    with pytest.raises(
        SourcesOut, match=r"3 of 8 slides are committed, 5 wait and none of these counts"
    ) as caught:
        drive_rows(store, tmp_path, rows)
    assert caught.value.exit_code == 5
    assert not [one for one in store.failures() if one.quarantined]
    (beat,) = store.heartbeats()
    assert beat.ended


def test_a_straggler_that_fails_is_copied_once_and_ends(store: RunStore, tmp_path: Path) -> None:
    """Two workers that fail in turn, each while the other one still tries, would never end."""
    tally, _ = drive(store, tmp_path, ["spoilt-a", *(f"fine-{n}" for n in range(6))])
    assert (tally.committed, tally.failed) == (6, 1)
    assert tried(tmp_path).count("spoilt-a") <= 2


def test_one_slide_that_its_store_will_not_give_fails_alone(store: RunStore, tmp_path: Path) -> None:
    tally, _ = drive(store, tmp_path, ["unfetched-a", *(f"fine-{n}" for n in range(6))])
    assert (tally.committed, tally.failed) == (6, 1)
    assert tried(tmp_path).count("unfetched-a") == WORKERS.max_tries


def test_workers_give_back_what_they_hold_before_they_go(store: RunStore, tmp_path: Path) -> None:
    drive(store, tmp_path, ["fine-a", "fine-b", "fine-c"])
    lines = (tmp_path / "tries.log").read_text().splitlines()
    workers = {line.split()[1] for line in lines if not line.startswith("closed")}
    assert workers <= {line.split()[1] for line in lines if line.startswith("closed")}


def test_each_worker_is_told_the_next_slide_that_must_be_fetched(store: RunStore, tmp_path: Path) -> None:
    names = [f"fine-{n:02d}" for n in range(12)]
    tally, _ = drive(store, tmp_path, [*names, "kills-x"], folder="s3://bucket/")
    assert (tally.committed, tally.failed) == (12, 1)
    lines = (tmp_path / "tries.log").read_text().splitlines()
    promised = [line.split() for line in lines if not line.startswith("closed")]
    kept = sum(
        after[0] == told
        for seat in {line[1] for line in promised}
        for mine in [[line for line in promised if line[1] == seat]]
        for (_, _, told), after in itertools.pairwise(mine)
        if told != "-"
    )
    assert kept > 0
    assert sum(line[2] != "-" for line in promised) > 4
    assert len([line for line in promised if line[0].startswith("fine")]) == 12


def test_the_driver_leaves_summaries_and_a_heartbeat(store: RunStore, tmp_path: Path) -> None:
    drive(store, tmp_path, ["fine-a", "fine-b"])
    beat = store.heartbeats()[0]
    assert (beat.total, beat.committed, beat.in_flight) == (2, 2, ())
    assert store.files.find("slides")


def test_what_this_machine_does_not_have_ends_a_private_job_at_once(store: RunStore, tmp_path: Path) -> None:
    greedy = WORKERS.model_copy(update={"resources": {"unobtainium": 1.0}})
    with pytest.raises(WorkerError, match=r"asks for 0\.4 CPU, 1 unobtainium, and this machine has \d+ CPU"):
        drive(store, tmp_path, ["fine-a"], workers=greedy)
    assert not (tmp_path / "tries.log").exists()


def test_workers_fit_the_cluster_unless_their_number_is_given() -> None:
    assert workers_that_fit(WorkersConfig(count=7)) == 7
    assert workers_that_fit(WorkersConfig(cpus_per_worker=1000)) == 1
    assert 1 <= workers_that_fit(WorkersConfig()) <= (os.cpu_count() or 1)


def drive(
    store: RunStore,
    tmp_path: Path,
    names: list[str],
    *,
    worker: type[ScriptedWorker] = ScriptedWorker,
    stop: threading.Event | None = None,
    stop_after: int | None = None,
    folder: str = "/",
    workers: WorkersConfig = WORKERS,
) -> tuple[Tally, Silent]:
    rows = [CatalogRow(name, f"{folder}{name}.mrxs") for name in names]
    return drive_rows(store, tmp_path, rows, worker=worker, stop=stop, stop_after=stop_after, workers=workers)


def drive_rows(
    store: RunStore,
    tmp_path: Path,
    rows: list[CatalogRow],
    *,
    worker: type[ScriptedWorker] = ScriptedWorker,
    stop: threading.Event | None = None,
    stop_after: int | None = None,
    workers: WorkersConfig = WORKERS,
) -> tuple[Tally, Silent]:
    display = Silent(stop, stop_after)
    tally = run_items(
        rows,
        functools.partial(worker, tmp_path / "tries.log"),
        config=CONFIG.model_copy(update={"workers": workers}),
        ledger=DriverJournal(store),
        tally=Tally(total=len(rows)),
        display=display,
        stop=stop,
    )
    return tally, display


def tried(tmp_path: Path) -> list[str]:
    lines = (tmp_path / "tries.log").read_text().splitlines()
    return [line.split()[0] for line in lines if not line.startswith("closed")]


def failure(
    slide_id: str, *, transient: bool, error: str = "UnreadableRegion", root: str | None = None
) -> Failure:
    return Failure(
        slide_id,
        "0" * 16,
        "detect",
        error,
        "no such pixels",
        transient,
        not transient,
        "h",
        utc_now(),
        root=root,
    )
