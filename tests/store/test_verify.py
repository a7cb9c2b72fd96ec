"""Damage of every kind, planted in a small run and found by name; a sound run is sound."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.corruption import (
    DEEP,
    OTHER,
    SHALLOW,
    SLIDE,
    commit_twice,
    delete_a_shard,
    flip,
    flip_a_crop,
    group,
    half,
    objects,
    remake,
    rewrite_crops,
    shard,
    truncate_objects,
)
from support.rendered_text import text_of
from support.run_fixtures import commit
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.small_run import COUNTS, start_run, write_small_run

from fossilray.core.config import StoreConfig
from fossilray.core.errors import RunMismatch, RunNotFound, StoreError, StoreUnreachable, UsageError
from fossilray.core.records import CatalogRow
from fossilray.store import RunStore
from fossilray.store.arrays.sharding import SHARD_ROWS
from fossilray.store.dataset.compact import compact_run
from fossilray.store.derived.derived_store import DerivedRecord, DerivedStore
from fossilray.store.maintenance.retry import withdraw_slides
from fossilray.store.maintenance.verify import UNREAD_IN_A_ROW, VerifyReport, render_verified, verify_run
from fossilray.store.run.objects_file import decode_objects
from fossilray.store.run.summaries import gathered_summaries


@pytest.fixture(scope="module")
def sound_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "run"
    write_small_run(folder).rebuild_summaries()
    return folder


@pytest.fixture
def run(sound_run: Path, tmp_path: Path) -> RunStore:
    """A sound run of the test's own, to damage."""
    shutil.copytree(sound_run, tmp_path / "run")
    return RunStore.open(str(tmp_path / "run"))


# Sound runs


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_run_is_sound(run: RunStore, deep: bool) -> None:
    before = tree(run)
    report = verify_run(run, deep=deep)
    assert report.findings == ()
    assert report.sound
    assert (report.slides, report.objects) == (len(COUNTS), sum(COUNTS.values()))
    assert report.arrays_bytes == sum(entry.bytes for entry in run.files.entries("arrays"))
    assert (report.counts.failed, report.counts.quarantined) == (1, 1)
    assert report.orphans == ()
    assert report.rebuilt is None
    assert tree(run) == before


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_run_in_s3_is_sound(s3_run, deep: bool) -> None:  # noqa: F811
    url, config = s3_run
    store = write_small_run(url, config=config, counts={SLIDE: 5, "d-empty": 0})
    store.rebuild_summaries()
    report = verify_run(store, deep=deep)
    assert report.findings == ()
    assert (report.slides, report.objects, report.counts.failed + report.counts.quarantined) == (2, 5, 2)


def test_damage_in_s3_is_found(s3_run) -> None:  # noqa: F811
    url, config = s3_run
    store = write_small_run(url, config=config, counts={SLIDE: 5, OTHER: 5})
    store.files.delete(shard(store, SLIDE))
    assert kinds(verify_run(store)) == {(SLIDE, "missing"), ("", "summaries")}


def test_lossless_crops_and_runs_without_embeddings_are_sound(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run", embeddings=False, counts={SLIDE: 5})
    assert verify_run(store, deep=True).sound
    rewrite_crops(store, SLIDE, encoding="lossless")
    assert verify_run(store, deep=True).sound


def test_several_shards_are_all_decoded(tmp_path: Path) -> None:
    count = SHARD_ROWS + 3
    store = write_small_run(tmp_path / "run", counts={SLIDE: count})
    report = verify_run(store, deep=True)
    assert report.sound
    assert report.objects == count
    flip(store, shard(store, SLIDE, 1), 100)
    (finding,) = damage(verify_run(store, deep=True))
    assert (finding.kind, finding.path) == ("checksum", shard(store, SLIDE, 1))


def test_a_run_without_commits_is_sound(tmp_path: Path) -> None:
    report = verify_run(start_run(tmp_path / "run"), deep=True)
    assert report.sound
    assert (report.slides, report.objects, report.arrays_bytes) == (0, 0, 0)


def test_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound):
        verify_run(RunStore.open(str(tmp_path)))


def test_a_compacted_dataset_is_refused_by_its_name(run: RunStore) -> None:
    run.files.write("dataset.json", b"{}")
    with pytest.raises(UsageError, match="is a compacted dataset"):
        verify_run(run)


def test_a_run_of_another_version_is_refused_before_every_slide_looks_damaged(run: RunStore) -> None:
    stated = json.loads(run.files.read("run.json"))
    run.files.write("run.json", json.dumps({**stated, "schema_version": 1}).encode())
    with pytest.raises(RunMismatch, match="schema version 1"):
        verify_run(RunStore(run.files))


def test_a_run_that_is_being_written_is_sound_at_every_moment(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    names = [f"s{number}" for number in range(24)]
    store.freeze_catalog([CatalogRow(slide_id=name, path=name) for name in names])
    with ThreadPoolExecutor(2) as workers:
        # Two workers at each slide, of whom one comes second and sweeps up after itself.
        commits = [workers.submit(commit, store, name, arrays=True) for name in names for _ in range(2)]
        while True:
            over = all(one.done() for one in commits)
            report = verify_run(store)
            assert report.sound
            assert report.orphans == ()
            if over:
                break
    assert report.slides == sum(one.result() for one in commits) == len(names)


def test_progress_is_told_slide_by_slide(run: RunStore) -> None:
    told: list[tuple[int, int]] = []
    verify_run(run, display=lambda done, total: told.append((done, total)))
    assert told == [(done, len(COUNTS)) for done in range(1, len(COUNTS) + 1)]


# Damage


@pytest.mark.parametrize(("plant", "expected", "says"), SHALLOW, ids=lambda it: getattr(it, "__name__", ""))
@pytest.mark.parametrize("deep", [False, True])
def test_damage_is_found_and_named(
    run: RunStore, plant: Callable[[RunStore], None], expected: set[tuple[str, str]], says: str, deep: bool
) -> None:
    plant(run)
    report = verify_run(run, deep=deep)
    assert not report.sound
    assert expected <= kinds(report)
    assert {slide_id for slide_id, _ in kinds(report)} - {""} == {slide_id for slide_id, _ in expected} - {""}
    assert any(says in finding.message for finding in report.findings)
    assert all("; " in finding.message and "\n" not in finding.message for finding in report.findings)


@pytest.mark.parametrize(("plant", "expected", "says"), DEEP, ids=lambda it: getattr(it, "__name__", ""))
def test_damage_inside_files_is_found_by_a_deep_look_alone(
    run: RunStore, plant: Callable[[RunStore], None], expected: set[tuple[str, str]], says: str
) -> None:
    plant(run)
    assert verify_run(run).sound
    report = verify_run(run, deep=True)
    assert {(one.slide_id, one.kind) for one in damage(report)} == expected
    assert any(says in finding.message for finding in report.findings)


def test_one_flipped_bit_in_a_crop_fails_the_checksum(run: RunStore) -> None:
    flip_a_crop(run)
    assert (SLIDE, "checksum") in kinds(verify_run(run, deep=True))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_found_or_changes_nothing_that_is_read(
    sound_run: Path, data: st.DataObject
) -> None:
    store = RunStore.open(str(sound_run))
    path = objects(store, SLIDE)
    names = [path, *(entry.path for entry in store.files.entries(group(store, SLIDE)))]
    name = data.draw(st.sampled_from(names))
    good = store.files.read(name)
    before = store.footer(SLIDE), decode_objects(store.files.read(path), name=path)
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    damaged = bytearray(good)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        (Path(store.root) / name).write_bytes(damaged)
        if not verify_run(store, deep=True).findings:
            assert (store.footer(SLIDE), decode_objects(store.files.read(path), name=path)) == before
    finally:
        (Path(store.root) / name).write_bytes(good)


def test_a_slide_is_whole_again_after_the_remedy(run: RunStore) -> None:
    delete_a_shard(run)
    (finding,) = damage(verify_run(run))
    assert f"move {objects(run, SLIDE)} out of objects/" in finding.message
    run.files.delete(objects(run, SLIDE))
    run.files.delete(f"attempts/{SLIDE}")  # its deadline is long over
    remake(run, SLIDE)
    report = verify_run(run, deep=True)
    assert report.sound
    assert [group.slide_id for group in report.orphans] == [SLIDE]


def test_damaged_slides_are_withdrawn_on_request_and_made_anew_by_the_next_start(run: RunStore) -> None:
    delete_a_shard(run)
    path = objects(run, OTHER)
    run.files.write(path, b"torn")
    run.files.write("objects/notes.txt", b"not ours to move")
    assert withdraw_slides(run, verify_run(run).findings) == (SLIDE, OTHER)
    assert run.committed() == COUNTS.keys() - {SLIDE, OTHER}
    assert sorted(one.rpartition("-")[0] for one in run.files.find("withdrawn")) == [
        f"withdrawn/{SLIDE}",
        f"withdrawn/{OTHER}",
    ]
    assert kinds(verify_run(run)) == {("", "stray")}, "their summaries went with them"
    remake(run, SLIDE)
    remake(run, OTHER)
    run.files.delete("objects/notes.txt")
    assert verify_run(run, deep=True).findings == ()
    assert withdraw_slides(run, verify_run(run).findings) == ()


def test_a_withdrawn_slide_leaves_no_summary_and_the_rest_can_be_compacted(
    run: RunStore, tmp_path: Path
) -> None:
    run.rebuild_summaries()
    kept = [row for row in run.summaries() if row.slide_id != SLIDE]
    delete_a_shard(run)
    assert withdraw_slides(run, verify_run(run).findings) == (SLIDE,)
    again = RunStore.open(run.url)
    assert again.summaries() == kept
    assert not again.lost
    assert again.left_out.messages == ()
    assert verify_run(again).sound
    assert len(again.files.find("slides")) == 1
    report = compact_run(again, str(tmp_path / "dataset"), access=StoreConfig())
    assert report.slides == len(kept)


def test_of_a_slide_that_was_processed_twice_the_last_summary_is_kept(run: RunStore) -> None:
    run.rebuild_summaries()
    old = next(row for row in run.summaries() if row.slide_id == OTHER)
    new = replace(old, attempt="f" * 16)
    run.append_summaries([new])
    run.drop_summaries([SLIDE])
    table = gathered_summaries(run.files)
    rows = {row["slide_id"]: row["attempt"] for row in table.to_pylist()}
    assert rows[OTHER] == "f" * 16
    assert SLIDE not in rows
    assert len(rows) == table.num_rows
    files = run.files.find("slides")
    run.drop_summaries([SLIDE])
    assert run.files.find("slides") == files, "nothing is written where nothing is dropped"


def test_answers_about_a_withdrawn_slide_go_with_it(run: RunStore) -> None:
    record = DerivedRecord("embeddings", run.read_run().digest, {"name": "net", "sha256": "", "dimension": 2})
    answers = DerivedStore.create(run, "embeddings", "net", record)
    for slide_id in (SLIDE, OTHER):
        answers.commit(slide_id, None, record.schema.empty_table(), source_attempt="a1")
    delete_a_shard(run)
    assert withdraw_slides(run, verify_run(run).findings) == (SLIDE,)
    assert answers.committed() == {OTHER}


def test_a_slide_committed_twice_is_not_withdrawn(run: RunStore) -> None:
    commit_twice(run)
    delete_a_shard(run)
    assert withdraw_slides(run, verify_run(run).findings) == ()


def test_a_run_whose_arrays_are_not_mounted_is_not_withdrawn(
    run: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fossilray.store.maintenance.retry.ALWAYS_ALLOWED", 1)
    run.files.delete("arrays")
    with pytest.raises(StoreError, match=r"4 of 4 slides .* not mounted"):
        withdraw_slides(run, verify_run(run).findings)
    assert run.committed() == COUNTS.keys()


def test_a_slide_that_the_disk_refuses_is_named_and_a_store_that_refuses_all_stops(
    run: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = run.files.read
    broken = shard(run, SLIDE)

    def refuse(path: str) -> bytes:
        if path == broken:
            raise StoreError("cannot read the run: Input/output error; check the disk")
        return read(path)

    monkeypatch.setattr(run.files, "read", refuse)
    assert kinds(verify_run(run, deep=True)) == {(SLIDE, "unread")}
    assert len(COUNTS) < UNREAD_IN_A_ROW
    monkeypatch.setattr("fossilray.store.maintenance.verify.UNREAD_IN_A_ROW", 1)
    with pytest.raises(StoreError, match="in a row cannot be read"):
        verify_run(run, deep=True)


def test_a_store_that_does_not_answer_is_no_damage(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_path: str, _size: int) -> bytes:
        raise StoreUnreachable("no answer; try again")

    monkeypatch.setattr(run.files, "read_tail", unreachable)
    with pytest.raises(StoreUnreachable):
        verify_run(run)


# What is no damage


def test_summaries_out_of_date_are_told_and_written_anew_when_asked(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run")
    row = store.summaries()[0]
    store.append_summaries([replace(row, tiles_read=7)])
    report = verify_run(store)
    assert report.sound
    assert kinds(report) == {("", "summaries")}
    assert "lacks 3 committed slides and differs from the footers of 1" in report.findings[0].message
    again = verify_run(store, rebuild=True)
    assert (again.rebuilt, again.findings) == (len(COUNTS), ())
    assert store.summaries()[0] == row
    assert verify_run(store).findings == ()


def test_a_damaged_part_of_slides_is_no_damage_and_can_be_written_anew(run: RunStore) -> None:
    run.files.write("slides/part-000009.parquet", b"not a table")
    assert kinds(verify_run(run)) == {("", "summaries")}
    assert verify_run(run, rebuild=True).rebuilt == len(COUNTS)
    assert verify_run(run).findings == ()


def test_summaries_are_not_written_anew_while_a_footer_cannot_be_read(run: RunStore) -> None:
    truncate_objects(run)
    before = run.files.find("slides")
    assert verify_run(run, rebuild=True).rebuilt is None
    assert run.files.find("slides") == before


def test_orphans_half_attempts_pending_files_and_failures_are_listed_apart(run: RunStore) -> None:
    crashed = run.attempts.start("e-broken", deadline_s=-1)
    half(run, "e-broken", crashed.attempt)
    at_work = run.attempts.start("f-poison", deadline_s=600)
    half(run, "f-poison", at_work.attempt)
    half(run, SLIDE, "straggler00")
    half(run, OTHER, "5ab1177ed0000000")
    run.files.write(f"pending/{OTHER}/5ab1177ed0000000.parquet", b"")
    report = verify_run(run)
    assert {finding.kind for finding in report.findings} == {"pending"}
    assert [(one.slide_id, one.attempt) for one in report.orphans] == [
        (SLIDE, "straggler00"),
        ("e-broken", crashed.attempt),
    ]
    assert {one.attempt for one in report.half_attempts} == {crashed.attempt, at_work.attempt}
    assert (report.pending, report.counts.failed, report.counts.quarantined) == (1, 1, 1)
    run.attempts.clear_failures(run.attempts.failures())
    assert verify_run(run).counts.describe_rest() == ["2 waiting"]


# What people see


def test_the_verdict_comes_first(run: RunStore) -> None:
    assert text_of(render_verified(verify_run(run))).startswith("sound: sizes")
    assert text_of(render_verified(verify_run(run, deep=True))).startswith("sound: every row")
    delete_a_shard(run)
    text = text_of(render_verified(verify_run(run)))
    assert text.startswith("damaged: 1 finding, 1 slide concerned")
    assert SLIDE in text


def test_hostile_names_move_no_cursor_and_style_nothing(run: RunStore) -> None:
    (Path(run.root) / "objects" / "[bold]\x1b[2J.txt").write_text("")
    text = text_of(render_verified(verify_run(run)))
    assert "\x1b" not in text
    assert "[bold]" in text


def test_fifty_findings_are_listed_and_the_rest_is_counted(run: RunStore) -> None:
    for number in range(60):
        run.files.write(f"objects/stray-{number:02}", b"")
    text = text_of(render_verified(verify_run(run)))
    assert "stray-49" in text
    assert "stray-50" not in text
    assert "… and 10 more" in text


# Helpers


def kinds(report: VerifyReport) -> set[tuple[str, str]]:
    return {(finding.slide_id, finding.kind) for finding in report.findings}


def damage(report: VerifyReport) -> list:
    return [finding for finding in report.findings if finding.kind != "summaries"]


def tree(store: RunStore) -> dict[str, int]:
    return {entry.path: entry.bytes for entry in store.files.entries("")}
