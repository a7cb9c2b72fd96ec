"""Searches, suggestions, reports and exports use wells and depths as they were last corrected."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cli_runner import rows_of, run_command
from support.indexed_runs import PLAIN, a_vector_run, index_runs, kinds_of_vectors
from support.small_run import write_small_run

from fossilray.analysis.report import write_report
from fossilray.analysis.search.filters import describe_hits, filter_where
from fossilray.analysis.search.search import SearchIndex
from fossilray.core.records import CatalogRow
from fossilray.store import RunStore
from fossilray.store.samples.importing import import_round

WELLS = {"a-1": "W-1", "a-2": "W-1", "b-1": "W-2"}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    vectors = {slide_id: kinds_of_vectors(60, seed=number) for number, slide_id in enumerate(WELLS)}
    store = a_vector_run(tmp_path / "run", vectors, wells=WELLS)
    store.freeze_catalog(
        [CatalogRow(name, f"{name}.mrxs", well=well, measured_depth_m=2030.5) for name, well in WELLS.items()]
    )
    return store


def correct(store: RunStore, folder: Path) -> None:
    table = folder / "samples.csv"
    table.write_text("slide_id,well,top_depth_m,base_depth_m,sample_type\na-2,W-3,2100,2110,DC\n")
    import_round(table, store.read_catalog(), store.sample_rounds, who="Ada")


def test_an_index_built_before_is_searched_by_the_corrected_well(store: RunStore, tmp_path: Path) -> None:
    built = index_runs([store.url], tmp_path / "index")
    keys = built.committed()
    correct(store, tmp_path)
    assert index_runs([store.url], tmp_path / "index").committed() == keys, "shards were built again"
    index = SearchIndex.open(str(tmp_path / "index"), PLAIN)
    chosen = filter_where(index, "well = 'W-3'")
    assert chosen is not None
    assert chosen.count == 59
    hits = index.search(kinds_of_vectors(1, seed=9).astype("float32"), count=3, search_filter=chosen)
    table = describe_hits(index, hits, ["query"])
    assert set(table["slide_id"].to_pylist()) == {"a-2"}
    assert set(table["well"].to_pylist()) == {"W-3"}
    assert set(table["measured_depth_m"].to_pylist()) == {2105.0}


def test_suggestions_name_the_corrected_well(store: RunStore, tmp_path: Path) -> None:
    correct(store, tmp_path)
    run_command("suggest", store.url, "--out", tmp_path / "next", "--limit", 12, "--strategy", "random")
    rows = rows_of(tmp_path / "next" / "suggestions.csv")
    assert {(row["slide_id"], row["well"]) for row in rows} == {
        ("a-1", "W-1"),
        ("a-2", "W-3"),
        ("b-1", "W-2"),
    }


def test_the_report_names_the_corrected_well(tmp_path: Path) -> None:
    small = write_small_run(tmp_path / "small", embeddings=False)
    table = tmp_path / "samples.csv"
    table.write_text("slide_id,well,top_depth_m,base_depth_m\nb-2050,W-3,2100,2110\n")
    import_round(table, small.read_catalog(), small.sample_rounds, who="Ada")
    page = write_report(small, tmp_path / "report.html").read_text("utf-8")
    assert "of 3 wells" in page
    assert "W-3" in page
