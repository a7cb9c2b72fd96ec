"""The run directory: commits, catalog, failures, summaries, on a disk and in S3."""

from __future__ import annotations

import errno
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.run_fixtures import a_failure, a_run, a_summary, commit, some_objects, write_arrays
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)

from fossilray.core.config import CropsConfig, DetectorConfig, RunConfig, StoreConfig, WorkersConfig
from fossilray.core.errors import (
    AttemptExpired,
    CatalogError,
    ConditionalCreateUnsupported,
    DamagedFile,
    RunMismatch,
    RunNotFound,
    StoreError,
)
from fossilray.core.heartbeat import Heartbeat
from fossilray.core.records import ArrayFiles, CatalogRow, ExtraValue
from fossilray.core.schemas import OBJECTS_SCHEMA, SLIDES_SCHEMA
from fossilray.store import RunStore
from fossilray.store.run import objects_file
from fossilray.store.run.layout import objects_path, well_of


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RunStore:
    """A started run, on a disk and in S3."""
    if request.param == "disk":
        opened = RunStore.open(str(tmp_path / "a run"))
    else:
        url, config = request.getfixturevalue("s3_run")
        opened = RunStore.open(url, config)
    opened.create_or_check(a_run())
    return opened


@pytest.fixture
def on_disk(tmp_path: Path) -> RunStore:
    opened = RunStore.open(str(tmp_path / "run"))
    opened.create_or_check(a_run())
    return opened


# Starting and resuming


def test_opening_touches_nothing(tmp_path):
    RunStore.open(str(tmp_path / "run"))
    RunStore.open((tmp_path / "run").as_uri())
    RunStore.open("s3://no-such-bucket/run", StoreConfig(endpoint_url="http://127.0.0.1:1"))
    assert list(tmp_path.iterdir()) == []


def test_the_same_run_resumes_and_keeps_its_record(store):
    first = store.read_run()
    store.create_or_check(replace(a_run(), created_at="2040-01-01T00:00:00+00:00"))
    again = RunStore(store.files)
    assert again.read_run() == first
    assert again.read_run().digest == a_run().digest
    assert "torch" in first.versions


def test_a_run_of_other_settings_is_refused_with_each_difference(store):
    other = RunConfig(detector=DetectorConfig(confidence=0.45), crops=CropsConfig(size_px=96))
    with pytest.raises(RunMismatch) as caught:
        store.create_or_check(a_run(other, detector="abc"))
    message = str(caught.value)
    assert "detector.confidence: recorded 0.3, now requested 0.45" in message
    assert "crops.size_px: recorded 224, now requested 96" in message
    assert 'weights.detector: recorded nothing, now requested "abc"' in message
    assert "\n" not in message


def test_the_number_of_workers_is_no_difference(store):
    store.create_or_check(a_run(RunConfig(workers=WorkersConfig(count=7))))


def test_a_place_without_a_run_says_so(tmp_path):
    with pytest.raises(RunNotFound, match=r"holds no run \(no run.json\)"):
        RunStore.open(str(tmp_path)).read_run()


def test_an_empty_run_reads_as_empty(store):
    assert store.committed() == set()
    log = store.attempts
    assert log.failures() == log.running() == log.heartbeats() == store.read_catalog() == []
    assert store.summaries() == []
    assert store.summaries_table().schema == SLIDES_SCHEMA
    assert store.picture("A17") is None


def test_a_run_that_cannot_be_written_says_why_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write to .*Not a directory; .*another run directory"):
        RunStore.open(str(tmp_path / "file" / "run")).create_or_check(a_run())


def test_a_missing_bucket_says_why_in_one_sentence(s3_run):  # noqa: F811
    _, config = s3_run
    missing = RunStore.open("s3://no-such-bucket/run", config)
    with pytest.raises(StoreError, match=r"cannot write to s3://no-such-bucket/run: .*bucket") as caught:
        missing.create_or_check(a_run())
    assert "testing" not in str(caught.value)
    with pytest.raises(RunNotFound):
        missing.read_run()


def test_an_unreachable_store_says_why_in_one_sentence(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "open-sesame")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "open-sesame")
    away = RunStore.open("s3://bucket/run", StoreConfig(endpoint_url="http://127.0.0.1:1", tries=1))
    with pytest.raises(StoreError, match=r"cannot .* s3://bucket/run: .*store.endpoint_url") as caught:
        away.read_run()
    assert "sesame" not in str(caught.value)


def test_an_address_with_credentials_is_refused_without_repeating_them():
    with pytest.raises(StoreError, match="must not hold credentials") as caught:
        RunStore.open("s3://open:sesame@bucket/run")
    assert "sesame" not in str(caught.value)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(StoreError, match="use a local path or s3://"):
        RunStore.open("gopher://archive/run")


def test_a_full_disk_says_so_and_leaves_no_half_file(on_disk, monkeypatch):
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device; free some space"):
        commit(on_disk, "A17")
    assert [path for path in Path(on_disk.root).rglob("*") if path.is_file()] == [
        Path(on_disk.root, "run.json")
    ]


# Stores that cannot create a file only if it is absent


def test_a_disk_without_hard_links_is_refused(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(ConditionalCreateUnsupported, match="knows no hard links"):
        RunStore.open(str(tmp_path)).create_or_check(a_run())
    alone = RunStore.open(str(tmp_path), StoreConfig(single_writer=True))
    alone.create_or_check(a_run())
    assert commit(alone, "A17")
    assert not commit(alone, "A17")


# Committing


def test_a_committed_slide_is_there_whole_with_its_footer(store):
    attempt = store.attempts.start("A17", deadline_s=60)
    files = write_arrays(store, "A17", attempt.attempt)
    summary = a_summary("A17", attempt.attempt, objects=3)
    assert store.commit_slide(some_objects("A17", files.path, 3), summary, files, attempt=attempt)
    assert store.committed() == {"A17"}
    assert store.committed_files() == {"A17": "objects/well=6407%2F6-5/A17.parquet"}
    footer = store.footer("A17")
    assert footer is not None
    assert (footer.summary, footer.arrays, footer.run_digest) == (summary, files, a_run().digest)
    assert store.footer("B1") is None


def test_of_sixteen_who_commit_one_slide_one_wins(on_disk):
    attempts = [on_disk.attempts.start("A17", deadline_s=60) for _ in range(16)]
    with ThreadPoolExecutor(16) as together:
        won = list(
            together.map(lambda attempt: commit(on_disk, "A17", attempt=attempt, arrays=True), attempts)
        )
    assert won.count(True) == 1
    winner = attempts[won.index(True)].attempt
    assert on_disk.summaries()[0].attempt == winner
    assert [path.name for path in Path(on_disk.root, "arrays/A17").iterdir()] == [f"{winner}.zarr"]
    seen = duckdb.sql(f"SELECT count(*), any_value(arrays) FROM '{on_disk.objects_glob()}'").fetchall()
    assert seen == [(3, f"arrays/A17/{winner}.zarr")]
    assert list(Path(on_disk.root, ".tmp").iterdir()) == []


def test_the_second_commit_loses_and_its_arrays_go(store):
    first, second = (store.attempts.start("A17", deadline_s=60) for _ in range(2))
    assert commit(store, "A17", attempt=first, arrays=True)
    assert not commit(store, "A17", attempt=second, arrays=True)
    left = {path.split("/")[2] for path in store.files.find("arrays")}
    assert left == {f"{first.attempt}.zarr"}


def test_a_commit_whose_answer_was_lost_is_a_success(store):
    attempt = store.attempts.start("A17", deadline_s=60)
    assert commit(store, "A17", attempt=attempt, arrays=True)
    assert commit(store, "A17", attempt=attempt, arrays=True)
    assert store.files.find("arrays")


def test_an_attempt_past_its_deadline_commits_nothing(on_disk):
    attempt = on_disk.attempts.start("A17", deadline_s=-5)
    with pytest.raises(AttemptExpired, match=r"workers\.deadline_minutes"):
        commit(on_disk, "A17", attempt=attempt)
    assert on_disk.committed() == set()


def test_a_slide_without_objects_commits_no_rows(on_disk):
    assert commit(on_disk, "empty", objects=0)
    assert commit(on_disk, "A17", objects=2)
    assert on_disk.committed() == {"empty", "A17"}
    assert duckdb.sql(f"SELECT count(*) FROM '{on_disk.objects_glob()}'").fetchall() == [(2,)]


def test_a_table_that_disagrees_with_its_summary_is_not_committed(on_disk):
    files = ArrayFiles("arrays/A17/0011223344.zarr", {}, {})
    summary = a_summary("A17", "0011223344", objects=3)
    for wrong in (
        some_objects("A17", files.path, 2),
        some_objects("B1", files.path, 3),
        some_objects("A17", "arrays/A17/other.zarr", 3),
        some_objects("A17", files.path, 3).drop_columns(["score"]),
    ):
        with pytest.raises(ValueError, match="A17"):
            on_disk.commit_slide(wrong, summary, files)
    assert on_disk.committed() == set()


def test_bare_duckdb_and_pyarrow_see_committed_slides_with_their_wells(on_disk):
    wells = {"A17": "6407/6-5", "B1": "34/10-A 8 æ%", "C2": ""}
    for slide_id, well in wells.items():
        commit(on_disk, slide_id, well=well)
    expected = {"A17": "6407/6-5", "B1": "34/10-A 8 æ%", "C2": "unassigned"}
    glob = f"{on_disk.root}/objects/*/*.parquet"
    rows = duckdb.sql(f"SELECT DISTINCT slide_id, well FROM read_parquet('{glob}', hive_partitioning=true)")
    assert dict(rows.fetchall()) == expected
    dataset = ds.dataset(f"{on_disk.root}/objects", partitioning="hive")
    table = dataset.to_table(columns=["slide_id", "well"])
    assert dict(zip(table["slide_id"].to_pylist(), table["well"].to_pylist(), strict=True)) == expected
    assert {slide: well_of(path) for slide, path in on_disk.committed_files().items()} == expected


def test_the_objects_file_is_zstd_parquet_of_the_schema(on_disk):
    commit(on_disk, "A17")
    path = Path(on_disk.root, on_disk.committed_files()["A17"])
    assert pq.read_schema(path).remove_metadata() == OBJECTS_SCHEMA
    file = pq.ParquetFile(path)
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    stated = json.loads(file.schema_arrow.metadata[b"fossilray"])
    assert stated["summary"]["slide_id"] == "A17"


def test_committed_objects_in_s3_are_found_by_duckdb_through_fsspec(s3_run):  # noqa: F811
    remote = RunStore.open(*s3_run)
    remote.create_or_check(a_run())
    commit(remote, "A17")
    with duckdb.connect() as connection:
        connection.register_filesystem(remote.filesystem)
        seen = connection.sql(
            f"SELECT count(*), any_value(well) FROM read_parquet('{remote.objects_glob()}', hive_partitioning=true)"
        )
        assert seen.fetchall() == [(3, "6407/6-5")]


def test_a_foreign_file_below_objects_is_named(on_disk):
    commit(on_disk, "A17")
    foreign = Path(on_disk.root, objects_path("B1", None))
    foreign.parent.mkdir()
    foreign.write_bytes(b"not parquet at all")
    assert [row.slide_id for row in on_disk.summaries()] == ["A17"]
    assert re.search(
        r"B1.parquet \(the objects of slide B1\) .*verify RUN --withdraw", *on_disk.left_out.messages
    )
    with pytest.raises(DamagedFile, match=r"B1.parquet \(the objects"):
        on_disk.rebuild_summaries()


@pytest.mark.parametrize(
    "slide_id",
    ["", ".", "..", "../A17", "a/../../b", "a/b", "a\\b", ".hidden", "a*", "a?b", "a'b", "a\nb", "x" * 201],
)
def test_a_slide_id_that_is_no_safe_name_never_becomes_a_path(on_disk, slide_id):
    before = on_disk.files.find("")
    with pytest.raises(CatalogError, match="not safe as a file name"):
        on_disk.attempts.start(slide_id, deadline_s=60)
    with pytest.raises(CatalogError, match="not safe as a file name"):
        on_disk.delete_attempt(slide_id, "0011223344556677")
    with pytest.raises(CatalogError, match="not safe as a file name"):
        on_disk.freeze_catalog([CatalogRow(slide_id, "a.mrxs")])
    assert on_disk.files.find("") == before


@pytest.mark.parametrize("slide_id", ["A17", "6407_6-5 2030 mDC", "brønn 7 (øst)", "a.b", "x" * 200])
def test_names_that_people_give_slides_are_safe(on_disk, slide_id):
    assert commit(on_disk, slide_id)
    assert on_disk.committed() == {slide_id}


def test_sweeping_deletes_only_the_attempt_it_names(store):
    write_arrays(store, "A17", "aaaaaaaa")
    write_arrays(store, "A17", "bbbbbbbb")
    store.delete_attempt("A17", "aaaaaaaa")
    store.delete_attempt("A17", "cccccccc")
    assert {path.split("/")[2] for path in store.files.find("arrays")} == {"bbbbbbbb.zarr"}
    with pytest.raises(ValueError, match="not the id"):
        store.delete_attempt("A17", "../B1")


# Attempts and failures


def test_failures_and_open_attempts_are_those_of_uncommitted_slides(store):
    for slide_id in ("A17", "B1", "C2"):
        first = store.attempts.start(slide_id, deadline_s=60)
        store.attempts.record_failure(a_failure(slide_id, first.attempt))
    second = store.attempts.start("B1", deadline_s=60)
    commit(store, "A17")
    assert [failure.slide_id for failure in store.attempts.failures()] == ["B1", "C2"]
    assert store.attempts.running() == [second]
    store.attempts.record_failure(a_failure("B1", second.attempt, at="2031-01-01T00:00:00+00:00"))
    assert [failure.failed_at[:4] for failure in store.attempts.failures()] == ["2030", "2031", "2030"]
    assert store.attempts.running() == []


def test_attempts_at_committed_slides_are_not_read(on_disk, monkeypatch):
    for slide_id in ("A17", "B1"):
        commit(on_disk, slide_id)
    waiting = on_disk.attempts.start("C2", deadline_s=60)
    read: list[str] = []
    really = on_disk.files.read
    monkeypatch.setattr(on_disk.files, "read", lambda path: read.append(path) or really(path))
    assert on_disk.attempts.running() == [waiting]
    assert read == [f"attempts/C2/{waiting.attempt}.json"]


def test_attempts_have_ids_of_their_own(on_disk):
    assert len({on_disk.attempts.start("A17", deadline_s=60).attempt for _ in range(20)}) == 20


# Catalog


def rows(*slide_ids: str, **known: object) -> list[CatalogRow]:
    return [
        replace(CatalogRow(name, f"{name}.mrxs", mpp=0.25, well="6407/6-5"), **known) for name in slide_ids
    ]


def test_catalog_rows_are_added_and_come_back_as_first_written(store):
    assert store.freeze_catalog(rows("B1", "A17")) == rows("A17", "B1")
    again = store.freeze_catalog([*rows("C2"), *rows("A17", well=None)])
    assert again == store.read_catalog() == rows("A17", "B1", "C2")


def test_a_changed_catalog_row_is_refused_by_slide_and_field(store):
    store.freeze_catalog(rows("A17", "B1"))
    with pytest.raises(CatalogError, match=r"slide B1: mpp is 0.25 in this run and 0.5 in the catalog now"):
        store.freeze_catalog(rows("B1", "C2", mpp=0.5))
    assert store.read_catalog() == rows("A17", "B1")


def test_extra_columns_are_frozen_and_a_change_is_refused_by_column(store):
    frozen = rows("A17", extra=(ExtraValue("Lithology", "shale"), ExtraValue("age", "66")))
    store.freeze_catalog(frozen)
    again = rows("A17", extra=(ExtraValue("lithology", "shale"),))
    assert store.freeze_catalog(again) == store.expect_catalog(again) == frozen
    for value in (ExtraValue("lithology", "sand"), ExtraValue("note", "sand")):
        with pytest.raises(CatalogError, match=rf"slide A17: {value.column} is .* in this run and 'sand' in"):
            store.freeze_catalog(rows("A17", extra=(value,)))


def test_digits_that_a_spreadsheet_cuts_off_are_no_change(store):
    frozen = rows("A17", mpp=0.23252341666666667)
    store.freeze_catalog(frozen)
    assert store.freeze_catalog(rows("A17", mpp=0.232523417)) == frozen
    with pytest.raises(CatalogError, match="mpp is"):
        store.freeze_catalog(rows("A17", mpp=0.2325))


def test_what_a_job_would_use_is_the_frozen_row_and_nothing_is_written(store):
    assert store.expect_catalog(rows("A17")) == rows("A17")
    assert store.read_catalog() == []
    store.freeze_catalog(rows("A17", mpp=0.5))
    assert store.expect_catalog(rows("A17", "B1", mpp=None)) == [*rows("A17", mpp=0.5), *rows("B1", mpp=None)]
    assert store.read_catalog() == rows("A17", mpp=0.5)


def test_a_slide_twice_in_a_catalog_is_refused(on_disk):
    with pytest.raises(CatalogError, match=r"A17 stands for A17.mrxs and other.mrxs"):
        on_disk.freeze_catalog([*rows("A17"), *rows("A17", path="other.mrxs")])


def test_rows_that_two_drivers_add_at_once_are_all_kept(on_disk):
    with ThreadPoolExecutor(4) as drivers:
        list(drivers.map(on_disk.freeze_catalog, [rows(f"S{number}") for number in range(4)]))
    assert on_disk.read_catalog() == rows("S0", "S1", "S2", "S3")


# Summaries


def test_summaries_come_from_parts_and_for_the_rest_from_footers(store, monkeypatch):
    for slide_id in ("A17", "B1", "C2"):
        commit(store, slide_id)
    whole = store.summaries()
    assert [row.slide_id for row in whole] == ["A17", "B1", "C2"]
    store.append_summaries(whole[:1])
    store.append_summaries(whole[1:2])
    store.append_summaries([])
    assert store.files.find("slides") == ["slides/part-000000.parquet", "slides/part-000001.parquet"]

    read: list[str] = []
    really = objects_file.read_footer
    monkeypatch.setattr(
        objects_file, "read_footer", lambda tail, *, name: read.append(name) or really(tail, name=name)
    )
    assert store.summaries() == whole
    assert read == [f"{store.url}/{store.committed_files()['C2']}"]


def test_summaries_are_rebuilt_from_footers(store):
    for slide_id in ("A17", "B1"):
        commit(store, slide_id)
    whole = store.summaries()
    store.append_summaries([replace(whole[0], objects=999, attempt="stale-stale")])
    assert store.rebuild_summaries() == 2
    assert store.files.find("slides") == ["slides/part-000001.parquet"]
    assert store.summaries() == whole


def test_drivers_that_append_at_once_lose_no_part(on_disk):
    for number in range(8):
        commit(on_disk, f"S{number}")
    with ThreadPoolExecutor(8) as drivers:
        list(drivers.map(lambda row: on_disk.append_summaries([row]), on_disk.summaries()))
    assert len(on_disk.files.find("slides")) == 8


def test_a_part_row_of_a_slide_no_longer_committed_is_left_out(on_disk):
    commit(on_disk, "A17")
    on_disk.append_summaries(on_disk.summaries())
    Path(on_disk.root, on_disk.committed_files()["A17"]).unlink()
    assert on_disk.summaries() == []


# Drivers and pictures


def test_heartbeats_replace_each_other_and_come_latest_first(store):
    beat = Heartbeat("driver-1", "2030-01-01", "2030-01-01T00:00:30", 5, 2, 1, 400, 12.5, 2, ("A17", "B1"))
    other = replace(beat, driver_id="driver-2", beat_at="2030-01-01T00:00:50")
    later = replace(beat, beat_at="2030-01-01T00:01:00", in_flight=())
    for one in (beat, other, later):
        store.attempts.write_heartbeat(one)
    assert store.attempts.heartbeats() == [later, other]


def test_a_picture_comes_back(store):
    store.write_picture("A17", b"jpeg bytes")
    assert store.picture("A17") == b"jpeg bytes"
