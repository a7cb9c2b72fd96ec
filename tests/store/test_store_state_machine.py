"""Any order of writes, crashes, races, lost responses, sweeps and reads leaves visible slides whole, each once."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from support.run_fixtures import a_failure, a_run, a_summary, some_objects, write_arrays
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)

from fossilray.core.config import StoreConfig
from fossilray.core.errors import AttemptExpired, StoreError, StoreUnreachable
from fossilray.core.heartbeat import Heartbeat
from fossilray.core.records import ArrayFiles, Attempt, CatalogRow, SlideSummary, utc_now
from fossilray.store import RunStore
from fossilray.store.dataset.compact import compact_run
from fossilray.store.dataset.dataset_store import open_run
from fossilray.store.files.base import TEMPORARY
from fossilray.store.files.local import LocalFiles
from fossilray.store.maintenance.garbage import collect_garbage
from fossilray.store.maintenance.verify import verify_run
from fossilray.store.run.attempts import to_json
from fossilray.store.run.layout import arrays_path, attempt_path, objects_path, pending_path
from fossilray.store.run.objects_file import FOOTER_KEY

pytestmark = pytest.mark.faults

WELLS = {"A17": "6407/6-5", "A18": "6407/6-5", "B1": None}
DEADLINE = timedelta(hours=1)
COLLECTED_AT = timedelta(hours=3)
Creating = Literal["works", "its response is lost", "breaks off before", "breaks off afterwards"]
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]

SLIDES = st.sampled_from(sorted(WELLS))
HOURS = st.sampled_from([0, 0.5, 4])
OBJECTS = st.sampled_from([0, 1, 3])


@dataclass
class Try:
    """One attempt and the process that makes it; what only that process knows of it dies with it."""

    store: RunStore
    attempt: Attempt
    objects: int = 0
    files: ArrayFiles | None = None

    @property
    def slide_id(self) -> str:
        return self.attempt.slide_id

    @property
    def name(self) -> str:
        return self.attempt.attempt

    @property
    def is_late(self) -> bool:
        return datetime.now(UTC) > datetime.fromisoformat(self.attempt.deadline_at)


class StoreMachine(RuleBasedStateMachine):
    """A run directory under everything that may happen to it, and a model of what it must show."""

    written = Bundle("written")
    unconfirmed = Bundle("unconfirmed")
    submitted = Bundle("submitted")

    def __init__(self, url: str, config: StoreConfig) -> None:
        super().__init__()
        self.config = config
        self.store = self.open(url)
        self.store.create_or_check(a_run())
        self.rows = [CatalogRow(name, f"{name}.mrxs", well=well) for name, well in sorted(WELLS.items())]
        self.store.freeze_catalog(self.rows)
        self.winners: dict[str, str] = {}
        self.bytes_of: dict[str, bytes] = {}
        self.failed: set[tuple[str, str]] = set()
        self.cleared: set[tuple[str, str]] = set()
        self.tries: dict[str, Try] = {}
        self.at_work: dict[str, Try] = {}
        self.waiting: dict[str, timedelta] = {}
        self.datasets = 0

    def open(self, url: str) -> RunStore:
        """The run as a process of its own sees it."""
        return RunStore.open(url, self.config)

    # Workers

    @rule(target=written, slide_id=SLIDES, objects=OBJECTS)
    def begin_and_write(self, slide_id: str, objects: int) -> Try:
        one = self.begin(slide_id, objects)
        one.files = write_arrays(one.store, slide_id, one.name, count=objects)
        return one

    @rule(slide_id=SLIDES, marks=st.booleans())
    def die_while_writing(self, slide_id: str, marks: bool) -> None:
        one = self.begin(slide_id, 3)
        one.store.files.write(f"{arrays_path(slide_id, one.name)}/crops/c/0/0/0/0", b"half a shard")
        if isinstance(one.store.files, LocalFiles):
            one.store.files.write(f"{TEMPORARY}/{secrets.token_hex(8)}", b"half of something")
        self.leave(one)
        if marks:
            self.record_failure(slide_id, secrets.token_hex(8))

    @rule(one=consumes(written))
    def fail(self, one: Try) -> None:
        self.record_failure(one.slide_id, one.name)
        one.store.delete_attempt(one.slide_id, one.name)
        self.leave(one)
        assert not self.has_arrays(one)

    @precondition(lambda self: not self.config.single_writer)
    @rule(one=consumes(written), hours=HOURS, response_is_lost=st.booleans(), commits_twice=st.booleans())
    def commit(self, one: Try, hours: float, response_is_lost: bool, commits_twice: bool) -> None:
        if hours:
            self.time_passes(hours)
        if one.is_late:
            with pytest.raises(AttemptExpired):
                self.request_commit(one)
            self.fail(one)
            return
        expected = self.winners.setdefault(one.slide_id, one.name) == one.name
        with creating(one.store, "its response is lost" if response_is_lost else "works"):
            assert self.request_commit(one) is expected
        if commits_twice:
            assert self.request_commit(one) is expected
        self.leave(one)
        assert self.has_arrays(one) is expected

    @precondition(lambda self: not self.config.single_writer)
    @rule(target=unconfirmed, one=consumes(written), arrives=st.booleans(), deletes=st.booleans())
    def commit_without_response(self, one: Try, arrives: bool, deletes: bool) -> Try:
        if one.is_late:
            return one
        if arrives:
            self.winners.setdefault(one.slide_id, one.name)
        how: Creating = "breaks off afterwards" if arrives else "breaks off before"
        with creating(one.store, how), pytest.raises(StoreUnreachable):
            self.request_commit(one)
        if deletes:
            one.store.delete_attempt(one.slide_id, one.name)
        return one

    @rule(one=consumes(unconfirmed))
    def retry_after_lost_response(self, one: Try) -> None:
        if not one.is_late:
            expected = self.winners.setdefault(one.slide_id, one.name) == one.name
            assert self.request_commit(one) is expected
        self.leave(one)

    @precondition(lambda self: not self.config.single_writer)
    @rule(slide_id=SLIDES, racers=st.integers(2, 4))
    def race(self, slide_id: str, racers: int) -> None:
        together = [self.begin_and_write(slide_id, 1) for _ in range(racers)]
        with ThreadPoolExecutor(racers) as starting:
            won = list(starting.map(self.request_commit, together))
        assert won.count(True) == (slide_id not in self.winners)
        for one, has_won in zip(together, won, strict=True):
            if has_won:
                self.winners[slide_id] = one.name
            self.leave(one)
            assert self.has_arrays(one) is has_won

    # Workers who may only submit, and the driver that commits

    @precondition(lambda self: self.config.single_writer)
    @rule(target=submitted, one=consumes(written))
    def submit(self, one: Try) -> Try:
        if one.is_late:
            with pytest.raises(AttemptExpired):
                one.store.submit_slide(*self.outcome(one), attempt=one.attempt)
            self.fail(one)
        else:
            one.store.submit_slide(*self.outcome(one), attempt=one.attempt)
            self.waiting[one.name] = timedelta()
            self.leave(one)
        return one

    @precondition(lambda self: self.config.single_writer)
    @rule(one=submitted, dies=st.booleans())
    def commit_submitted(self, one: Try, dies: bool) -> None:
        def commit() -> bool:
            well = WELLS[one.slide_id] or "unassigned"
            return self.store.commit_submitted(one.slide_id, well, one.name)

        if one.name not in self.waiting and one.slide_id not in self.winners:
            with pytest.raises(StoreError, match="is gone"):
                commit()
            return
        if dies:
            with self.no_deletes():
                if self.winners.get(one.slide_id, one.name) == one.name and one.name in self.waiting:
                    self.winners[one.slide_id] = one.name
                    with pytest.raises(StoreUnreachable):
                        commit()
            return
        if one.name in self.waiting:
            self.winners.setdefault(one.slide_id, one.name)
        assert commit() is (self.winners[one.slide_id] == one.name)
        self.waiting.pop(one.name, None)
        assert not self.store.files.find(pending_path(one.slide_id, one.name))

    # Drivers

    @rule()
    def driver_starts(self) -> None:
        self.store = self.open(self.store.url)
        self.store.create_or_check(a_run())
        assert self.store.freeze_catalog(self.rows) == self.rows

    @precondition(lambda self: self.config.single_writer)
    @rule(number=st.integers(0, 1))
    def driver_beats(self, number: int) -> None:
        now = utc_now()
        numbers = {
            "total": 3,
            "committed": 0,
            "failed": 0,
            "objects": 0,
            "slides_per_hour": 0.0,
            "workers": 1,
        }
        beat = Heartbeat(f"driver-{number}", now, now, in_flight=(), **numbers)  # type: ignore[arg-type]
        self.store.attempts.write_heartbeat(beat)

    @rule()
    def clear_failures(self) -> None:
        self.store.attempts.clear_failures(self.store.attempts.failures())
        self.cleared |= {one for one in self.failed if one[0] not in self.winners}

    @rule(slides=st.lists(SLIDES, unique=True))
    def append_summaries(self, slides: list[str]) -> None:
        self.store.append_summaries([row for row in self.store.summaries() if row.slide_id in slides])

    @rule()
    def rebuild_summaries(self) -> None:
        assert self.store.rebuild_summaries() == len(self.winners)

    # Those who look after the run

    @rule(hours=st.sampled_from([0.5, 4]))
    def time_passes(self, hours: float) -> None:
        """As if all had happened that much earlier."""
        by = timedelta(hours=hours)
        for one in self.tries.values():
            deadline = datetime.fromisoformat(one.attempt.deadline_at) - by
            one.attempt = replace(one.attempt, deadline_at=deadline.isoformat())
            if (one.slide_id, one.name) not in self.failed:
                self.store.files.write(attempt_path(one.attempt), to_json(asdict(one.attempt)))
        for beat in self.store.attempts.heartbeats():
            then = datetime.fromisoformat(beat.beat_at) - by
            self.store.attempts.write_heartbeat(replace(beat, beat_at=then.isoformat()))
        make_older(self.store, by)
        self.waiting = {name: age + by for name, age in self.waiting.items()}

    @rule()
    def collect(self) -> None:
        before = groups(self.store)
        collect_garbage(self.store, older_than=COLLECTED_AT, deadline_minutes=DEADLINE / timedelta(minutes=1))
        gone = before - groups(self.store)
        kept = {one.name for one in self.at_work.values() if not one.is_late} | set(self.winners.values())
        assert not {name for _, name in gone} & kept
        self.forget_deleted_submissions()

    @rule()
    def verify(self) -> None:
        report = verify_run(self.store)
        assert report.sound, report.findings
        assert report.slides == len(self.winners)

    @rule()
    def check_visible(self) -> None:
        assert self.store.committed() == set(self.winners)
        assert {row.slide_id: row.attempt for row in self.store.summaries()} == self.winners
        uncommitted = {one for one in self.failed if one[0] not in self.winners}
        for cleared in (False, True):
            reported = {
                (one.slide_id, one.attempt) for one in self.store.attempts.failures(include_cleared=cleared)
            }
            assert reported == (uncommitted if cleared else uncommitted - self.cleared)

    @precondition(lambda self: self.winners and self.datasets < 1)
    @rule()
    def compact(self) -> None:
        self.datasets += 1
        to = f"{self.store.url}-dataset-{secrets.token_hex(4)}"
        compact_run(self.store, to, access=self.config)
        dataset = open_run(to, self.config)
        assert {row.slide_id: row.attempt for row in dataset.summaries()} == self.winners

    # What must hold whatever happened

    @invariant()
    def what_is_visible_is_whole_and_there_once(self) -> None:
        paths = self.store.files.find("objects")
        assert paths == sorted(objects_path(slide_id, WELLS[slide_id]) for slide_id in self.winners)
        for path in paths:
            content = self.store.files.read(path)
            assert self.bytes_of.setdefault(path, content) == content, "a committed slide has changed"
            summary, arrays = read_whole(content)
            assert summary["attempt"] == self.winners[summary["slide_id"]]
            names = self.store.files.find(arrays["path"])
            contents = dict(zip(names, map(self.store.files.read, names), strict=True))
            found = {
                name.removeprefix(f"{arrays['path']}/"): (len(content), hashlib.sha256(content).hexdigest())
                for name, content in contents.items()
            }
            assert found == {name: (size, arrays["sha256"][name]) for name, size in arrays["bytes"].items()}

    @invariant()
    def who_is_at_work_is_left_in_peace(self) -> None:
        present = groups(self.store)
        for one in self.at_work.values():
            assert one.files is None or one.is_late or (one.slide_id, one.name) in present

    def teardown(self) -> None:
        """In the end all is sound, and what nobody will commit can be swept to the last file."""
        self.check_visible()
        self.time_passes(4)
        for _ in range(2):
            collect_garbage(
                self.store, older_than=COLLECTED_AT, deadline_minutes=DEADLINE / timedelta(minutes=1)
            )
        assert groups(self.store) == set(self.winners.items())
        assert not self.store.files.find("pending")
        assert not self.store.files.find(TEMPORARY)
        report = verify_run(self.store)
        assert report.sound, report.findings
        assert (report.slides, report.orphans, report.pending) == (len(self.winners), (), 0)

    # Helpers

    def begin(self, slide_id: str, objects: int) -> Try:
        store = self.open(self.store.url)
        one = Try(store, store.attempts.start(slide_id, deadline_s=DEADLINE.total_seconds()), objects)
        self.tries[one.name] = self.at_work[one.name] = one
        return one

    def record_failure(self, slide_id: str, name: str) -> None:
        self.store.attempts.record_failure(a_failure(slide_id, name))
        self.failed.add((slide_id, name))

    def outcome(self, one: Try) -> tuple[pa.Table, SlideSummary, ArrayFiles]:
        assert one.files is not None
        table = some_objects(one.slide_id, one.files.path, one.objects)
        well = WELLS[one.slide_id] or "unassigned"
        return table, a_summary(one.slide_id, one.name, objects=one.objects, well=well), one.files

    def request_commit(self, one: Try) -> bool:
        return one.store.commit_slide(*self.outcome(one), attempt=one.attempt)

    def leave(self, one: Try) -> None:
        """Nobody is at work on it any more: it ended, or its process is gone without a word."""
        self.at_work.pop(one.name, None)

    def has_arrays(self, one: Try) -> bool:
        return bool(self.store.files.find(arrays_path(one.slide_id, one.name)))

    def forget_deleted_submissions(self) -> None:
        left = {Path(path).stem for path in self.store.files.find("pending")}
        swept = self.waiting.keys() - left
        assert all(self.waiting[name] > COLLECTED_AT for name in swept)
        self.waiting = {name: age for name, age in self.waiting.items() if name in left}

    @contextmanager
    def no_deletes(self) -> Iterator[None]:
        """The driver dies when it is about to tidy up."""

        def die(path: str) -> None:
            raise StoreUnreachable(f"the driver died before it deleted {path}")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.store.files, "delete", die)
            yield


@contextmanager
def creating(store: RunStore, how: Creating) -> Iterator[None]:
    """Commits while the store answers like that."""
    create = store.files.create

    def faulty(path: str, content: bytes) -> bool:
        if how == "breaks off before":
            raise StoreUnreachable("the request never arrived")
        created = create(path, content)
        if how == "breaks off afterwards":
            raise StoreUnreachable("no answer came")
        return created and how == "works"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.files, "create", faulty)
        yield


def read_whole(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summary and arrays as an objects file's footer states them, after all its rows were read."""
    with pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True) as file:
        stated = json.loads(file.metadata.metadata[FOOTER_KEY])
        assert file.read()["object_id"].to_pylist() == list(range(stated["summary"]["objects"]))
    return stated["summary"], stated["arrays"]


def groups(store: RunStore) -> set[tuple[str, str]]:
    """(slide_id, attempt) of all arrays."""
    paths = (path.split("/") for path in store.files.find("arrays"))
    return {(slide_id, group.removesuffix(".zarr")) for _, slide_id, group, *_ in paths}


def make_older(store: RunStore, by: timedelta) -> None:
    """All files of the run as if they had been written that much earlier."""
    if isinstance(store.files, LocalFiles):
        for entry in store.files.entries(""):
            then = (entry.modified - by).timestamp()
            os.utime(f"{store.root}/{entry.path}", (then, then))
    else:
        bucket, _, prefix = store.root.partition("/")
        for key in s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[bucket].keys.values():
            if key.name.startswith(f"{prefix}/"):
                key.last_modified -= by


def run_machine(place: str, config: StoreConfig, *, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        lambda: StoreMachine(f"{place}/{secrets.token_hex(8)}", config),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=QUIET,
            phases=[Phase.generate, Phase.shrink],
        ),
    )


single_or_not = pytest.mark.parametrize("single_writer", [False, True], ids=["any writers", "single writer"])


@single_or_not
def test_whatever_happens_on_a_disk_a_visible_slide_is_whole_and_there_once(
    tmp_path: Path, single_writer: bool
) -> None:
    run_machine(str(tmp_path), StoreConfig(single_writer=single_writer), examples=12, steps=25)


@pytest.mark.slow
@single_or_not
def test_a_long_search_on_a_disk_finds_nothing_either(tmp_path: Path, single_writer: bool) -> None:
    run_machine(str(tmp_path), StoreConfig(single_writer=single_writer), examples=150, steps=60)


@pytest.mark.slow
@single_or_not
def test_whatever_happens_in_s3_a_visible_slide_is_whole_and_there_once(s3_run, single_writer: bool) -> None:  # noqa: F811
    url, config = s3_run
    run_machine(url, config.model_copy(update={"single_writer": single_writer}), examples=12, steps=25)
