"""gc deletes what nobody will commit any more, and nothing else, whatever happened before."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.rendered_text import text_of
from support.run_fixtures import a_failure, a_run, a_summary, commit, some_objects, write_arrays
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)

from fossilray.core.errors import AgeTooRecent, RunNotFound
from fossilray.core.heartbeat import Heartbeat
from fossilray.core.records import Attempt, CatalogRow
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import DerivedRecord, DerivedStore
from fossilray.store.maintenance.garbage import GarbageReport, collect_garbage, render_garbage
from fossilray.store.maintenance.verify import verify_run
from fossilray.store.run.layout import arrays_path, attempt_path, pending_path

DEADLINE_MINUTES = 60.0
AGE = timedelta(hours=3)
SLIDES = ["A17", "A18", "B1"]
SOME_ANSWERS = DerivedRecord(
    kind="embeddings", run_digest="ab" * 32, backbone={"name": "net", "sha256": "cd" * 32, "dimension": 4}
)


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    return start(str(tmp_path / "run"))


def start(url: str, config=None) -> RunStore:
    store = RunStore.open(url, config)
    store.create_or_check(a_run())
    store.freeze_catalog([CatalogRow(slide_id=name, path=f"{name}.mrxs", well="6407/6-5") for name in SLIDES])
    return store


def collect(store: RunStore, **options) -> GarbageReport:
    return collect_garbage(store, older_than=AGE, deadline_minutes=DEADLINE_MINUTES, **options)


def attempt_of_age(store: RunStore, slide_id: str, hours: float, *, deadline_hours: float = 1.0) -> Attempt:
    """An attempt that began that long ago."""
    began = datetime.now(UTC) - timedelta(hours=hours)
    attempt = replace(
        store.attempts.start(slide_id, deadline_s=60),
        started_at=began.isoformat(),
        deadline_at=(began + timedelta(hours=deadline_hours)).isoformat(),
    )
    store.files.write(attempt_path(attempt), json.dumps(attempt.__dict__).encode())
    return attempt


def let_age(store: RunStore, path: str, hours: float) -> None:
    """Files below a path, on a disk, as if they had been written that long ago."""
    for entry in store.files.entries(path):
        then = datetime.now(UTC).timestamp() - hours * 3600
        os.utime(f"{store.root}/{entry.path}", (then, then))


def orphan(store: RunStore, slide_id: str, *, hours: float, deadline_hours: float = 1.0) -> str:
    """Arrays of an attempt that crashed after that long ago; their path."""
    attempt = attempt_of_age(store, slide_id, hours, deadline_hours=deadline_hours)
    path = write_arrays(store, slide_id, attempt.attempt).path
    let_age(store, path, hours)
    return path


# What goes and what stays


def test_old_orphans_go_and_young_ones_stay(run: RunStore) -> None:
    old, young = orphan(run, "A17", hours=4), orphan(run, "A17", hours=2)
    report = collect(run)
    assert [group.path for group in report.orphans] == [old]
    assert report.young == 1
    assert report.bytes > 0
    assert groups(run) == {young}


def test_one_young_file_keeps_its_whole_group(run: RunStore) -> None:
    path = orphan(run, "A17", hours=9)
    let_age(run, f"{path}/crops", 2)
    assert collect(run).orphans == ()


def test_what_a_commit_names_stays_however_old(run: RunStore) -> None:
    commit(run, "A17", arrays=True)
    orphan(run, "A17", hours=9)
    let_age(run, "arrays", 9000)
    attempts = run.files.find("attempts")
    assert len(collect(run).orphans) == 1
    assert collect(run).orphans == ()
    assert verify_run(run, deep=False).slides == 1
    assert not [one for one in verify_run(run).findings if one.kind == "missing"]
    assert run.files.find("attempts") == attempts


def test_a_slide_that_was_committed_in_two_wells_keeps_the_arrays_of_both(run: RunStore) -> None:
    commit(run, "A17", arrays=True)
    commit(run, "A17", arrays=True, well="34/10-A")
    assert len(groups(run)) == 2
    let_age(run, "arrays", 9)
    assert collect(run).orphans == ()


def test_arrays_of_a_commit_that_cannot_be_read_all_stay(run: RunStore) -> None:
    commit(run, "A17", arrays=True)
    orphan(run, "A17", hours=9)
    let_age(run, "arrays", 9)
    run.files.write(run.committed_files()["A17"], b"torn")
    report = collect(run)
    assert (report.orphans, report.unclear) == ((), 2)


def test_an_attempt_within_its_own_deadline_is_never_touched(run: RunStore) -> None:
    orphan(run, "A17", hours=9, deadline_hours=20)
    report = collect(run)
    assert (report.orphans, report.in_use) == ((), 1)


def test_a_commit_that_lands_between_listing_and_deleting_keeps_its_arrays(
    run: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = run.attempts.start("A17", deadline_s=60)
    files = write_arrays(run, "A17", attempt.attempt)
    let_age(run, "arrays", 9)
    run.files.delete(attempt_path(attempt))  # else its deadline would protect it
    listed = run.read_catalog

    def commit_late() -> list[CatalogRow]:
        run.commit_slide(
            some_objects("A17", files.path, 3), a_summary("A17", attempt.attempt, objects=3), files
        )
        return listed()

    monkeypatch.setattr(run, "read_catalog", commit_late)
    assert collect(run).orphans == ()
    assert groups(run) == {files.path}


def test_a_dry_run_deletes_nothing_and_says_what_it_would(run: RunStore) -> None:
    path = orphan(run, "A17", hours=9)
    run.files.write(".tmp/left", b"")
    let_age(run, ".tmp", 9)
    report = collect(run, dry_run=True)
    assert [group.path for group in report.orphans] == [path]
    assert groups(run) == {path}
    assert run.files.find(".tmp") == [".tmp/left"]
    assert "would delete 1 arrays" in text_of(render_garbage(report))


def test_unfinished_writes_and_probes_go(run: RunStore) -> None:
    for path in (".tmp/00000000000000aa", ".probe/00000000000000aa"):
        run.files.write(path, b"")
        let_age(run, path.partition("/")[0], 9)
    run.files.write(".probe/00000000000000bb", b"")
    assert collect(run).writes == 2
    assert [path for path in run.files.find("") if path.startswith(".")] == [".probe/00000000000000bb"]


def test_nothing_else_in_the_run_is_touched(run: RunStore) -> None:
    commit(run, "A17", arrays=True)
    run.write_picture("A17", b"jpeg")
    run.attempts.record_failure(a_failure("A18", "0123456789abcdef"))
    run.files.write("arrays/notes.txt", b"mine")
    run.rebuild_summaries()
    let_age(run, "", 9000)
    before = run.files.find("")
    collect(run)
    assert run.files.find("") == before


def test_an_empty_run_is_swept_in_peace_and_no_run_is_refused(run: RunStore, tmp_path: Path) -> None:
    assert collect(run).orphans == ()
    with pytest.raises(RunNotFound):
        collect(RunStore.open(str(tmp_path / "nothing")))


# Pending files


def test_pending_files_of_a_driver_long_gone_go_and_their_arrays_the_next_time(run: RunStore) -> None:
    path = orphan(run, "A17", hours=9)
    pending = pending_path("A17", Path(path).stem)
    run.files.write(pending, b"waits")
    let_age(run, "pending", 9)
    first = collect(run)
    assert ([entry.path for entry in first.pending], first.orphans, first.in_use) == ([pending], (), 1)
    assert [group.path for group in collect(run).orphans] == [path]


@pytest.mark.parametrize(("ended", "hours", "kept"), [(False, 2, 1), (True, 2, 0), (False, 5, 0)])
def test_pending_files_wait_for_a_driver_that_may_live(
    run: RunStore, ended: bool, hours: float, kept: int
) -> None:
    run.files.write(pending_path("A17", "0123456789abcdef"), b"waits")
    let_age(run, "pending", 9)
    beat_at = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
    run.attempts.write_heartbeat(
        Heartbeat("driver-1", beat_at, beat_at, 3, 0, 0, 0, 1.0, 1, in_flight=("A17",), ended=ended)
    )
    collect(run)
    assert len(run.files.find("pending")) == kept


# Ages


def test_an_age_under_twice_the_deadline_is_refused_in_one_sentence(run: RunStore) -> None:
    orphan(run, "A17", hours=9000)
    with pytest.raises(AgeTooRecent, match=r"1\.5 h is under twice .*at least 2 h old") as caught:
        collect_garbage(run, older_than=timedelta(minutes=90), deadline_minutes=60)
    assert "\n" not in str(caught.value)
    assert len(groups(run)) == 1
    collect_garbage(run, older_than=timedelta(minutes=120), deadline_minutes=60)
    assert groups(run) == set()


def test_ages_count_by_the_clock_of_the_store(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = orphan(run, "A17", hours=2)
    ahead = datetime.now(UTC) + timedelta(hours=2)
    monkeypatch.setattr(run.files, "clock", lambda: ahead)
    assert [group.path for group in collect(run).orphans] == [path]


def test_orphans_and_uploads_in_s3_go(s3_run, s3_endpoint: str) -> None:  # noqa: F811
    url, config = s3_run
    store = start(url, config)
    commit(store, "A17", arrays=True)
    loser, crashed = attempt_of_age(store, "A17", 1), attempt_of_age(store, "A18", 1)
    for attempt in (loser, crashed):
        write_arrays(store, attempt.slide_id, attempt.attempt)
    bucket, _, key = url.removeprefix("s3://").partition("/")
    s3 = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    s3.create_multipart_upload(Bucket=bucket, Key=f"{key}/arrays/A18/left")
    first = collect(store)  # moto says of every upload that it began in 2010
    assert (first.orphans, first.writes, first.young) == ((), 1, 2)
    report = collect(store, now=store.files.clock() + timedelta(hours=5))
    assert {group.attempt for group in report.orphans} == {loser.attempt, crashed.attempt}
    assert groups(store) == {store.footer("A17").arrays.path}  # type: ignore[union-attr]


# Any order of events


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, str, float, float]]:
    """Attempts in some order: slide, how it ended, hours ago, hours until its deadline."""
    one = st.tuples(
        st.sampled_from(SLIDES),
        st.sampled_from(
            ["commits", "fails", "crashes early", "crashes before the commit", "submits", "works"]
        ),
        st.sampled_from([0.0, 1.0, 2.5, 3.5, 8.0, 900.0]),
        st.sampled_from([1.0, 1.0, 20.0]),
    )
    return draw(st.lists(one, max_size=7))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories())
def test_after_any_history_old_orphans_are_gone_and_all_else_is_whole(
    history: list[tuple[str, str, float, float]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = start(f"{folder}/run")
        expected_to_go, expected_to_stay = play(store, history)
        report = collect(store)
        assert {group.path for group in report.orphans} == expected_to_go
        assert groups(store) == expected_to_stay
        store.rebuild_summaries()
        # What is submitted here is no objects file, which verify says.
        assert {finding.kind for finding in verify_run(store).findings} <= {"pending"}
        assert collect(store).in_use <= report.in_use


def play(store: RunStore, history: list[tuple[str, str, float, float]]) -> tuple[set[str], set[str]]:
    """Let it happen; the arrays that gc must delete, and those that it must keep."""
    go: set[str] = set()
    stay: set[str] = set()
    committed: set[str] = set()
    for slide_id, end, hours, deadline_hours in history:
        attempt = attempt_of_age(store, slide_id, hours, deadline_hours=deadline_hours)
        path = arrays_path(slide_id, attempt.attempt)
        if end == "crashes early":
            store.files.write(f"{path}/crops/c/0/0/0/0", b"half")
        else:
            files = write_arrays(store, slide_id, attempt.attempt)
        if end == "commits":
            table, summary = (
                some_objects(slide_id, path, 3),
                a_summary(slide_id, attempt.attempt, objects=3),
            )
            assert store.commit_slide(table, summary, files) is (slide_id not in committed)
            if slide_id in committed:
                continue  # defeated, and has swept up after itself
            committed.add(slide_id)
        elif end == "fails":
            store.attempts.record_failure(a_failure(slide_id, attempt.attempt))
        elif end == "submits":
            store.files.write(pending_path(slide_id, attempt.attempt), b"waits")
        let_age(store, path, hours)
        is_old = timedelta(hours=hours) > AGE
        is_over = hours > deadline_hours or end == "fails"
        if end in ("commits", "submits") or not is_old or not is_over:
            stay.add(path)
        else:
            go.add(path)
    return go, stay


# Helpers


def groups(store: RunStore) -> set[str]:
    """All arrays in the run, whole or half."""
    return {"/".join(path.split("/")[:3]) for path in store.files.find("arrays") if path.count("/") > 2}


# Links


def test_arrays_that_are_a_link_to_another_run_are_named_and_left_alone(
    run: RunStore, tmp_path: Path
) -> None:
    other = start(str(tmp_path / "other"))
    commit(other, "A17", arrays=True)
    old = orphan(run, "A18", hours=9)
    let_age(other, "arrays", 9)
    (Path(run.root) / "arrays" / "A17").symlink_to(Path(other.root) / "arrays" / "A17")
    before = set(Path(other.root).rglob("*"))
    assert collect(run, dry_run=True).links == ("arrays/A17",)
    report = collect(run)
    assert report.links == ("arrays/A17",)
    assert "arrays/A17" in text_of(render_garbage(report))
    assert [group.path for group in report.orphans] == [old]
    assert set(Path(other.root).rglob("*")) == before
    assert (Path(run.root) / "arrays" / "A17").is_symlink()


@pytest.mark.parametrize("hours", [0.0, 9.0])
@pytest.mark.parametrize(
    "place",
    [
        *(
            "arrays",
            "objects",
            "attempts",
            "pending",
            "predictions",
            "embeddings",
            ".tmp",
            ".probe",
            "withdrawn",
        ),
        *("arrays/A17/0123456789abcdef.zarr", "arrays/B1/0123456789abcdef.zarr/crops", "pending/B1"),
        *("arrays/A18/0123456789abcdef.zarr/crops/zarr.json", "pending/A17/0123456789abcdef.parquet"),
        *(
            "predictions/head",
            "predictions/head/well=34",
            "predictions/head/well=34/A17.parquet",
            ".tmp/01234567",
        ),
    ],
)
def test_whatever_is_a_link_in_a_run_gc_deletes_nothing_behind_it(
    run: RunStore, tmp_path: Path, place: str, hours: float
) -> None:
    treasure = tmp_path / "treasure"
    for name in ("a", "0123456789abcdef", "A17.parquet", "A17/0123456789abcdef.parquet"):
        (treasure / name).parent.mkdir(parents=True, exist_ok=True)
        (treasure / name).write_bytes(b"kept")
    write_arrays(RunStore.open(str(treasure)), "A17", "0123456789abcdef")
    then = datetime.now(UTC).timestamp() - hours * 3600
    for path in treasure.rglob("*"):
        os.utime(path, (then, then))
    before = {path: path.stat().st_size for path in treasure.rglob("*")}
    link = Path(run.root) / place
    link.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(link, ignore_errors=True)
    link.symlink_to(treasure / "arrays" if place == "arrays" else treasure)
    report = collect(run)
    assert place in report.links
    assert not report.orphans
    assert not report.pending
    assert {path: path.stat().st_size for path in treasure.rglob("*")} == before
    assert link.is_symlink()


def test_files_of_persons_among_half_written_ones_stay(run: RunStore) -> None:
    for folder in (".tmp", ".probe"):
        run.files.write(f"{folder}/notes.txt", b"mine")
        run.files.write(f"{folder}/0123456789abcdef", b"half")
        let_age(run, folder, 9)
    assert collect(run).writes == 2
    assert run.files.find(".tmp") == [".tmp/notes.txt"]
    assert run.files.find(".probe") == [".probe/notes.txt"]


@pytest.mark.parametrize(
    "place",
    [
        *(
            "arrays/A17/backup.zarr/zarr.json",
            "arrays/A17/ORPHAN.zarr/notes.txt",
            "arrays/A17/ORPHAN.zarr/crops/mine.jpg",
        ),
        *(
            "arrays/A17/notes.txt",
            "arrays/notes.txt",
            "pending/A17/mine.parquet",
            "slides/old/part-000000.parquet",
        ),
        *(
            "objects/notes.txt",
            "withdrawn/mine.parquet",
            "embeddings/head/well=34/mine.parquet",
            "mine/.tmp/x",
        ),
    ],
)
def test_whatever_a_person_keeps_in_a_run_stays(run: RunStore, place: str) -> None:
    old = orphan(run, "A17", hours=9)
    place = place.replace("ORPHAN.zarr", old.rpartition("/")[2])
    if place.startswith("embeddings"):
        DerivedStore.create(run, "embeddings", "head", SOME_ANSWERS)
    run.files.write(place, b"mine")
    let_age(run, place.partition("/")[0], 9)
    report = collect(run)
    assert run.files.read(place) == b"mine"
    assert (old in report.foreign) == place.startswith(old)
    run.rebuild_summaries()
    assert run.files.read(place) == b"mine"
