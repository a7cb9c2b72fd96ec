"""Each slide of a run is in one state, whatever the clocks of hosts say, and every command counts alike."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cli_runner import run_command
from support.run_fixtures import a_run, commit
from support.small_run import COUNTS, start_run, write_small_run

from fossilray.analysis.report import write_report
from fossilray.core.heartbeat import Heartbeat
from fossilray.core.records import Attempt, CatalogRow, Failure
from fossilray.jobs.journal import DriverJournal
from fossilray.jobs.progress import Tally
from fossilray.store import RunStore
from fossilray.store.maintenance.retry import retry_failures
from fossilray.store.maintenance.verify import verify_run
from fossilray.store.query.connection import run_query
from fossilray.store.run.attempts import REJECTED_AT, AttemptRecords
from fossilray.store.run.drivers import DriverSign
from fossilray.store.run.slide_states import SlideCounts, partition_slides, read_states
from fossilray.store.status import read_status

NOW = datetime(2030, 5, 5, 12, 0, tzinfo=UTC)
"""By the store's clock."""


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Three slides, `fine` committed."""
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(a_run())
    store.freeze_catalog([CatalogRow(name, f"/{name}.mrxs") for name in ("fine", "one", "two")])
    commit(store, "fine")
    return store


def beat(*in_flight: str, age_s: float = 0.0, skew_s: float = 0.0, uptime_s: float = 3600.0) -> Heartbeat:
    """A heartbeat by the clock of a host that is `skew_s` ahead of the store's."""
    at = datetime.now(UTC) + timedelta(seconds=skew_s - age_s)
    return Heartbeat(
        driver_id="driver-1",
        started_at=(at - timedelta(seconds=uptime_s)).isoformat(),
        beat_at=at.isoformat(),
        total=3,
        committed=1,
        failed=0,
        objects=0,
        slides_per_hour=1.0,
        workers=1,
        in_flight=in_flight,
    )


def age(store: RunStore, path: str, seconds: float) -> None:
    """Let the store have received a file that long ago."""
    at = datetime.now(UTC).timestamp() - seconds
    os.utime(f"{store.root}/{path}", (at, at))


def test_a_slide_begun_after_the_last_heartbeat_is_in_progress(store: RunStore) -> None:
    store.attempts.write_heartbeat(beat("one", age_s=25))
    age(store, "drivers/driver-1.json", 25)
    store.attempts.start("one", deadline_s=60)
    store.attempts.start("two", deadline_s=60)
    assert [one.slide_id for one in read_states(store).in_progress] == ["one", "two"]


@pytest.mark.parametrize("skew_s", [-3600, -300, 0, 300, 3600])
def test_the_clock_of_the_drivers_host_does_not_matter(store: RunStore, skew_s: float) -> None:
    store.attempts.write_heartbeat(beat("one", skew_s=skew_s))
    store.attempts.start("one", deadline_s=60)
    store.attempts.start("two", deadline_s=60)
    assert len(read_states(store).in_progress) == 2
    store.attempts.write_heartbeat(beat("one", age_s=900, skew_s=skew_s))
    age(store, "drivers/driver-1.json", 900)
    states = read_states(store)
    # A clock that is ahead by just what the driver is dead cannot be told from a driver that lives.
    assert not states.in_progress
    assert not states.drivers


def test_what_a_killed_driver_left_is_waiting_when_the_next_one_lives(store: RunStore) -> None:
    left = store.attempts.start("two", deadline_s=60)
    age(store, f"attempts/two/{left.attempt}.json", 7200)
    store.attempts.write_heartbeat(beat(uptime_s=600))
    states = read_states(store)
    assert (states.in_progress, states.waiting) == ((), ("one", "two"))
    store.attempts.write_heartbeat(beat("two", uptime_s=600))
    assert [one.slide_id for one in read_states(store).in_progress] == ["two"]


def test_an_attempt_whose_end_was_never_recorded_is_not_in_progress_for_ever(store: RunStore) -> None:
    gone = store.attempts.start("two", deadline_s=60)
    age(store, f"attempts/two/{gone.attempt}.json", 300)
    store.attempts.write_heartbeat(beat("one"))
    assert read_states(store).waiting == ("one", "two")


def test_of_two_drivers_each_counts(store: RunStore) -> None:
    store.attempts.write_heartbeat(beat("one"))
    store.attempts.write_heartbeat(replace(beat("two"), driver_id="driver-2", host="other"))
    for slide_id in ("one", "two"):
        store.attempts.start(slide_id, deadline_s=60)
    states = read_states(store)
    assert (len(states.in_progress), len(states.drivers)) == (2, 2)


@pytest.mark.parametrize(("silent_s", "alive"), [(50, 1), (10, 1), (90, 0)])
def test_another_hosts_driver_without_a_sign_while_a_later_one_worked_and_ended_is_gone(
    store: RunStore, silent_s: float, alive: int
) -> None:
    store.attempts.write_heartbeat(replace(beat("one", age_s=silent_s), host="elsewhere"))
    age(store, "drivers/driver-1.json", silent_s)
    store.attempts.write_heartbeat(replace(beat(uptime_s=60), driver_id="driver-2", ended=True))
    assert len(read_states(store).drivers) == alive


def fail(store: RunStore, slide_id: str, *, transient: bool) -> Failure:
    attempt = store.attempts.start(slide_id, deadline_s=60)
    failure = Failure(
        slide_id, attempt.attempt, "open", "Why", "it is so", transient, not transient, "here",
        attempt.started_at, given_up=False,
    )  # fmt: skip
    store.attempts.record_failure(failure)
    return failure


def test_a_slide_about_to_be_retried_is_no_failure(store: RunStore) -> None:
    store.attempts.write_heartbeat(beat())
    failure = fail(store, "one", transient=True)
    states = read_states(store)
    assert (states.failed, states.waiting) == ((), ("one", "two"))
    assert [one.slide_id for one in states.to_retry] == ["one"]
    journal = DriverJournal(store.attempts, run=store)
    journal.record_failure(failure)
    journal.close(Tally(total=3))
    assert [one.slide_id for one in read_states(store).failed] == ["one"]


def test_a_file_that_became_a_slide_is_not_rejected_any_more(store: RunStore) -> None:
    rejected = Failure("two", "ab" * 8, REJECTED_AT, "NotASlide", "empty", False, True, "here", "2030-01-01")
    store.attempts.record_failure(replace(rejected, slide_id="thumbs"))
    store.attempts.record_failure(rejected)
    states = read_states(store)
    assert [one.slide_id for one in states.rejected] == ["thumbs"]
    assert [one.slide_id for one in states.failed] == ["two"], (
        "a slide of the catalog, looked at by every start"
    )
    assert states.counts == SlideCounts(3, 1, 0, 1, 1, 0, 1)
    store.attempts.clear_failures([rejected])
    assert read_states(store).counts == SlideCounts(3, 1, 0, 2, 0, 0, 1)


moments = st.integers(-4000, 100).map(lambda seconds: NOW + timedelta(seconds=seconds))
names = st.sampled_from(["a", "b", "c", "d", "e"])


@st.composite
def records(draw: st.DrawFn) -> AttemptRecords:
    failures, begun, written = [], [], {}
    for number, slide_id in enumerate(draw(st.lists(names, max_size=8))):
        attempt, at = f"{number:016d}", draw(moments)
        written[slide_id, attempt] = at
        if draw(st.booleans()):
            begun.append(Attempt(slide_id, attempt, "host", at.isoformat(), at.isoformat()))
            continue
        transient = draw(st.booleans())
        failures.append(
            Failure(
                slide_id,
                attempt,
                draw(st.sampled_from(["open", REJECTED_AT])),
                "Why",
                "it is so",
                transient,
                not transient,
                "host",
                at.isoformat(),
                given_up=draw(st.sampled_from([None, True, False])),
            )
        )
    forgiven = frozenset((one.slide_id, one.attempt) for one in failures if draw(st.booleans()))
    order = {"key": lambda one: (one.slide_id, written[one.slide_id, one.attempt])}
    return AttemptRecords(sorted(failures, **order), forgiven, sorted(begun, **order), written)


@given(
    records=records(),
    catalog=st.sets(names),
    committed=st.sets(names),
    in_flight=st.none() | st.lists(names, max_size=3),
    beat_at=moments,
)
@settings(max_examples=300, deadline=None)
def test_every_slide_is_in_one_state(
    records: AttemptRecords,
    catalog: set[str],
    committed: set[str],
    in_flight: list[str] | None,
    beat_at: datetime,
) -> None:
    signs = [] if in_flight is None else [DriverSign(replace(beat(*in_flight)), beat_at)]
    states = partition_slides(catalog, committed, records, signs)
    parts: list[set[str]] = [
        set(states.committed),
        {one.slide_id for one in states.in_progress},
        set(states.waiting),
        {one.slide_id for one in states.failed},
        {one.slide_id for one in states.quarantined},
        {one.slide_id for one in states.rejected},
    ]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(states.by_slide)
    assert catalog | committed <= set.union(*parts)
    counts = states.counts
    assert counts.total + counts.rejected == sum(asdict(counts).values()) - counts.total
    assert not {one.slide_id for one in states.rejected} & catalog
    if in_flight is None:
        assert not states.in_progress


# Every command


def finished(folder: Path) -> RunStore:
    return write_small_run(folder)


def with_a_rejected_file(folder: Path) -> RunStore:
    store = write_small_run(folder)
    for name in ("thumbs", "notes"):
        store.attempts.record_failure(
            Failure(name, "ab" * 8, REJECTED_AT, "NotASlide", "empty", False, True, "here", "2030-01-01")
        )
    return store


def in_progress(folder: Path) -> RunStore:
    """One committed, one in progress, one begun since the heartbeat, one to be tried again, one quarantined."""
    store = write_small_run(folder, counts={"a-2030": 3})
    store.attempts.write_heartbeat(replace(beat("b-2050", age_s=20), total=6))
    store.attempts.start("b-2050", deadline_s=60)
    store.attempts.start("c-2080", deadline_s=60)
    fail(store, "d-empty", transient=True)
    return store


def resumed(folder: Path) -> RunStore:
    """A second driver at a run whose first one gave one slide up; failures were cleared meanwhile."""
    store = write_small_run(folder)
    retry_failures(store, slide_ids=["f-poison"])
    store.attempts.write_heartbeat(replace(beat("f-poison"), total=6))
    store.attempts.start("f-poison", deadline_s=60)
    return store


@pytest.mark.parametrize("make", [finished, with_a_rejected_file, in_progress, resumed])
def test_every_command_counts_alike(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    store = make(tmp_path / "run")
    counts = read_states(store).counts
    expected = asdict(counts)
    assert counts.total == len(COUNTS) + 2

    status = json.loads(run_command("status", store.url, "--json"))
    assert {name: status[name] for name in expected} == expected
    assert read_status(store).counts == verify_run(store).counts == counts

    rows = run_query(store, "SELECT DISTINCT slide_id, state FROM failures").to_pylist()
    listed = [row["state"] for row in rows]
    for state in ("failed", "quarantined", "rejected"):
        assert listed.count(state) == expected[state]

    line = run_command("failures", store.url).splitlines()[-1]
    assert line.startswith(f"{counts.committed} of {counts.total} slides committed")
    write_report(store, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    shown = run_command("verify", store.url)
    for part in counts.describe_rest():
        assert part in line
        assert part in page
        assert part in shown
    assert f"of {counts.total} in the catalog" in page
    assert f"{counts.committed} of {counts.total} slides" in shown


def test_a_job_counts_as_its_run_does(tmp_path: Path) -> None:
    """The tally of a job, from which its lines, summary and metrics come, against the records it leaves."""
    store = start_run(tmp_path / "run")
    tally = Tally(
        total=6, already_committed=1, committed=1, failed=2, quarantined=1, failed_before=1, rejected=2
    )
    for slide_id in ("a-2030", "b-2050"):
        commit(store, slide_id)
    journal = DriverJournal(store.attempts, run=store)
    journal.record_failure(fail(store, "c-2080", transient=True))
    for slide_id in ("e-broken", "f-poison"):
        journal.record_failure(fail(store, slide_id, transient=False))
    for name in ("thumbs", "notes"):
        store.attempts.record_failure(
            Failure(name, "ab" * 8, REJECTED_AT, "NotASlide", "empty", False, True, "here", "2030-01-01")
        )
    journal.close(tally)
    assert tally.counts == read_states(store).counts
