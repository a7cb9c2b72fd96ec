"""Damage of every kind, planted in a small run and found by name; a sound run is sound."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from rich.console import Console
from run_fixtures import commit
from small_run import COUNTS, CROP_PX, start_run, write_small_run

from fossilray.config import CropsConfig
from fossilray.errors import RunMismatch, RunNotFound, StoreError, StoreUnreachable, UsageError
from fossilray.records import ArrayFiles
from fossilray.store import RunStore
from fossilray.store.arrays import SHARD_ROWS, ArrayWriter
from fossilray.store.objects_file import Footer, decode_objects, encode_objects
from fossilray.store.shards import pack_shard
from fossilray.verify import UNREAD_IN_A_ROW, VerifyReport, render_verified, verify_run
from fossilray.withdraw import withdraw_slides

SLIDE = "a-2030"
OTHER = "b-2050"


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
    assert report.failed_slides == 2
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
    assert (report.slides, report.objects, report.failed_slides) == (2, 5, 2)


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


def test_progress_is_told_slide_by_slide(run: RunStore) -> None:
    told: list[tuple[int, int]] = []
    verify_run(run, display=lambda done, total: told.append((done, total)))
    assert told == [(done, len(COUNTS)) for done in range(1, len(COUNTS) + 1)]


# The objects file


def truncate_objects(store: RunStore) -> None:
    path = objects(store, SLIDE)
    store.files.write(path, store.files.read(path)[:-5])


def empty_objects(store: RunStore) -> None:
    store.files.write(objects(store, SLIDE), b"")


def flip_a_page(store: RunStore) -> None:
    flip(store, objects(store, SLIDE), 40)


def forge_digest(store: RunStore) -> None:
    forge(store, SLIDE, run_digest="0" * 64)


def forge_count(store: RunStore) -> None:
    forge(store, SLIDE, footer={"objects": 39})


def forge_well(store: RunStore) -> None:
    forge(store, SLIDE, footer={"well": "another"})


def rename_slide(store: RunStore) -> None:
    store.files.write(objects(store, "e-broken", like=SLIDE), store.files.read(objects(store, SLIDE)))


def commit_twice(store: RunStore) -> None:
    content = store.files.read(objects(store, SLIDE))
    store.files.write(f"objects/well=zzz/{SLIDE}.parquet", content)


def commit_a_stranger(store: RunStore) -> None:
    commit(RunStore(store.files), "stranger", arrays=True)


def lay_a_stray_file(store: RunStore) -> None:
    store.files.write("objects/notes.txt", b"do not touch")


def lose_a_commit(store: RunStore) -> None:
    store.files.delete(objects(store, SLIDE))


def swap_boxes(store: RunStore) -> None:
    forge(store, SLIDE, columns={"x_min": "x_max", "x_max": "x_min"})


def shuffle_rows(store: RunStore) -> None:
    forge(store, SLIDE, take=[1, 0, *range(2, 40)])


def lose_measures(store: RunStore) -> None:
    forge(store, SLIDE, footer={"crops_failed": 3})


def leave_the_slide(store: RunStore) -> None:
    forge(store, SLIDE, footer={"width": 5000})


def misname_arrays(store: RunStore) -> None:
    forge(store, SLIDE, arrays=f"arrays/{OTHER}/0123456789abcdef.zarr")


# Arrays


def delete_a_shard(store: RunStore) -> None:
    store.files.delete(shard(store, SLIDE))


def delete_all_arrays(store: RunStore) -> None:
    store.files.delete(group(store, SLIDE))


def truncate_a_shard(store: RunStore) -> None:
    store.files.write(shard(store, SLIDE), store.files.read(shard(store, SLIDE))[:-9])


def flip_a_crop(store: RunStore) -> None:
    flip(store, shard(store, SLIDE), 100)


def flip_an_index(store: RunStore) -> None:
    flip(store, shard(store, SLIDE), -40)


def flip_embeddings(store: RunStore) -> None:
    flip(store, f"{group(store, SLIDE)}/embeddings/c/0/0", 30)


def flip_metadata(store: RunStore) -> None:
    path = f"{group(store, SLIDE)}/crops/zarr.json"
    store.files.write(path, store.files.read(path).replace(b"40", b"41"))


def lay_an_extra_file(store: RunStore) -> None:
    store.files.write(f"{group(store, SLIDE)}/crops/c/7/0/0/0", b"who am I")


def swap_arrays(store: RunStore) -> None:
    root, mine, others = Path(store.root), group(store, SLIDE), group(store, OTHER)
    (root / mine).rename(root / "aside")
    (root / others).rename(root / mine)
    (root / "aside").rename(root / others)


def leave_out_a_crop(store: RunStore) -> None:
    """A shard that was written without its last crop: every checksum holds."""
    jpeg = encoded_crop()
    rewrite(store, SLIDE, "crops/c/0/0/0/0", pack_shard([jpeg] * 39, slots=SHARD_ROWS))


def write_crops_of_another_size(store: RunStore) -> None:
    jpeg = encoded_crop(side=CROP_PX * 2)
    rewrite(store, SLIDE, "crops/c/0/0/0/0", pack_shard([jpeg] * 40, slots=SHARD_ROWS))


def write_infinite_embeddings(store: RunStore) -> None:
    rewrite_crops(store, SLIDE, embedding=np.inf)


def declare_fewer_crops(store: RunStore) -> None:
    path = "crops/zarr.json"
    rewrite(store, SLIDE, path, store.files.read(f"{group(store, SLIDE)}/{path}").replace(b"40", b"39"))


SHALLOW: list[tuple[Callable[[RunStore], None], set[tuple[str, str]], str]] = [
    (truncate_objects, {(SLIDE, "footer")}, f"{SLIDE}.parquet"),
    (empty_objects, {(SLIDE, "footer")}, f"{SLIDE}.parquet"),
    (forge_digest, {(SLIDE, "other run")}, "other settings"),
    (forge_count, {(SLIDE, "rows"), (SLIDE, "shape")}, "holds 40 rows"),
    (forge_well, {(SLIDE, "misplaced")}, "of the well another"),
    (rename_slide, {("e-broken", "misplaced"), ("e-broken", "missing")}, f"is the slide {SLIDE}"),
    (commit_twice, {(SLIDE, "twice")}, "well=zzz"),
    (commit_a_stranger, {("stranger", "unknown")}, "catalog"),
    (lay_a_stray_file, {("", "stray")}, "objects/notes.txt"),
    (lose_a_commit, {(SLIDE, "lost")}, "start the same command again"),
    (misname_arrays, {(SLIDE, "misplaced"), (SLIDE, "missing")}, f"arrays/{OTHER}/"),
    (delete_a_shard, {(SLIDE, "missing")}, "crops/c/0/0/0/0"),
    (delete_all_arrays, {(SLIDE, "missing")}, "crops/zarr.json"),
    (truncate_a_shard, {(SLIDE, "size")}, "crops/c/0/0/0/0"),
    (flip_metadata, {(SLIDE, "checksum")}, "crops/zarr.json"),
    (lay_an_extra_file, {(SLIDE, "extra")}, "crops/c/7/0/0/0"),
    (swap_arrays, {(SLIDE, "size"), (OTHER, "size"), (SLIDE, "checksum"), (OTHER, "checksum")}, "crops"),
    (declare_fewer_crops, {(SLIDE, "shape")}, "declares 39 crops for 40 objects"),
]

DEEP: list[tuple[Callable[[RunStore], None], set[tuple[str, str]], str]] = [
    (flip_a_page, {(SLIDE, "objects")}, f"{SLIDE}.parquet"),
    (swap_boxes, {(SLIDE, "objects")}, "a box without area in 40 rows"),
    (shuffle_rows, {(SLIDE, "objects")}, "an object_id that is not its place in 2 rows"),
    (lose_measures, {(SLIDE, "objects")}, "where 3 crops failed"),
    (leave_the_slide, {(SLIDE, "objects")}, "a box outside the slide"),
    (flip_an_index, {(SLIDE, "checksum"), (SLIDE, "crops")}, "crops/c/0/0/0/0"),
    (flip_embeddings, {(SLIDE, "checksum"), (SLIDE, "embeddings")}, "embeddings/c/0/0"),
    (leave_out_a_crop, {(SLIDE, "crops")}, "1 crops that cannot be decoded, the first of object 39"),
    (write_crops_of_another_size, {(SLIDE, "crops")}, "40 crops that cannot be decoded"),
    (write_infinite_embeddings, {(SLIDE, "embeddings")}, "40 embeddings that are not finite"),
]


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
    assert kinds(verify_run(run)) == {(SLIDE, "lost"), (OTHER, "lost"), ("", "stray")}
    remake(run, SLIDE)
    remake(run, OTHER)
    run.files.delete("objects/notes.txt")
    assert verify_run(run, deep=True).findings == ()
    assert withdraw_slides(run, verify_run(run).findings) == ()


def test_a_slide_committed_twice_is_not_withdrawn(run: RunStore) -> None:
    commit_twice(run)
    delete_a_shard(run)
    assert withdraw_slides(run, verify_run(run).findings) == ()


def test_a_run_whose_arrays_are_not_mounted_is_not_withdrawn(
    run: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fossilray.withdraw.ALWAYS_ALLOWED", 1)
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
    monkeypatch.setattr("fossilray.verify.UNREAD_IN_A_ROW", 1)
    with pytest.raises(StoreError, match="in a row cannot be read"):
        verify_run(run, deep=True)


def test_a_store_that_does_not_answer_is_no_damage(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_path: str, _size: int) -> bytes:
        raise StoreUnreachable("no answer; try again")

    monkeypatch.setattr(run.files, "read_tail", silent)
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
    crashed = run.begin_attempt("e-broken", deadline_s=-1)
    half(run, "e-broken", crashed.attempt)
    at_work = run.begin_attempt("f-poison", deadline_s=600)
    half(run, "f-poison", at_work.attempt)
    half(run, SLIDE, "straggler00")
    half(run, OTHER, "submitted00")
    run.files.write(f"pending/{OTHER}/submitted00.parquet", b"")
    report = verify_run(run)
    assert report.sound
    assert [(one.slide_id, one.attempt) for one in report.orphans] == [
        (SLIDE, "straggler00"),
        ("e-broken", crashed.attempt),
    ]
    assert {one.attempt for one in report.half_attempts} == {crashed.attempt, at_work.attempt}
    assert (report.pending, report.failed_slides) == (1, 2)
    run.forgive(run.failures())
    assert verify_run(run).failed_slides == 0


# What people see


def test_the_verdict_comes_first(run: RunStore) -> None:
    assert shown(verify_run(run)).startswith("sound: sizes")
    assert shown(verify_run(run, deep=True)).startswith("sound: every row")
    delete_a_shard(run)
    text = shown(verify_run(run))
    assert text.startswith("damaged: 1 findings, 1 slides")
    assert SLIDE in text


def test_hostile_names_move_no_cursor_and_style_nothing(run: RunStore) -> None:
    (Path(run.root) / "objects" / "[bold]\x1b[2J.txt").write_text("")
    text = shown(verify_run(run))
    assert "\x1b" not in text
    assert "[bold]" in text


def test_fifty_findings_are_listed_and_the_rest_is_counted(run: RunStore) -> None:
    for number in range(60):
        run.files.write(f"objects/stray-{number:02}", b"")
    text = shown(verify_run(run))
    assert "stray-49" in text
    assert "stray-50" not in text
    assert "… and 10 more" in text


# Helpers


def kinds(report: VerifyReport) -> set[tuple[str, str]]:
    return {(finding.slide_id, finding.kind) for finding in report.findings}


def damage(report: VerifyReport) -> list:
    return [finding for finding in report.findings if finding.kind != "summaries"]


def shown(report: VerifyReport) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render_verified(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


def tree(store: RunStore) -> dict[str, int]:
    return {entry.path: entry.bytes for entry in store.files.entries("")}


def objects(store: RunStore, slide_id: str, *, like: str | None = None) -> str:
    path = store.committed_files()[like or slide_id]
    return path if like is None else path.replace(like, slide_id)


def group(store: RunStore, slide_id: str) -> str:
    footer = store.footer(slide_id)
    assert footer is not None
    return footer.arrays.path


def shard(store: RunStore, slide_id: str, number: int = 0) -> str:
    return f"{group(store, slide_id)}/crops/c/{number}/0/0/0"


def flip(store: RunStore, path: str, place: int) -> None:
    content = bytearray(store.files.read(path))
    content[place] ^= 4
    store.files.write(path, bytes(content))


def half(store: RunStore, slide_id: str, attempt: str) -> None:
    """Arrays of an attempt that was cut off."""
    store.files.write(f"arrays/{slide_id}/{attempt}.zarr/crops/c/0/0/0/0", b"half")


def encoded_crop(side: int = CROP_PX) -> bytes:
    from fossilray.store.codec import encode_crop

    return encode_crop(np.full((side, side, 3), 99, np.uint8), quality=90)


def forge(
    store: RunStore,
    slide_id: str,
    *,
    footer: dict[str, object] | None = None,
    run_digest: str | None = None,
    arrays: str | None = None,
    columns: dict[str, str] | None = None,
    take: list[int] | None = None,
) -> None:
    """Write a slide's objects file anew with something in it that is not so."""
    path = objects(store, slide_id)
    content = store.files.read(path)
    old = store.footer(slide_id)
    assert old is not None
    table = decode_objects(content, name=path).replace_schema_metadata(None)
    for name, source in (columns or {}).items():
        column = decode_objects(content, name=path)[source]
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    if take is not None:
        table = table.take(pa.array(take))
    summary = replace(old.summary, **(footer or {}))  # type: ignore[arg-type]
    files = replace(old.arrays, path=arrays or old.arrays.path)
    new = Footer(summary, files, old.schema_version, run_digest or old.run_digest)
    store.files.write(path, _encode(table, new))
    store.rebuild_summaries()


def _encode(table: pa.Table, footer: Footer) -> bytes:
    """As the store does, without its refusal to write what contradicts itself."""
    from dataclasses import asdict

    sink = io.BytesIO()
    stated = {b"fossilray": json.dumps(asdict(footer)).encode()}
    pq.write_table(table.replace_schema_metadata(stated), sink)
    return sink.getvalue()


def rewrite(store: RunStore, slide_id: str, name: str, content: bytes) -> None:
    """Replace one array file and its size and checksum in the footer, as a faulty writer would have."""
    path = objects(store, slide_id)
    old = store.footer(slide_id)
    assert old is not None
    store.files.write(f"{old.arrays.path}/{name}", content)
    files = ArrayFiles(
        old.arrays.path,
        {**old.arrays.bytes, name: len(content)},
        {**old.arrays.sha256, name: hashlib.sha256(content).hexdigest()},
    )
    table = decode_objects(store.files.read(path), name=path).replace_schema_metadata(None)
    store.files.write(path, encode_objects(table, old.summary, files, run_digest=old.run_digest))


def rewrite_crops(
    store: RunStore, slide_id: str, *, encoding: str = "jpeg", embedding: float | None = None
) -> None:
    """Write a slide's arrays anew, under the same attempt."""
    old = store.footer(slide_id)
    assert old is not None
    count = old.summary.objects
    crops = CropsConfig(size_px=CROP_PX, encoding=encoding)  # type: ignore[arg-type]
    writer = ArrayWriter(
        store, slide_id, old.attempt, count=count, crops=crops, dimension=None if embedding is None else 12
    )
    vectors = None if embedding is None else np.full((count, 12), embedding, np.float16)
    writer.write(0, np.full((count, CROP_PX, CROP_PX, 3), 77, np.uint8), vectors)
    files = writer.finish()
    for name in files.bytes:
        rewrite(store, slide_id, name, store.files.read(f"{files.path}/{name}"))


def remake(store: RunStore, slide_id: str) -> None:
    """Process the slide again, as the next job would."""
    from small_run import WELL, commit_slide

    commit_slide(store, slide_id, count=COUNTS[slide_id], well=WELL, depth_m=2030.0, seed=0)
    store.rebuild_summaries()
