"""A run put together: the dataset answers as the run does, is verified, and is announced whole or not at all."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.run_fixtures import a_failure, a_run, a_summary, commit
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.small_run import COUNTS, DIMENSION, HOSTILE_WELL, WELL, commit_slide, start_run, write_small_run

from fossilray.analysis.export.boxes import export_objects, save_crops
from fossilray.analysis.report import write_report
from fossilray.core.config import StoreConfig
from fossilray.core.errors import QueryError, RunNotFound, StoreError, UsageError
from fossilray.core.heartbeat import Heartbeat
from fossilray.core.records import ArrayFiles, CatalogRow
from fossilray.store import RunStore, open_run
from fossilray.store.dataset import multi_slide_file as parts
from fossilray.store.dataset.compact import CompactReport, compact_run, render_compacted
from fossilray.store.dataset.dataset_store import DATASET_JSON, UNFINISHED_JSON, DatasetRecord
from fossilray.store.dataset.destination import DatasetDestination
from fossilray.store.files.open import open_files
from fossilray.store.query.connection import load_crops, load_embeddings, run_query
from fossilray.store.status import read_status

QUERIES = [
    "SELECT * FROM objects ORDER BY well, slide_id, object_id",
    "SELECT well, count(*) AS n, avg(score::DOUBLE) AS mean FROM objects GROUP BY well ORDER BY well",
    "SELECT * FROM objects WHERE slide_id = 'b-2050' ORDER BY object_id",
    "SELECT * FROM objects WHERE well = '34' ORDER BY object_id",
    "SELECT slide_id, s.objects AS said, count(o.slide_id) AS n, sum(s.scanned_mm2) AS mm2 "
    "FROM slides s LEFT JOIN objects o USING (slide_id) GROUP BY ALL ORDER BY slide_id",
    "SELECT * FROM slides",
    "SELECT * FROM failures",
    "SELECT * FROM catalog",
    "SELECT slide_id FROM catalog ANTI JOIN slides USING (slide_id) ORDER BY 1",
    "SELECT quantile_cont(opacity, [0.1, 0.5, 0.9]) AS spread, count(*) FILTER (isolated) AS alone FROM objects",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = write_small_run(tmp_path_factory.mktemp("runs") / "run [1]* it's 50%")
    commit_slide(store, "g-number", count=9, well="34", depth_m=3000.0, seed=7)
    commit_slide(store, "h-hostile", count=7, well=HOSTILE_WELL, depth_m=None, seed=8)
    commit_slide(store, "i-empty", count=0, well=WELL, depth_m=2100.0, seed=9)
    return store


@pytest.fixture(scope="module")
def dataset(run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    place = tmp_path_factory.mktemp("datasets") / "it's [all] 100%"
    compact(run, place, slides_per_file=2, embeddings=True)
    return open_run(str(place))


def compact(store: RunStore, place: Path | str, **options: Any) -> CompactReport:
    return compact_run(store, str(place), access=StoreConfig(), **options)


@pytest.mark.parametrize("sql", QUERIES)
def test_a_dataset_answers_as_its_run(run: RunStore, dataset: RunStore, sql: str) -> None:
    assert dataset.is_dataset
    assert run_query(dataset, sql).equals(run_query(run, sql))


def test_a_row_of_a_dataset_finds_its_pixels_and_vectors(run: RunStore, dataset: RunStore) -> None:
    sql = "SELECT arrays, object_id FROM objects ORDER BY opacity DESC, slide_id, object_id LIMIT 30"
    ours, theirs = run_query(dataset, sql), run_query(run, sql)
    assert np.array_equal(load_crops(dataset, ours), load_crops(run, theirs))
    assert np.array_equal(load_embeddings(dataset, ours), load_embeddings(run, theirs))


@pytest.mark.parametrize("form", ["geojson", "csv"])
def test_what_is_exported_from_both_is_the_same_to_the_byte(
    run: RunStore, dataset: RunStore, tmp_path: Path, form: Any
) -> None:
    for store, name in ((run, "run"), (dataset, "dataset")):
        export_objects(store, tmp_path / name, form=form, where="score > 0.2")
    assert contents(tmp_path / "dataset") == contents(tmp_path / "run")


def test_crops_saved_from_both_are_the_same(run: RunStore, dataset: RunStore, tmp_path: Path) -> None:
    for store, name in ((run, "run"), (dataset, "dataset")):
        assert save_crops(store, where="slide_id = 'g-number'", out=tmp_path / name) == 9
    assert contents(tmp_path / "dataset") == contents(tmp_path / "run")


def test_the_page_about_a_dataset_is_the_page_about_its_run(
    run: RunStore, dataset: RunStore, tmp_path: Path
) -> None:
    pages = []
    for store in (run, dataset):
        page = write_report(store, tmp_path / "page.html", now=datetime(2030, 1, 1, tzinfo=UTC)).read_text()
        shown = [Path(store.url).name, str(Path(store.url).parent)]
        for name in shown:
            for escaped in (name, name.replace("'", "&#39;"), name.replace("'", "&#39;&#34;&#39;&#34;&#39;")):
                page = page.replace(escaped, "HERE")
        pages.append(page)
    assert re.findall(r"\d[\d,.]* objects", pages[0])
    assert pages[0] == pages[1]


def test_the_state_of_a_dataset_is_that_of_its_run_at_rest(run: RunStore, dataset: RunStore) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    ours, theirs = read_status(dataset, now=now), read_status(run, now=now)
    for fact in ("counts", "objects", "scanned_mm2", "array_bytes", "failed", "quarantined"):
        assert getattr(ours, fact) == getattr(theirs, fact)
    assert dataset.committed() == run.committed()
    assert dataset.footer("a-2030") == run.footer("a-2030")
    assert dataset.footer("nowhere") is None


def test_a_dataset_has_files_of_many_slides_in_order(run: RunStore, dataset: RunStore) -> None:
    files = sorted(Path(dataset.root).glob("objects/*/*.parquet"))
    held = {}
    for file in files:
        table = pq.read_table(file, partitioning=None)
        order = list(zip(table["slide_id"].to_pylist(), table["object_id"].to_pylist(), strict=True))
        assert order == sorted(order)
        held[f"{file.parent.name}/{file.name}"] = sorted(set(table["slide_id"].to_pylist()))
        column = pq.ParquetFile(file).metadata.row_group(0).column(0)
        assert (column.compression, column.is_stats_set) == ("ZSTD", True)
    assert held == {
        "well=34/part-000000.parquet": ["g-number"],
        f"{folder(run, 'h-hostile')}/part-000000.parquet": ["h-hostile"],
        "well=6407%2F6-5/part-000000.parquet": ["a-2030", "b-2050"],
        "well=6407%2F6-5/part-000001.parquet": ["c-2080"],
    }


def test_bare_duckdb_and_pyarrow_read_the_wells_as_they_are_named(dataset: RunStore) -> None:
    found = duckdb.sql(
        f"SELECT well, count(*) FROM read_parquet('{quoted(dataset, 'objects')}', hive_partitioning = true, "
        "hive_types = {'well': VARCHAR}) GROUP BY well"
    ).fetchall()
    assert dict(found) == {WELL: 77, HOSTILE_WELL: 7, "34": 9}
    partitions = ds.partitioning(pa.schema([("well", pa.string())]), flavor="hive")
    table = ds.dataset(f"{dataset.root}/objects", partitioning=partitions).to_table()
    assert set(table["well"].to_pylist()) == {WELL, HOSTILE_WELL, "34"}
    assert table.num_rows == 93


def test_embeddings_beside_the_objects_are_those_of_the_arrays(run: RunStore, dataset: RunStore) -> None:
    found = duckdb.sql(
        f"SELECT slide_id, object_id, embedding FROM read_parquet('{quoted(dataset, 'embeddings')}') "
        "ORDER BY slide_id, object_id"
    ).fetchall()
    rows = run_query(run, "SELECT * FROM objects ORDER BY slide_id, object_id")
    assert [row[:2] for row in found] == list(
        zip(rows["slide_id"].to_pylist(), rows["object_id"].to_pylist(), strict=True)
    )
    assert np.array_equal(np.array([row[2] for row in found], np.float16), load_embeddings(run, rows))
    file = next(Path(dataset.root).glob("embeddings/*/*.parquet"))
    kind = pq.read_schema(file).field("embedding").type
    assert (kind.value_type, kind.list_size) == (pa.float16(), DIMENSION)


def test_the_record_of_a_dataset_names_every_file(run: RunStore, dataset: RunStore) -> None:
    record = record_of(dataset)
    assert (record.slides, record.objects, record.source) == (7, 93, run.url)
    on_disk = {path.relative_to(dataset.root).as_posix(): path for path in files_below(Path(dataset.root))}
    assert {file.path for file in record.files} == on_disk.keys() - {DATASET_JSON}
    for file in record.files:
        assert on_disk[file.path].stat().st_size == file.bytes


def test_row_groups_hold_many_slides_and_large_slides_span_them(tmp_path: Path) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(a_run())
    for number in range(5):
        commit(store, f"s{number}", objects=60_000)
    compact(store, tmp_path / "dataset")
    (file,) = (tmp_path / "dataset").glob("objects/*/*.parquet")
    metadata = pq.ParquetFile(file).metadata
    groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert groups == [122_880, 122_880, 54_240]
    sql = "SELECT slide_id, count(*) AS n, sum(x_min) AS x FROM objects GROUP BY 1 ORDER BY 1"
    assert run_query(open_run(str(tmp_path / "dataset")), sql).equals(run_query(store, sql))


def test_a_well_of_many_slides_is_shared_out_evenly(tmp_path: Path) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(a_run())
    for number in range(11):
        commit(store, f"s{number:02d}", objects=1)
    report = compact(store, tmp_path / "dataset", slides_per_file=5)
    dataset = open_run(str(tmp_path / "dataset"))
    assert [len(file.slides) for file in record_of(dataset).files if file.slides] == [4, 3, 4]
    assert report.files == 3
    assert "11 slides with 11 objects" in render_compacted(report).plain


@pytest.mark.parametrize(
    "well",
    ["34", "a=b", "../../x", "50%", "%2F", "ü 'q\" ;--", "*?[x]", ".", "-", "well=1", "x" * 80, "\\n\n"],
)
def test_a_well_keeps_its_name_whatever_it_is(tmp_path: Path, well: str) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(a_run())
    commit(store, "s1", objects=2, well=well)
    compact(store, tmp_path / "site=3" / "well=other" / "dataset")
    dataset = open_run(str(tmp_path / "site=3" / "well=other" / "dataset"))
    assert run_query(dataset, "SELECT well FROM objects")["well"].to_pylist() == [well, well]
    assert {path.parts[len(tmp_path.parts)] for path in files_below(tmp_path)} == {"run", "site=3"}


def test_a_run_without_a_commit_becomes_an_empty_dataset(run: RunStore, tmp_path: Path) -> None:
    empty = start_run(tmp_path / "run")
    compact(empty, tmp_path / "dataset", embeddings=True)
    dataset = open_run(str(tmp_path / "dataset"))
    for view in ("objects", "slides", "failures", "catalog"):
        found = run_query(dataset, f"SELECT * FROM {view}")
        assert found.schema.equals(run_query(run, f"SELECT * FROM {view}").schema)
    assert dataset.committed() == set()
    assert dataset.read_catalog() == empty.read_catalog()


def test_a_run_without_embeddings_is_compacted_without_them_only(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run", counts={"a-2030": 3}, embeddings=False)
    with pytest.raises(UsageError, match=r"embedder\.weights none"):
        compact(store, tmp_path / "dataset", embeddings=True)
    compact(store, tmp_path / "dataset")
    dataset = open_run(str(tmp_path / "dataset"))
    with pytest.raises(QueryError, match=r"embedder\.weights"):
        load_embeddings(dataset, run_query(dataset, "SELECT * FROM objects"))


def test_a_slide_committed_meanwhile_is_not_in_the_dataset(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run")
    seen: list[tuple[int, int]] = []

    def display(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 1:
            commit_slide(store, "z-late", count=5, well=WELL, depth_m=None, seed=3)

    assert compact(store, tmp_path / "dataset", display=display).slides == len(COUNTS)
    assert seen == [(done, len(COUNTS)) for done in range(1, len(COUNTS) + 1)]
    assert open_run(str(tmp_path / "dataset")).committed() == set(COUNTS)


def test_rows_that_come_back_otherwise_are_not_announced(
    run: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = parts.open_ranged

    @contextmanager
    def one_value_off(files: Any, path: str) -> Iterator[IO[bytes]]:
        target = Path(files.root, path)
        table = pq.read_table(target, partitioning=None)
        place = table.schema.get_field_index("sharpness")
        values = table["sharpness"].to_pylist()
        values[-1] = None
        column = pa.array(values, pa.float32())
        pq.write_table(table.set_column(place, table.schema.field(place), column), target)
        with whole(files, path) as file:
            yield file

    monkeypatch.setattr(parts, "open_ranged", one_value_off)
    with pytest.raises(StoreError, match="other rows than were written, of slide"):
        compact(run, tmp_path / "dataset")
    with pytest.raises(RunNotFound, match="not finished"):
        open_run(str(tmp_path / "dataset"))


def test_a_file_that_vanishes_before_the_end_is_noticed(run: RunStore, tmp_path: Path) -> None:
    def display(done: int, total: int) -> None:
        if done == total:
            next((tmp_path / "dataset").glob("objects/*/*.parquet")).unlink()

    with pytest.raises(StoreError, match="changed while the dataset was made"):
        compact(run, tmp_path / "dataset", slides_per_file=1, display=display)
    assert not (tmp_path / "dataset" / DATASET_JSON).exists()


def test_a_damaged_run_is_not_compacted(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run")
    store.rebuild_summaries()
    files = store.committed_files()
    footer = store.footer("b-2050")
    assert footer is not None
    shard = tmp_path / "run" / footer.arrays.path / "embeddings/c/0/0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    second = tmp_path / "run" / "objects" / "well=34" / "b-2050.parquet"
    second.parent.mkdir()
    second.write_bytes(store.files.read(files["b-2050"]))
    with pytest.raises(StoreError, match="holds slide b-2050 twice"):
        compact(store, tmp_path / "dataset")
    second.unlink()
    with pytest.raises(StoreError, match="fossilray verify"):
        compact(store, tmp_path / "dataset", embeddings=True)
    Path(store.root, files["a-2030"]).write_bytes(store.files.read(files["b-2050"]))
    with pytest.raises(StoreError, match=r"a-2030\.parquet and the summary of its slide disagree"):
        compact(store, tmp_path / "dataset")
    Path(store.root, files["a-2030"]).write_bytes(b"no Parquet")
    with pytest.raises(StoreError, match=r"a-2030\.parquet \(the objects of"):
        compact(store, tmp_path / "dataset")
    assert not (tmp_path / "dataset" / DATASET_JSON).exists()


@pytest.mark.faults
def test_a_killed_try_is_no_dataset_and_the_same_command_starts_again(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run")
    place = tmp_path / "dataset"
    program = (
        "import os, signal, sys\n"
        "from fossilray.store.dataset.compact import compact_run\n"
        "from fossilray.core.config import StoreConfig\n"
        "from fossilray.store import RunStore\n"
        "die = lambda done, total: done == 3 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "compact_run(RunStore.open(sys.argv[1]), sys.argv[2], access=StoreConfig(), slides_per_file=1, display=die)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, store.url, str(place)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(place.glob("objects/*/*.parquet"))
    with pytest.raises(RunNotFound, match="not finished"):
        open_run(str(place))
    compact(store, place)
    assert [path.name for path in place.glob("objects/*/*.parquet")] == ["part-000000.parquet"]
    sql = "SELECT * FROM objects ORDER BY slide_id, object_id"
    assert run_query(open_run(str(place)), sql).equals(run_query(store, sql))


def test_of_two_who_compact_into_one_place_the_second_is_refused(run: RunStore, tmp_path: Path) -> None:
    refused = []

    def display(done: int, total: int) -> None:
        if done == 1:
            with pytest.raises(UsageError, match="another `fossilray compact` is at work") as caught:
                compact(run, tmp_path / "dataset")
            refused.append(caught.value)

    compact(run, tmp_path / "dataset", slides_per_file=1, display=display)
    assert len(refused) == 1
    dataset = open_run(str(tmp_path / "dataset"))
    assert run_query(dataset, QUERIES[0]).equals(run_query(run, QUERIES[0]))
    assert len(list((tmp_path / "dataset").glob("objects/*/*.parquet"))) == 5
    assert not list((tmp_path / "dataset").glob(".*"))


def test_a_place_that_is_not_free_is_left_as_it_is(run: RunStore, dataset: RunStore, tmp_path: Path) -> None:
    before = contents(Path(dataset.root))
    with pytest.raises(UsageError, match="finished dataset"):
        compact(run, dataset.root)
    assert contents(Path(dataset.root)) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        compact(run, tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(StoreError, match=r"notes\.txt"):
        compact(run, tmp_path / "notes.txt")


def test_a_run_is_not_compacted_into_itself(run: RunStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run.root)
    for place in (run.root, f"{run.root}/below", f"{run.root}/objects/../x", tmp_path / "link" / "x"):
        with pytest.raises(UsageError, match="choose a folder beside it"):
            compact(run, place)


def test_a_dataset_is_not_compacted_again(run: RunStore, dataset: RunStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name the run"):
        compact(dataset, tmp_path / "again")
    with pytest.raises(UsageError, match="0 slides"):
        compact(run, tmp_path / "again", slides_per_file=0)
    with pytest.raises(RunNotFound):
        compact(RunStore.open(str(tmp_path / "nowhere")), tmp_path / "again")
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_takes_nothing_in(run: RunStore, dataset: RunStore) -> None:
    before = contents(Path(dataset.root))
    table = run_query(run, "SELECT * EXCLUDE well FROM objects WHERE false").cast(
        pq.read_schema(Path(run.root, run.committed_files()["a-2030"])).remove_metadata()
    )
    summary, arrays = a_summary("new", "0123abcd"), ArrayFiles("arrays/new/0123abcd.zarr", {}, {})
    beat = Heartbeat("abcd", "", "", 1, 0, 0, 0, 0.0, 1, ())
    for act in (
        lambda: dataset.create_or_check(dataset.read_run()),
        lambda: dataset.freeze_catalog([CatalogRow("new", "new.mrxs")]),
        lambda: dataset.attempts.start("new", deadline_s=60),
        lambda: dataset.attempts.record_failure(a_failure("new", "0123abcd")),
        lambda: dataset.attempts.clear_failures(dataset.attempts.failures()),
        lambda: dataset.commit_slide(table, summary, arrays),
        lambda: dataset.submit_slide(table, summary, arrays),
        lambda: dataset.delete_attempt("a-2030", "4567cdef"),
        lambda: dataset.write_picture("new", b""),
        lambda: dataset.append_summaries([summary]),
        dataset.rebuild_summaries,
        lambda: dataset.attempts.write_heartbeat(beat),
    ):
        with pytest.raises(UsageError, match="compacted dataset, which is only read"):
            act()  # type: ignore[no-untyped-call]
    assert contents(Path(dataset.root)) == before


def test_a_run_opens_as_what_it_is(run: RunStore, tmp_path: Path) -> None:
    assert not open_run(run.url).is_dataset
    assert run_query(open_run(run.url), QUERIES[0]).equals(run_query(run, QUERIES[0]))
    with pytest.raises(RunNotFound):
        open_run(str(tmp_path)).read_run()
    (tmp_path / DATASET_JSON).write_text('{"schema_version": 1}')
    with pytest.raises(StoreError, match="schema version 1"):
        open_run(str(tmp_path))
    (tmp_path / DATASET_JSON).write_text("[]")
    with pytest.raises(StoreError, match="the record of a compacted dataset"):
        open_run(str(tmp_path))


@pytest.mark.parametrize("where", ["disk", "store"])
def test_a_run_in_an_object_store_is_compacted_like_one_on_a_disk(
    s3_run: tuple[str, StoreConfig],  # noqa: F811
    tmp_path: Path,
    where: str,
) -> None:
    url, config = s3_run
    remote = write_small_run(url, config=config, counts={"a-2030": 6, "b-2050": 4, "d-none": 0, "d-some": 3})
    place = str(tmp_path / "dataset") if where == "disk" else url.replace("/run", "/dataset")
    report = compact_run(remote, place, access=config, slides_per_file=1, embeddings=True)
    assert (report.slides, report.objects, report.files) == (4, 13, 6)
    dataset = open_run(place, config)
    for sql in (QUERIES[0], QUERIES[4], QUERIES[6]):
        assert run_query(dataset, sql).equals(run_query(remote, sql))
    chosen = run_query(dataset, "SELECT * FROM objects WHERE object_id = 2 ORDER BY slide_id")
    assert np.array_equal(load_crops(dataset, chosen), load_crops(remote, chosen))
    with pytest.raises(UsageError, match="finished dataset"):
        compact_run(remote, place, access=config)
    with pytest.raises(UsageError, match="choose a folder beside it"):
        compact_run(remote, f"{url}/dataset", access=config)


def contents(place: Path) -> dict[str, bytes]:
    if place.is_file():
        return {"": place.read_bytes()}
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in files_below(place)}


def files_below(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())


def folder(store: RunStore, slide_id: str) -> str:
    return Path(store.committed_files()[slide_id]).parent.name


def record_of(dataset: RunStore) -> DatasetRecord:
    return DatasetRecord.from_json(dataset.files.read(DATASET_JSON), url=dataset.url)


def quoted(store: RunStore, name: str) -> str:
    """A glob over a dataset's files, for SQL."""
    root = "".join(f"[{sign}]" if sign in "*?[" else sign for sign in store.root).replace("'", "''")
    return f"{root}/{name}/*/*.parquet"


@pytest.mark.parametrize(
    "foreign",
    [
        "objects/notes.txt",
        "objects/well=34/mine.parquet",
        "embeddings/a",
        "slides/slide.mrxs",
        "slides/b/part-000000.parquet",
    ],
)
def test_what_a_person_put_into_an_unfinished_dataset_is_named_and_stays(
    tmp_path: Path, foreign: str
) -> None:
    place = open_files(str(tmp_path / "dataset"), StoreConfig())
    place.write(UNFINISHED_JSON, b'{"token": "1", "source": "run", "began_at": "then"}')
    for path in ("objects/well=34/part-000000.parquet", foreign):
        place.write(path, b"x")
    with pytest.raises(UsageError, match=foreign):
        DatasetDestination.check_free(place)
    assert place.find("objects") or foreign.startswith("embeddings")
    assert place.read(foreign) == b"x"


def test_files_of_a_name_like_the_mark_make_no_folder_an_unfinished_dataset(tmp_path: Path) -> None:
    place = open_files(str(tmp_path / "folder"), StoreConfig())
    place.write(UNFINISHED_JSON, b"pressing of soil samples")
    place.write("catalog.parquet", b"mine")
    with pytest.raises(UsageError, match="was not written by `fossilray compact`"):
        DatasetDestination.check_free(place)
    assert place.read("catalog.parquet") == b"mine"


def test_link_in_an_unfinished_dataset_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "part-000000.parquet").write_bytes(b"x")
    place = open_files(str(tmp_path / "dataset"), StoreConfig())
    place.write(UNFINISHED_JSON, b'{"token": "1", "source": "run", "began_at": "then"}')
    (tmp_path / "dataset" / "slides").symlink_to(tmp_path / "other")
    with pytest.raises(UsageError, match="dataset/slides was not made by"):
        DatasetDestination.check_free(place)
    assert (tmp_path / "other" / "part-000000.parquet").exists()
