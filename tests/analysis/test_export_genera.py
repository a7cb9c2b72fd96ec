"""Export of boxes with predicted genera."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from support.classified_run import GENERA, predict
from support.cli_runner import invoke
from support.small_run import COUNTS, WELL, commit_slide, write_small_run

from fossilray.analysis.export.boxes import export_objects, save_crops
from fossilray.core.config.choices import NO_PREDICTIONS
from fossilray.core.errors import QueryError, RunNotFound, UsageError
from fossilray.store import RunStore
from fossilray.store.query.connection import run_query


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    run = write_small_run(tmp_path_factory.mktemp("runs") / "run")
    predict(run, "genera")
    return run


def genera_of(store: RunStore, slide_id: str) -> list[str | None]:
    sql = f"SELECT genus FROM predictions WHERE slide_id = '{slide_id}' ORDER BY object_id"
    return run_query(store, sql)["genus"].to_pylist()


def test_qupath_gets_the_genus_as_a_class_and_its_probability_as_a_measurement(
    store: RunStore, tmp_path: Path
) -> None:
    export_objects(store, tmp_path / "a.geojson", slides=["a-2030"], head="genera")
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    genera = [feature["properties"].get("classification", {}).get("name") for feature in features]
    assert genera == genera_of(store, "a-2030")
    for feature, genus in zip(features, genera, strict=True):
        assert ("genus_score" in feature["properties"]["measurements"]) == (genus is not None)
    export_objects(store, tmp_path / "bare.geojson", slides=["a-2030"], head=NO_PREDICTIONS)
    assert "classification" not in (tmp_path / "bare.geojson").read_text()


def test_the_newest_predictions_are_exported_by_default_and_none_leaves_them_out(tmp_path: Path) -> None:
    run = write_small_run(tmp_path / "run")
    export = ("export", run.url, "--format", "csv")
    invoke(*export, "--out", tmp_path / "unclassified.csv")
    predict(run, "genera")
    invoke(*export, "--out", tmp_path / "newest.csv")
    invoke(*export, "--predictions", "genera", "--out", tmp_path / "named.csv")
    invoke(*export, "--predictions", NO_PREDICTIONS, "--out", tmp_path / "none.csv")
    unclassified, newest, named, none = (
        (tmp_path / f"{name}.csv").read_bytes() for name in ("unclassified", "newest", "named", "none")
    )
    assert newest == named != none
    assert none == unclassified


def test_predictions_cannot_have_the_name_that_stands_for_none(tmp_path: Path) -> None:
    run = write_small_run(tmp_path / "run")
    with pytest.raises(UsageError, match="another --name"):
        predict(run, NO_PREDICTIONS)
    assert not list((tmp_path / "run").glob("predictions/*"))


@pytest.mark.parametrize("words", [("chart", "--well", WELL), ("calls",)])
def test_a_command_that_needs_predictions_refuses_none(
    store: RunStore, tmp_path: Path, words: tuple[str, ...]
) -> None:
    result = invoke(words[0], store.url, *words[1:], "--predictions", "none", "--out", tmp_path / "out.csv")
    assert isinstance(result.exception, UsageError)
    assert "--predictions is none" in str(result.exception)


def test_slides_are_exported_by_name(store: RunStore, tmp_path: Path) -> None:
    options = ("--slide", "a-2030", "--slide", "b-2050", "--out", tmp_path / "boxes")
    assert invoke("export", store.url, *options).exit_code == 0
    assert {path.stem for path in (tmp_path / "boxes").iterdir()} == {"a-2030", "b-2050"}
    with pytest.raises(UsageError, match="no committed slide lost, nowhere"):
        export_objects(store, tmp_path / "out", slides=["a-2030", "nowhere", "lost"])


def test_a_csv_has_the_genus_in_columns_and_a_condition_may_name_it(store: RunStore, tmp_path: Path) -> None:
    count = export_objects(store, tmp_path / "a.csv", form="csv", head="genera", where="genus = 'Alnus'")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert count.objects == len(rows) == sum(genera_of(store, slide_id).count("Alnus") for slide_id in COUNTS)
    assert {row["genus"] for row in rows} == {"Alnus"}
    assert all(0 < float(row["genus_score"]) <= 1 for row in rows)
    with pytest.raises(QueryError, match="genus"):
        export_objects(store, tmp_path / "b.csv", form="csv", where="genus = 'Alnus'", head=NO_PREDICTIONS)


def test_a_head_that_the_run_lacks_is_refused_with_those_it_has(store: RunStore, tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="no predictions named other; it has: genera"):
        export_objects(store, tmp_path / "out", head="other")


def test_objects_of_a_reprocessed_slide_have_no_genus(tmp_path: Path) -> None:
    run = write_small_run(tmp_path / "run")
    predict(run, "genera")
    run.files.delete(run.committed_files()["a-2030"])
    commit_slide(run, "a-2030", count=7, well=WELL, depth_m=2030.0, seed=9)
    run.rebuild_summaries()
    export_objects(run, tmp_path / "a.csv", form="csv", head="genera")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["genus"] for row in rows if row["slide_id"] == "a-2030"} == {""}
    assert {row["genus"] for row in rows if row["slide_id"] == "b-2050"} <= {*GENERA, ""}
    assert len(rows) == sum(COUNTS.values()) - COUNTS["a-2030"] + 7


def test_crops_of_a_genus_are_saved(store: RunStore, tmp_path: Path) -> None:
    where = "(slide_id, object_id) IN (SELECT (slide_id, object_id) FROM predictions WHERE genus = 'Alnus')"
    count = save_crops(store, where=where, out=tmp_path / "alnus")
    assert count == sum(genera_of(store, slide_id).count("Alnus") for slide_id in COUNTS)
    assert len(list((tmp_path / "alnus").iterdir())) == count
