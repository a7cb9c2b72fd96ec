"""Attempts, submitted slides and housekeeping of a run directory, on a disk and in S3."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.run_fixtures import a_failure, a_run, a_summary, commit, some_objects, write_arrays
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)

from fossilray.core.config import StoreConfig
from fossilray.core.errors import AttemptExpired, CatalogError, StoreError
from fossilray.core.heartbeat import Heartbeat
from fossilray.core.records import Attempt
from fossilray.store import RunStore
from fossilray.store.files.local import LocalFiles
from fossilray.store.run.layout import attempt_path, pending_path

OLD, NEW = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture(params=["disk", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, StoreConfig]:
    """Where a run can be, and how it is reached."""
    if request.param == "disk":
        return str(tmp_path / "a run"), StoreConfig()
    return request.getfixturevalue("s3_run")


@pytest.fixture
def store(location: tuple[str, StoreConfig]) -> RunStore:
    opened = RunStore.open(*location)
    opened.create_or_check(a_run())
    return opened


@pytest.fixture
def alone(location: tuple[str, StoreConfig]) -> RunStore:
    """A run in which the driver alone commits."""
    url, config = location
    opened = RunStore.open(url, config.model_copy(update={"single_writer": True}))
    opened.create_or_check(a_run())
    return opened


# Forgiven failures


def fail(store: RunStore, slide_id: str, *, at: str = "2030-01-01T00:00:00+00:00") -> str:
    attempt = store.attempts.start(slide_id, deadline_s=60).attempt
    store.attempts.record_failure(a_failure(slide_id, attempt, at=at))
    return attempt


def test_forgiven_failures_count_no_longer_and_stay_on_record(store):
    for slide_id in ("A17", "B1"):
        fail(store, slide_id)
        fail(store, slide_id, at="2031-01-01T00:00:00+00:00")
    store.attempts.clear_failures(
        [failure for failure in store.attempts.failures() if failure.slide_id == "A17"]
    )
    assert [failure.slide_id for failure in store.attempts.failures()] == ["B1", "B1"]
    assert [failure.slide_id for failure in store.attempts.failures(include_cleared=True)] == [
        "A17",
        "A17",
        "B1",
        "B1",
    ]
    assert store.attempts.running() == []

    again = fail(store, "A17", at="2032-01-01T00:00:00+00:00")
    assert [failure.attempt for failure in store.attempts.failures() if failure.slide_id == "A17"] == [again]
    later = RunStore(store.files)
    later.attempts.clear_failures(later.attempts.failures())
    assert store.attempts.failures() == []
    assert len(store.attempts.failures(include_cleared=True)) == 5


def test_forgiving_nothing_writes_nothing(store):
    store.attempts.clear_failures([])
    assert store.files.find("attempts") == []


def test_a_forgiven_slide_of_an_unsafe_name_is_refused(store):
    with pytest.raises(CatalogError, match="not safe as a file name"):
        store.attempts.clear_failures([a_failure("../A17", "0011223344")])
    assert store.files.find("attempts") == []


# Damage


@pytest.mark.parametrize(
    "content", [b"", b'{"slide_id": "A1', b"[]", b"null", b'{"forgiven": 3}', b"\xff\xfe\x00"]
)
def test_a_torn_record_hides_no_other(store, content):
    failed = fail(store, "A17")
    waiting = store.attempts.start("B1", deadline_s=60)
    torn = attempt_path(Attempt("A17", "0011223344", "here", "", ""))
    store.files.write(torn, content)
    assert [failure.attempt for failure in store.attempts.failures()] == [failed]
    assert store.attempts.running() == [waiting]
    (named,) = store.attempts.records().damaged
    assert named.startswith(f"{store.url}/{torn} (the record of an attempt at a slide) cannot be used: ")
    assert store.left_out.messages == (named,)


@pytest.mark.parametrize("content", [b"", b'{"driver_id": "d', b"[]", b"{}"])
def test_a_torn_heartbeat_hides_no_other(store, content):
    beat = Heartbeat("driver-1", "2030-01-01", "2030-01-01T00:00:30", 5, 2, 1, 400, 12.5, 2, ("A17", "B1"))
    store.attempts.write_heartbeat(beat)
    store.files.write("drivers/driver-2.json", content)
    assert store.attempts.heartbeats() == [beat]


def test_a_damaged_part_of_slides_names_the_remedy(store):
    commit(store, "A17")
    store.append_summaries(store.summaries())
    store.files.write("slides/part-000000.parquet", b"PAR1 torn PAR1")
    assert [row.slide_id for row in store.summaries()] == ["A17"]
    assert re.search(r"part-000000.parquet .*verify RUN --rebuild", *store.left_out.messages)
    assert store.rebuild_summaries() == 1
    assert [row.slide_id for row in store.summaries()] == ["A17"]


# One writer


def submit(store: RunStore, slide_id: str, *, deadline_s: float = 60) -> str:
    attempt = store.attempts.start(slide_id, deadline_s=deadline_s)
    files = write_arrays(store, slide_id, attempt.attempt)
    table, summary = some_objects(slide_id, files.path, 3), a_summary(slide_id, attempt.attempt, objects=3)
    store.submit_slide(table, summary, files, attempt=attempt)
    return attempt.attempt


def test_a_submitted_slide_is_seen_once_its_driver_commits_it(alone):
    attempt = submit(alone, "A17")
    assert alone.single_writer
    assert alone.committed() == set()
    assert alone.files.find("objects") == []
    assert alone.commit_submitted("A17", "6407/6-5", attempt)
    footer = alone.footer("A17")
    assert footer is not None
    assert footer.attempt == attempt
    assert alone.files.find("pending") == []
    assert alone.commit_submitted("A17", "6407/6-5", attempt)


def test_of_two_submitted_attempts_the_second_is_swept(alone):
    first, second = submit(alone, "A17"), submit(alone, "A17")
    assert alone.commit_submitted("A17", "6407/6-5", first)
    assert not alone.commit_submitted("A17", "6407/6-5", second)
    assert not alone.commit_submitted("A17", "6407/6-5", second)
    assert alone.files.find("pending") == []
    assert {path.split("/")[2] for path in alone.files.find("arrays")} == {f"{first}.zarr"}


def test_a_driver_that_died_between_commit_and_answer_finds_its_own_commit(alone):
    attempt = submit(alone, "A17")
    content = alone.files.read(pending_path("A17", attempt))
    assert alone.commit_submitted("A17", "6407/6-5", attempt)
    alone.files.write(pending_path("A17", attempt), content)
    assert alone.commit_submitted("A17", "6407/6-5", attempt)
    assert alone.files.find("pending") == []


def test_what_was_never_submitted_or_is_another_slide_is_not_committed(alone):
    with pytest.raises(StoreError, match="is gone and A17 is not committed"):
        alone.commit_submitted("A17", "6407/6-5", "0011223344556677")
    attempt = submit(alone, "A17")
    with pytest.raises(StoreError, match="holds slide A17 of well 6407/6-5"):
        alone.commit_submitted("A17", "34/10", attempt)
    alone.files.write(pending_path("B1", attempt), alone.files.read(pending_path("A17", attempt)))
    with pytest.raises(StoreError, match="holds slide A17"):
        alone.commit_submitted("B1", "6407/6-5", attempt)
    assert alone.committed() == set()


def test_an_attempt_past_its_deadline_submits_nothing(alone):
    with pytest.raises(AttemptExpired, match=r"workers\.deadline_minutes"):
        submit(alone, "A17", deadline_s=-5)
    assert alone.files.find("pending") == []


def test_sweeping_a_submitted_attempt_leaves_nothing_of_it(alone):
    first, second = submit(alone, "A17"), submit(alone, "A17")
    alone.delete_attempt("A17", first)
    assert alone.files.find("pending") == [pending_path("A17", second)]
    assert {path.split("/")[2] for path in alone.files.find("arrays")} == {f"{second}.zarr"}


# Ages and clocks


def test_entries_tell_size_and_age_of_all_files_below(store):
    before = store.files.clock()
    store.files.write("arrays/A17/b", b"12345")
    store.files.write("arrays/A17/a/x", b"")
    after = store.files.clock()
    found = store.files.entries("arrays")
    assert [(entry.path, entry.bytes) for entry in found] == [("arrays/A17/a/x", 0), ("arrays/A17/b", 5)]
    assert all(before <= entry.modified <= after for entry in found)
    assert store.files.entries("nowhere") == []
    assert store.files.find(".probe") == []


def test_the_clock_is_in_utc_and_near_ours(store):
    now = store.files.clock()
    assert now.utcoffset() == timedelta(0)
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=5)


def test_the_clock_of_a_disk_is_the_disks(tmp_path, monkeypatch):
    store = RunStore.open(str(tmp_path))
    really = LocalFiles._begin_spare

    def begin_in_the_past(files: LocalFiles, folder: str) -> tuple[Path, int]:
        probe, number = really(files, folder)
        os.utime(probe, (1_000_000_000, 1_000_000_000))
        return probe, number

    monkeypatch.setattr(LocalFiles, "_begin_spare", begin_in_the_past)
    assert store.files.clock() == datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)


def test_half_written_files_of_a_disk_are_given_up_by_age(tmp_path):
    store = RunStore.open(str(tmp_path))
    for path in (f".tmp/{OLD}", f".tmp/{NEW}", f".probe/{OLD}", "arrays/A17/old"):
        store.files.write(path, b"1")
        if path.endswith(("old", OLD)):
            os.utime(tmp_path / path, (1_000_000_000, 1_000_000_000))
    assert store.files.abort_uploads(datetime.now(UTC) - timedelta(days=1)) == 2
    assert store.files.find("") == [f".tmp/{NEW}", "arrays/A17/old"]


def test_an_appended_part_that_another_took_is_written_beside_it(store):
    for slide_id in ("A17", "B1"):
        commit(store, slide_id)
    rows = store.summaries()
    store.append_summaries(rows[:1])
    really = store.files.find
    store.files.find = lambda folder: [] if folder == "slides" else really(folder)
    store.append_summaries([replace(rows[1])])
    store.files.find = really
    assert store.files.find("slides") == ["slides/part-000000.parquet", "slides/part-000001.parquet"]
    assert store.summaries() == rows
