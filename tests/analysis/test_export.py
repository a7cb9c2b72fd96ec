"""Export of boxes and crops for other programs."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.small_run import BOUNDS, COUNTS, CROP_PX, decode_jpeg, start_run, write_small_run

from fossilray.analysis.export.boxes import export_objects, save_crops
from fossilray.analysis.export.coco import ANNOTATIONS, export_coco
from fossilray.analysis.export.vectors import export_vectors
from fossilray.core.errors import QueryError, StoreError, UsageError
from fossilray.store import RunStore
from fossilray.store.query.connection import run_query


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return write_small_run(tmp_path_factory.mktemp("runs") / "run")


def _rows(store: RunStore, slide_id: str) -> list[dict[str, Any]]:
    return run_query(
        store, f"SELECT * FROM objects WHERE slide_id = '{slide_id}' ORDER BY object_id"
    ).to_pylist()


def _area(ring: list[list[float]]) -> float:
    """Signed area by the shoelace formula."""
    x, y = np.array(ring, dtype=float).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def test_geojson_has_one_collection_per_slide_with_all_its_detections(
    store: RunStore, tmp_path: Path
) -> None:
    assert export_objects(store, tmp_path / "out", form="geojson").objects == sum(COUNTS.values())
    for slide_id, count in COUNTS.items():
        collection = json.loads((tmp_path / "out" / f"{slide_id}.geojson").read_text())
        assert collection["type"] == "FeatureCollection"
        assert len(collection["features"]) == count
        for feature in collection["features"]:
            assert feature["type"] == "Feature"
            assert feature["properties"]["objectType"] == "detection"
            assert all(isinstance(value, float) for value in feature["properties"]["measurements"].values())


def test_geojson_rectangles_are_closed_rings_counted_from_the_scanned_corner(
    store: RunStore, tmp_path: Path
) -> None:
    export_objects(store, tmp_path / "a.geojson", slides=["a-2030"])
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    for feature, row in zip(features, _rows(store, "a-2030"), strict=True):
        (ring,) = feature["geometry"]["coordinates"]
        assert feature["geometry"]["type"] == "Polygon"
        assert len(ring) == 5
        assert ring[0] == ring[-1]
        assert _area(ring) == (row["x_max"] - row["x_min"]) * (row["y_max"] - row["y_min"])
        assert np.min(ring, axis=0).tolist() == [row["x_min"] - BOUNDS.x_min, row["y_min"] - BOUNDS.y_min]
        assert feature["properties"]["measurements"]["score"] == pytest.approx(row["score"])


def test_geojson_without_subtracted_bounds_is_in_openslides_frame(store: RunStore, tmp_path: Path) -> None:
    export_objects(store, tmp_path / "a.json", slides=["a-2030"], subtract_bounds=False)
    first = json.loads((tmp_path / "a.json").read_text())["features"][0]["geometry"]["coordinates"][0][0]
    assert first == [_rows(store, "a-2030")[0][name] for name in ("x_min", "y_min")]


def test_csv_has_a_header_and_a_line_per_object(store: RunStore, tmp_path: Path) -> None:
    export_objects(store, tmp_path / "objects.csv", form="csv", where="score > 0.5 -- the better half")
    with (tmp_path / "objects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = run_query(store, "SELECT count(*) AS n FROM objects WHERE score > 0.5")["n"][0].as_py()
    assert len(rows) == expected > 0
    assert all(float(row["score"]) > 0.5 for row in rows)
    assert {row["well"] for row in rows} == {"6407/6-5"}


def test_an_empty_run_exports_empty_files(tmp_path: Path) -> None:
    empty = start_run(tmp_path / "run")
    assert export_objects(empty, tmp_path / "a.csv", form="csv").objects == 0
    assert (tmp_path / "a.csv").read_text().startswith("slide_id,")
    assert export_objects(empty, tmp_path / "folder", form="geojson").objects == 0
    assert export_coco(empty, tmp_path / "coco").objects == 0
    assert json.loads((tmp_path / "coco" / ANNOTATIONS).read_text())["annotations"] == []


@pytest.mark.parametrize("form", ["geojson", "csv"])
def test_a_wrong_condition_is_refused_before_a_file_is_begun(
    store: RunStore, tmp_path: Path, form: Any
) -> None:
    with pytest.raises(QueryError, match="nonsense"):
        export_objects(store, tmp_path / "out", form=form, where="nonsense > 1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("column", ["opacity", "measured_depth_m"])
def test_a_missing_column_is_named_with_its_file_and_the_remedy(tmp_path: Path, column: str) -> None:
    store = write_small_run(tmp_path / "run")
    path = tmp_path / "run" / store.committed_files()["a-2030"]
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.drop_columns([column]), path)
    for export in (export_objects, export_vectors):
        with pytest.raises(StoreError, match=rf"a-2030.parquet .*has no column {column}.*fossilray verify"):
            export(store, tmp_path / f"{export.__name__}.parquet", slides=["a-2030"])


def test_an_unknown_slide_is_named(store: RunStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="zzz"):
        export_objects(store, tmp_path / "out", slides=["zzz"])


def test_one_geojson_file_for_many_slides_is_refused(store: RunStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folder"):
        export_objects(store, tmp_path / "all.geojson")


def test_a_path_that_cannot_be_written_is_refused(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write"):
        export_objects(store, tmp_path / "file" / "a.csv", form="csv")
    with pytest.raises(UsageError, match="cannot write"):
        save_crops(store, where=None, out=tmp_path / "file" / "crops")


def test_saved_crops_are_the_pixels_of_their_rows(store: RunStore, tmp_path: Path) -> None:
    assert save_crops(store, where="opacity > 0.3", out=tmp_path / "crops") > 0
    rows = run_query(store, "SELECT * FROM objects WHERE opacity > 0.3").to_pylist()
    names = {f"{row['slide_id']}-{row['object_id']:06d}.jpg": row for row in rows}
    assert {file.name for file in (tmp_path / "crops").iterdir()} == set(names)
    for name, row in names.items():
        pixels = decode_jpeg((tmp_path / "crops" / name).read_bytes())
        height, width = pixels.shape[:2]
        assert max(height, width) == CROP_PX
        assert width / height == pytest.approx(row["width_um"] / row["height_um"], abs=0.08)
        assert int(pixels[height // 2, width // 2, 0]) == pytest.approx(row["mean_r"], abs=8)
    save_crops(store, where="opacity > 0.3", out=tmp_path / "square", square=True)
    for name in names:
        assert decode_jpeg((tmp_path / "square" / name).read_bytes()).shape == (CROP_PX, CROP_PX, 3)


def test_limit_bounds_the_number_of_saved_crops(store: RunStore, tmp_path: Path) -> None:
    assert save_crops(store, where=None, out=tmp_path / "crops", limit=7) == 7
    assert len(list((tmp_path / "crops").iterdir())) == 7


def test_a_condition_that_no_object_meets_saves_no_crops(store: RunStore, tmp_path: Path) -> None:
    assert save_crops(store, where="score > 2", out=tmp_path / "crops") == 0
