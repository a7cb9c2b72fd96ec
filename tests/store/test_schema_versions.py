"""Runs of schema versions 4 and 6, which lack some columns, are read, verified and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.run_fixtures import a_run, a_summary, commit

from fossilray.core.config import StoreConfig
from fossilray.core.records import CatalogRow, lost_share_of
from fossilray.core.schemas import OBJECTS_SCHEMA, SCHEMA_VERSION, SLIDES_SCHEMA
from fossilray.store import RunStore
from fossilray.store.dataset.compact import compact_run
from fossilray.store.dataset.dataset_store import open_run
from fossilray.store.maintenance.verify import verify_run
from fossilray.store.query.connection import run_query
from fossilray.store.run.objects_file import FOOTER_KEY
from fossilray.store.status import read_status

NEWER = ("focus_plane", "plane_sharpness")
NEW = ("boxes_outside", "lost_share", "pass_um_per_px", "pass_foreground_mm2", "pass_lost_mm2")


@pytest.fixture
def old_run(tmp_path: Path) -> RunStore:
    """One slide committed by a version before, gathered in slides/, and one that is not gathered."""
    store = RunStore.open(str(tmp_path / "run"))
    record = json.loads(a_run().to_json())
    store.files.write("run.json", json.dumps({**record, "schema_version": 4}).encode())
    store.freeze_catalog([CatalogRow(name, f"{name}.mrxs", well="6407/6-5") for name in ("a", "b", "c")])
    for name in ("a", "b"):
        commit(RunStore(store.files), name, arrays=True)
        as_version_4(Path(store.root) / store.committed_files()[name])
    table = store.summaries_table().filter(pa.array([True, False])).drop_columns(list(NEW))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.files.write("slides/part-000000.parquet", sink.getvalue().to_pybytes())
    return RunStore.open(store.url)


def as_version_4(path: Path) -> None:
    """The objects file as that version wrote it."""
    file = pq.ParquetFile(path)
    footer = json.loads(file.metadata.metadata[FOOTER_KEY])
    for name in NEW:
        del footer["summary"][name]
    footer["schema_version"] = 4
    table = file.read().replace_schema_metadata({FOOTER_KEY: json.dumps(footer).encode()})
    pq.write_table(table, path, write_page_checksum=True)


def test_columns_that_an_older_run_lacks_are_null(old_run: RunStore) -> None:
    table = old_run.summaries_table()
    assert table.schema.equals(SLIDES_SCHEMA)
    assert table["slide_id"].to_pylist() == ["a", "b"]
    for name in NEW:
        assert table[name].null_count == 2
    assert lost_share_of(old_run.summaries()) == 0
    assert read_status(old_run).counts.committed == 2


def test_an_older_run_is_sound_and_resumed_with_rows_of_this_version(old_run: RunStore) -> None:
    assert verify_run(old_run).sound
    old_run.create_or_check(a_run())
    digest = old_run.read_run().digest
    commit(RunStore(old_run.files), "c", arrays=True)
    footers = [old_run.footer(name) for name in ("a", "c")]
    assert [one.schema_version for one in footers if one] == [4, SCHEMA_VERSION]
    assert {one.run_digest for one in footers if one} == {digest}
    assert verify_run(RunStore.open(old_run.url)).sound
    assert old_run.rebuild_summaries() == 3


def test_losses_of_both_versions_are_added_by_area() -> None:
    old = a_summary("a", "1")
    new = type(old)(
        **{
            **vars(old),
            "content_mm2": 3.0,
            "pass_foreground_mm2": [2.0, 1.0],
            "pass_lost_mm2": [1.0, 0.0],
        }
    )
    assert new.finest_lost_share == 0.5
    assert lost_share_of([old, new]) == pytest.approx(1.5 / 4)


def as_version_6(path: Path) -> None:
    """The objects file as that version wrote it."""
    file = pq.ParquetFile(path)
    footer = json.loads(file.metadata.metadata[FOOTER_KEY])
    del footer["summary"]["planes_read"]
    footer["schema_version"] = 6
    table = file.read().drop_columns(list(NEWER))
    pq.write_table(
        table.replace_schema_metadata({FOOTER_KEY: json.dumps(footer).encode()}),
        path,
        write_page_checksum=True,
    )


@pytest.fixture(params=["run", "well=a/run"])
def run_of_version_6(tmp_path: Path, request: pytest.FixtureRequest) -> RunStore:
    store = RunStore.open(str(tmp_path / request.param))
    record = json.loads(a_run().to_json())
    store.files.write("run.json", json.dumps({**record, "schema_version": 6}).encode())
    store.freeze_catalog([CatalogRow(name, f"{name}.mrxs", well="6407/6-5") for name in ("a", "b")])
    commit(RunStore(store.files), "a", arrays=True)
    as_version_6(Path(store.root) / store.committed_files()["a"])
    return RunStore.open(store.url)


def test_columns_of_objects_that_an_older_run_lacks_are_null_in_queries(run_of_version_6: RunStore) -> None:
    store = run_of_version_6
    old = run_query(store, "SELECT * FROM objects")
    assert old.column_names == [*OBJECTS_SCHEMA.names, "well"]
    assert old.num_rows > 0
    assert all(old[name].null_count == old.num_rows for name in NEWER)
    assert set(old["well"].to_pylist()) == {"6407/6-5"}
    commit(RunStore(store.files), "b", arrays=True)
    both = run_query(RunStore.open(store.url), "SELECT slide_id, focus_plane, plane_sharpness FROM objects")
    known = {
        (row["slide_id"], row["focus_plane"] is None, row["plane_sharpness"] is None)
        for row in both.to_pylist()
    }
    assert known == {("a", True, True), ("b", False, False)}


def test_older_run_of_objects_without_planes_is_sound_and_compacted(
    run_of_version_6: RunStore, tmp_path: Path
) -> None:
    assert verify_run(run_of_version_6).sound
    report = compact_run(run_of_version_6, str(tmp_path / "dataset"), access=StoreConfig())
    assert report.objects > 0
    dataset = open_run(report.url, StoreConfig())
    assert not dataset.has_old_objects
    table = run_query(dataset, "SELECT * FROM objects")
    assert table.column_names == [*OBJECTS_SCHEMA.names, "well"]
