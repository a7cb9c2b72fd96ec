"""Asking a run: views, results as files, the way from a row to its pixels."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from rich.console import Console
from support.classified_run import predict
from support.irregular_files import irregular
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.small_run import (
    COUNTS,
    CROP_PX,
    DIMENSION,
    HOSTILE_WELL,
    WELL,
    commit_slide,
    start_run,
    write_small_run,
)

from fossilray.core.config import StoreConfig
from fossilray.core.errors import QueryError, RunNotFound
from fossilray.core.records import CatalogRow, ExtraValue
from fossilray.core.schemas import OBJECTS_SCHEMA, SLIDES_SCHEMA
from fossilray.render.tables import encode_table, print_table
from fossilray.store import RunStore
from fossilray.store.query.connection import (
    connect,
    create_objects_view,
    load_crops,
    load_embeddings,
    run_query,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return write_small_run(tmp_path_factory.mktemp("runs") / "run [1]* it's 50%")


def test_every_committed_object_is_counted_once(store: RunStore) -> None:
    found = run_query(
        store, "SELECT slide_id, count(*) AS n FROM objects GROUP BY slide_id ORDER BY slide_id"
    )
    assert found.to_pylist() == [{"slide_id": name, "n": n} for name, n in COUNTS.items() if n]


def test_objects_have_the_columns_of_the_schema_and_the_well_as_it_is_named(store: RunStore) -> None:
    found = run_query(store, "SELECT * FROM objects")
    assert found.column_names == [*OBJECTS_SCHEMA.names, "well"]
    assert set(found["well"].to_pylist()) == {WELL}


def test_slides_join_objects_and_keep_hostile_names(store: RunStore) -> None:
    slides = run_query(store, "SELECT * FROM slides")
    assert slides.schema.names == [*SLIDES_SCHEMA.names, "copy_of"]
    assert HOSTILE_WELL in slides["well"].to_pylist()
    joined = run_query(
        store,
        "SELECT slide_id, any_value(slides.objects) AS said, count(*) AS n "
        "FROM objects JOIN slides USING (slide_id) GROUP BY slide_id",
    )
    assert all(row["said"] == row["n"] for row in joined.to_pylist())


def test_failures_and_catalog_are_there_to_ask(store: RunStore) -> None:
    failed = run_query(store, "SELECT slide_id, quarantined FROM failures ORDER BY slide_id").to_pylist()
    assert failed == [
        {"slide_id": "e-broken", "quarantined": False},
        {"slide_id": "f-poison", "quarantined": True},
    ]
    waiting = run_query(store, "SELECT count(*) AS n FROM catalog ANTI JOIN slides USING (slide_id)")
    assert waiting["n"][0].as_py() == 2


def test_a_well_that_looks_like_a_number_is_text(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    commit_slide(store, "a-2030", count=2, well="34", depth_m=1.0, seed=0)
    found = run_query(store, "SELECT well FROM objects WHERE well = '34'")
    assert found["well"].to_pylist() == ["34", "34"]
    assert found.schema.field("well").type == pa.string()


def test_a_run_below_a_folder_that_looks_like_a_partition_keeps_its_own_wells(tmp_path: Path) -> None:
    store = start_run(tmp_path / "well=other" / "site=3" / "run")
    commit_slide(store, "a-2030", count=2, well=WELL, depth_m=1.0, seed=0)
    found = run_query(store, "SELECT * FROM objects")
    assert found.column_names == [*OBJECTS_SCHEMA.names, "well"]
    assert set(found["well"].to_pylist()) == {WELL}


def test_a_run_without_a_commit_is_an_empty_table_of_the_same_types(store: RunStore, tmp_path: Path) -> None:
    empty = start_run(tmp_path / "run")
    for view in ("objects", "slides", "failures", "catalog"):
        got = run_query(empty, f"SELECT * FROM {view}").schema
        assert got.equals(run_query(store, f"SELECT * FROM {view}").schema)
    assert run_query(empty, "SELECT avg(score) AS mean FROM objects").to_pylist() == [{"mean": None}]


def test_columns_of_the_users_catalog_are_columns_of_slides_and_catalog(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run")
    extra = (ExtraValue("Lithology (core)", "shale"), ExtraValue("Score", "7"), ExtraValue("=1+1", "=2"))
    run.freeze_catalog([CatalogRow("a", "a.mrxs", extra=extra), CatalogRow("b", "b.mrxs")])
    sql = 'SELECT "Lithology (core)", catalog_Score, "=1+1" FROM {} WHERE length(slide_id) = 1 ORDER BY slide_id'
    first = {"Lithology (core)": "shale", "catalog_Score": "7", "=1+1": "=2"}
    assert run_query(run, sql.format("slides")).to_pylist() == []
    commit_slide(run, "a", count=2, well=WELL, depth_m=None, seed=1, extra=extra)
    assert run_query(run, sql.format("slides")).to_pylist() == [first]
    assert run_query(run, sql.format("catalog")).to_pylist() == [first, dict.fromkeys(first)]
    joined = run_query(run, "SELECT score, catalog_Score FROM objects JOIN slides USING (slide_id)")
    assert set(joined["catalog_Score"].to_pylist()) == {"7"}
    assert encode_table(run_query(run, sql.format("slides")), "csv").startswith(
        b'"Lithology (core)","catalog_Score","\'=1+1"\n"shale","7","\'=2"'
    )


def test_asking_where_no_run_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="run"):
        run_query(RunStore.open(str(tmp_path)), "SELECT 1")


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT nonsense FROM objects", "SELECT * FROM nowhere", ""])
def test_refused_sql_is_one_sentence_that_names_the_views(store: RunStore, sql: str) -> None:
    with pytest.raises(QueryError, match="objects, slides, samples, failures, catalog") as caught:
        run_query(store, sql)
    assert "\n" not in str(caught.value)


def test_nothing_is_downloaded_for_a_query(store: RunStore) -> None:
    with pytest.raises(QueryError):
        run_query(store, "SELECT * FROM read_parquet('s3://nowhere/x.parquet')")


def test_chosen_slides_alone_can_be_shown(store: RunStore) -> None:
    con = connect(store)
    files = store.committed_files()
    create_objects_view(con, store, {name: files[name] for name in ("c-2080", "d-empty")})
    assert con.execute("SELECT slide_id, count(*) FROM objects GROUP BY 1").fetchall() == [("c-2080", 12)]
    create_objects_view(con, store, {})
    assert con.execute("SELECT count(*) FROM objects").fetchall() == [(0,)]


def test_rows_find_their_pixels_and_vectors_in_their_own_order(store: RunStore) -> None:
    chosen = run_query(
        store, "SELECT arrays, object_id, opacity, mean_r FROM objects ORDER BY opacity DESC LIMIT 30"
    )
    crops, vectors = load_crops(store, chosen), load_embeddings(store, chosen)
    assert crops.shape == (30, CROP_PX, CROP_PX, 3)
    assert vectors.shape == (30, DIMENSION)
    middle = crops[:, CROP_PX // 2, CROP_PX // 2, 0].astype(float)
    np.testing.assert_allclose(middle, chosen["mean_r"].to_numpy(), atol=6)
    assert np.corrcoef(vectors.mean(axis=1).astype(float), middle)[0, 1] > 0.9


def test_a_run_in_an_object_store_answers_as_one_on_a_disk(
    s3_run: tuple[str, StoreConfig],  # noqa: F811
) -> None:
    url, config = s3_run
    remote = write_small_run(url, config=config, counts={"a-2030": 5, "d-empty": 3})
    sql = "SELECT well, slide_id, count(*) AS n FROM objects GROUP BY ALL ORDER BY n DESC"
    assert run_query(remote, sql).to_pylist() == [
        {"well": WELL, "slide_id": "a-2030", "n": 5},
        {"well": HOSTILE_WELL, "slide_id": "d-empty", "n": 3},
    ]
    chosen = run_query(remote, "SELECT * FROM objects WHERE object_id = 2")
    assert load_crops(remote, chosen).shape == (2, CROP_PX, CROP_PX, 3)
    assert load_embeddings(remote, chosen).shape == (2, DIMENSION)


def test_a_result_without_the_way_to_its_arrays_is_refused(store: RunStore) -> None:
    with pytest.raises(QueryError, match="arrays"):
        load_crops(store, run_query(store, "SELECT object_id FROM objects"))


def test_a_result_without_rows_has_no_crops(store: RunStore) -> None:
    assert len(load_crops(store, run_query(store, "SELECT * FROM objects WHERE false"))) == 0


def test_asking_for_vectors_of_a_run_without_them_says_why(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run", counts={"a-2030": 3}, embeddings=False)
    with pytest.raises(QueryError, match=r"embedder\.weights"):
        load_embeddings(store, run_query(store, "SELECT * FROM objects"))


def test_results_come_as_csv_json_and_parquet(store: RunStore) -> None:
    table = run_query(
        store,
        "SELECT slide_id, score, measured_depth_m, [1, 2] AS list, 'a\"b,c' AS text FROM objects ORDER BY 1, 2",
    )
    assert (
        csv.read_csv(io.BytesIO(encode_table(table, "csv")))["text"].to_pylist() == table["text"].to_pylist()
    )
    assert json.loads(encode_table(table, "json")) == table.to_pylist()
    assert parquet.read_table(io.BytesIO(encode_table(table, "parquet"))).equals(table)


def test_json_holds_no_nan_and_tells_dates_as_text(store: RunStore) -> None:
    table = run_query(store, "SELECT 'nan'::DOUBLE AS x, DATE '2026-01-02' AS d, 1.5::DECIMAL(4, 2) AS m")
    assert json.loads(encode_table(table, "json")) == [{"x": None, "d": "2026-01-02", "m": 1.5}]


def test_the_terminal_gets_no_markup_and_no_escape_from_a_name() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    print_table(pa.table({"name": ["[red]x[/]", "a\x1b[2Jb", None], "n": [1, 2, 3]}), console=console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]x[/]" in shown
    assert "\x1b" not in shown
    assert "3 rows" in shown


def test_a_long_result_is_cut_and_says_so() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_table(pa.table({"n": list(range(500))}), console=console, most_rows=10)
    assert "490 more rows" in console.file.getvalue()  # type: ignore[attr-defined]


@irregular
def test_what_is_no_file_in_place_of_an_objects_file_is_reported_and_left_out(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    run = write_small_run(tmp_path / "run")
    predict(run, "head")
    run.rebuild_summaries()
    objects = Path(run.root, run.committed_files()["a-2030"])
    predicted = Path(run.root, "predictions", "head", *objects.parts[-2:])
    for path in (objects, predicted):
        path.unlink()
        make(path)
    store = RunStore.open(run.url)
    counted = run_query(store, "SELECT count(*) AS n, count(DISTINCT slide_id) AS slides FROM objects")
    assert "a-2030" not in run_query(store, "SELECT DISTINCT slide_id FROM objects")["slide_id"].to_pylist()
    assert counted["n"][0].as_py() == 37
    (message,) = [message for message in store.left_out.messages if "objects/" in message]
    assert "a-2030.parquet cannot be used: it is a" in message
    assert run_query(store, "SELECT count(*) AS n FROM predictions")["n"][0].as_py() > 0
    (message,) = [message for message in store.left_out.messages if "predictions/" in message]
    assert "a-2030.parquet cannot be used: it is a" in message


def test_files_in_place_are_regular(tmp_path: Path) -> None:
    run = write_small_run(tmp_path / "run")
    (tmp_path / "run" / "objects" / "linked.parquet").symlink_to(
        Path(run.root, run.committed_files()["a-2030"])
    )
    assert run.files.irregular("objects") == []
    assert run.files.irregular("absent") == []
    (tmp_path / "run" / "objects" / "well=W" / "b.parquet").mkdir(parents=True)
    assert run.files.irregular("objects") == ["objects/well=W/b.parquet"]
