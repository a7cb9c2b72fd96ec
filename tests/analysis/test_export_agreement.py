"""Exports of one run agree: the same objects with the same boxes, in the documented frames."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely.geometry
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cli_runner import rows_of
from support.exported_run import TILES, WELLS, Box, Key, Made, boxes, made, stored
from support.small_run import CROP_PX, MPP

from fossilray.analysis.export.anndata import export_anndata
from fossilray.analysis.export.boxes import QUPATH_CORNERS, export_objects, save_crops
from fossilray.analysis.export.coco import ANNOTATIONS, export_coco
from fossilray.analysis.export.image_folder import export_image_folder
from fossilray.analysis.export.selection import CORNERS, clip_to_scan, corners_of
from fossilray.analysis.export.vectors import export_vectors
from fossilray.core.config import StoreConfig
from fossilray.core.records import SlideSummary
from fossilray.store.dataset.compact import compact_run
from fossilray.store.dataset.dataset_store import open_run
from fossilray.store.query.connection import load_embeddings, run_query

__all__ = ["boxes", "made", "stored"]


edges = st.integers(-300, 1300)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(edges, edges, st.integers(0, 900), st.integers(0, 900)), max_size=6))
def test_boxes_are_clipped_to_the_scan_and_never_vanish(generated: list[tuple[int, int, int, int]]) -> None:
    summary = replace(an_empty_summary(), bounds_x=100, bounds_y=50, bounds_width=900, bounds_height=700)
    before = np.array([(x, y, x + width, y + height) for x, y, width, height in generated], np.int32).reshape(
        -1, 4
    )
    table = pa.table({name: before[:, axis] for axis, name in enumerate(CORNERS)})
    clipped, count = clip_to_scan(table, summary)
    after = corners_of(clipped)
    assert clipped.schema == table.schema
    assert count == (after != before).any(axis=1).sum()
    assert (after[:, :2] >= [100, 50]).all()
    assert (after[:, 2:] <= [1000, 750]).all()
    assert (after[:, 2:] > after[:, :2]).all()
    assert clip_to_scan(clipped, summary)[1] == 0
    inner = (before[:, 2:] > before[:, :2]).all(axis=1)
    inner &= (before[:, :2] >= [100, 50]).all(axis=1) & (before[:, 2:] <= [1000, 750]).all(axis=1)
    assert (after[inner] == before[inner]).all()


def an_empty_summary() -> SlideSummary:
    zeros = {"str": "", "int": 0, "float": 0.0}
    return SlideSummary(**{field.name: zeros.get(str(field.type)) for field in fields(SlideSummary)})  # type: ignore[arg-type]


def test_csv_has_openslides_frame_and_qupaths_in_columns_of_their_own(
    made: Made, stored: dict[Key, dict[str, Any]], boxes: dict[Key, Box], tmp_path: Path
) -> None:
    result = export_objects(made.run, tmp_path / "a.csv", form="csv")
    rows = {(row["slide_id"], int(row["object_id"])): row for row in rows_of(tmp_path / "a.csv")}
    assert result.objects == len(rows) == len(boxes)
    assert result.clipped == len(made.overrunning) >= 4 * len(WELLS)
    for key, row in rows.items():
        bounds = made.bounds[key[0]]
        assert tuple(float(row[name]) for name in CORNERS) == boxes[key]
        shifted = (bounds.x_min, bounds.y_min) * 2
        assert [int(row[name]) for name in QUPATH_CORNERS] == [
            corner - origin for corner, origin in zip(boxes[key], shifted, strict=True)
        ]
        assert float(row["width_um"]) == pytest.approx((boxes[key][2] - boxes[key][0]) * MPP, rel=1e-5)
        assert float(row["area_um2"]) == pytest.approx(
            float(row["width_um"]) * float(row["height_um"]), rel=1e-4
        )
        if key not in made.overrunning:
            assert [float(row[name]) for name in CORNERS] == [stored[key][name] for name in CORNERS]
        else:
            assert row["touches_edge"] == "True"


@pytest.mark.parametrize("subtract", [True, False])
def test_geojson_is_in_qupaths_frame_or_in_openslides(
    made: Made, boxes: dict[Key, Box], tmp_path: Path, subtract: bool
) -> None:
    result = export_objects(made.run, tmp_path / "geo", subtract_bounds=subtract)
    assert result.clipped == len(made.overrunning)
    files = list((tmp_path / "geo").iterdir())
    assert len({file.name.casefold() for file in files}) == len(files) == len(WELLS)
    seen: dict[Key, Box] = {}
    for file in files:
        for feature in json.loads(file.read_text(encoding="utf-8"))["features"]:
            shape = shapely.geometry.shape(feature["geometry"])
            assert shape.is_valid
            slide_id, _, number = feature["properties"]["name"].rpartition(" #")
            bounds = made.bounds[slide_id]
            shift = (bounds.x_min, bounds.y_min) * 2 if subtract else (0,) * 4
            seen[slide_id, int(number)] = tuple(a + b for a, b in zip(shape.bounds, shift, strict=True))
            if subtract:
                assert min(shape.bounds[:2]) >= 0
                assert shape.bounds[2] <= bounds.width
                assert shape.bounds[3] <= bounds.height
    assert seen == boxes


def test_exports_of_a_dataset_equal_those_of_its_run(made: Made, tmp_path: Path) -> None:
    compact_run(made.run, str(tmp_path / "dataset"), access=StoreConfig(), slides_per_file=2, embeddings=True)
    dataset = open_run(str(tmp_path / "dataset"))
    for store, name in ((made.run, "run"), (dataset, "compacted")):
        export_coco(store, tmp_path / name, options=TILES)
        export_vectors(store, tmp_path / f"{name}.parquet")
    assert (tmp_path / "run" / ANNOTATIONS).read_bytes() == (
        tmp_path / "compacted" / ANNOTATIONS
    ).read_bytes()
    assert pq.read_table(tmp_path / "run.parquet").equals(pq.read_table(tmp_path / "compacted.parquet"))


def test_anndata_and_vectors_hold_the_same_objects_in_openslides_frame(
    made: Made, boxes: dict[Key, Box], tmp_path: Path
) -> None:
    import anndata

    result = export_anndata(made.run, tmp_path / "a.h5ad")
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    keys = list(zip(read.obs["slide_id"], read.obs["object_id"].tolist(), strict=True))
    assert (result.objects, result.clipped) == (len(boxes), len(made.overrunning))
    assert set(keys) == set(boxes)
    for key, corners, middle in zip(
        keys, read.obs[list(CORNERS)].to_numpy().tolist(), read.obsm["spatial"].tolist(), strict=True
    ):
        assert tuple(corners) == boxes[key]
        assert middle == [(corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2]
    vectors = export_vectors(made.run, tmp_path / "v.parquet")
    table = pq.read_table(tmp_path / "v.parquet")
    assert vectors.objects == table.num_rows == len(boxes)
    row_of = {key: row for row, key in enumerate(keys)}
    order = [
        row_of[key] for key in zip(table["slide_id"].to_pylist(), table["object_id"].to_pylist(), strict=True)
    ]
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), read.X[order])


def test_image_folder_and_crops_show_the_fossil_in_its_proportions(
    made: Made, stored: dict[Key, dict[str, Any]], boxes: dict[Key, Box], tmp_path: Path
) -> None:
    result = export_image_folder(made.run, tmp_path / "folder", head="genera")
    rows = rows_of(tmp_path / "folder" / "objects.csv")
    assert result.objects == len(rows)
    assert result.without_genus == len(boxes) - len(rows) == len(WELLS)
    assert save_crops(made.run, where=None, out=tmp_path / "crops") == len(boxes)
    files = list((tmp_path / "crops").iterdir())
    assert len({file.name.casefold() for file in files}) == len(boxes)
    for row in rows:
        key = (row["slide_id"], int(row["object_id"]))
        assert tuple(float(row[name]) for name in CORNERS) == boxes[key]
        image = cv2.imread(str(tmp_path / "folder" / row["file"]))
        same = cv2.imread(str(tmp_path / "crops" / Path(row["file"]).name))
        assert np.array_equal(image, same)
        across, down = stored[key]["width_um"], stored[key]["height_um"]
        height, width = image.shape[:2]
        assert max(height, width) == CROP_PX
        assert (width >= height) == (across >= down) or abs(across / down - 1) < 0.05
        if min(height, width) > 8:
            assert width / height == pytest.approx(across / down, rel=0.09)


def test_vectors_are_float32_that_duckdb_reads_by_name(made: Made, tmp_path: Path) -> None:
    import duckdb

    out = tmp_path / "v.parquet"
    export_vectors(made.run, out, slides=["b-1"], where="object_id < 5")
    rows = run_query(
        made.run, "SELECT * FROM objects WHERE slide_id = 'b-1' AND object_id < 5 ORDER BY object_id"
    )
    read = duckdb.sql(f"SELECT * FROM '{out}' ORDER BY object_id")
    assert read.columns == ["slide_id", "object_id", "embedding"]
    assert str(read.types[2]) == "FLOAT[]"
    seen = np.array([row[2] for row in read.fetchall()], np.float32)
    assert np.array_equal(seen, load_embeddings(made.run, rows).astype(np.float32))
    assert json.loads(pq.read_schema(out).metadata[b"fossilray"])["run"] == made.run.url
    assert export_vectors(made.run, tmp_path / "none.parquet", where="false").objects == 0
    assert pq.read_table(tmp_path / "none.parquet").column_names == ["slide_id", "object_id", "embedding"]
