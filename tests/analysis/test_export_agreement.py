"""Exports of one run agree: the same objects with the same boxes, in the documented frames."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely.geometry
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.classified_run import predict
from support.cli_runner import rows_of
from support.slides_on_disk import write_slide
from support.small_run import CROP_PX, MPP, commit_slide, start_run

from fossilray.analysis.export.anndata import export_anndata
from fossilray.analysis.export.boxes import QUPATH_CORNERS, export_objects, save_crops
from fossilray.analysis.export.coco import ANNOTATIONS, export_coco
from fossilray.analysis.export.image_folder import export_image_folder
from fossilray.analysis.export.selection import CORNERS, clip_to_scan, corners_of
from fossilray.analysis.export.tiles import TileOptions
from fossilray.analysis.export.vectors import export_vectors
from fossilray.analysis.export.yolo import IMAGES_CSV, export_yolo
from fossilray.core.config import StoreConfig
from fossilray.core.config.choices import SplitBy
from fossilray.core.errors import UnreadableRegion
from fossilray.core.records import CatalogRow, SlideSummary
from fossilray.core.types import Boxes, Rect
from fossilray.slides.slide import Slide, open_slide
from fossilray.store import RunStore
from fossilray.store.dataset.compact import compact_run
from fossilray.store.dataset.dataset_store import open_run
from fossilray.store.query.connection import load_embeddings, run_query

SIDE = 2048
WELLS = {"A-1": "6407/6-5", "a-1": "6407/6-5", "b-1": "16/1-2", "c-1": "16/1-2", "d-1": "DONG-1"}
"""Wells by slide_id; two slide_ids differ only in case."""
TILES = TileOptions(tile_px=160, um_per_px=1.0)
TILE = TILES.tile_px * TILES.um_per_px / MPP
Key = tuple[str, int]
Box = tuple[float, ...]


@dataclass(frozen=True)
class Made:
    """A run with slides on disk and arbitrary objects, some of which reach beyond the scan, as in earlier versions."""

    run: RunStore
    bounds: dict[str, Rect]
    overrunning: set[Key]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("agreement")
    run = start_run(folder / "run")
    path = folder / "slides" / "one.mrxs"
    write_slide(path, size=SIDE)
    run.freeze_catalog([CatalogRow(name, str(path), well=well) for name, well in WELLS.items()])
    with open_slide(path, mpp=None) as slide:
        bounds, width, height = slide.info.bounds, slide.info.width, slide.info.height
    assert min(bounds.x_min, bounds.y_min) > 0, "or no frame differs from another"
    overrunning: set[Key] = set()
    for number, (name, well) in enumerate(WELLS.items()):
        boxes = some_boxes(bounds, seed=number, count=(30, 12, 20, 9, 14)[number])
        beyond = (boxes[:, :2] < [bounds.x_min, bounds.y_min]) | (boxes[:, 2:] > [bounds.x_max, bounds.y_max])
        overrunning |= {(name, int(row)) for row in np.flatnonzero(beyond.any(axis=1))}
        properties: dict[str, Any] = {"path": str(path), "width": width, "height": height}
        properties |= {"bounds_x": bounds.x_min, "bounds_y": bounds.y_min}
        properties |= {"bounds_width": bounds.width, "bounds_height": bounds.height}
        scores = np.linspace(0.2, 0.9, len(boxes), dtype=np.float32)
        commit_slide(
            run,
            name,
            count=len(boxes),
            well=well,
            depth_m=2000.0,
            seed=number,
            boxes=Boxes(boxes, scores),
            **properties,
        )
    predict(run, "genera")
    return Made(run, dict.fromkeys(WELLS, bounds), overrunning)


def some_boxes(bounds: Rect, *, seed: int, count: int) -> NDArray[np.float64]:
    """Boxes anywhere; the first four overrun an edge each, the fifth is larger than a tile, the sixth long and thin."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.normal(np.log(120), 0.6, (count, 2))).clip(8, TILE - 1)
    sides[:4] = sides[:4].clip(100)
    sides[4], sides[5] = (TILE * 1.3, TILE * 0.8), (TILE * 0.9, 12)
    low = rng.uniform([bounds.x_min, bounds.y_min], [bounds.x_max, bounds.y_max] - sides)
    low[0, 0], low[1, 1] = bounds.x_min - 20, bounds.y_min - 30
    low[2, 0], low[3, 1] = bounds.x_max - sides[2, 0] + 87, bounds.y_max - sides[3, 1] + 5
    return np.round(np.hstack([low, low + sides]))


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


@pytest.fixture(scope="module")
def stored(made: Made) -> dict[Key, dict[str, Any]]:
    """Rows of Parquet, by object."""
    rows = run_query(made.run, "SELECT * FROM objects").to_pylist()
    return {(row["slide_id"], row["object_id"]): row for row in rows}


@pytest.fixture(scope="module")
def boxes(made: Made, stored: dict[Key, dict[str, Any]]) -> dict[Key, Box]:
    """The boxes that every export must give, in OpenSlide's frame."""
    return {
        key: inside(tuple(row[name] for name in CORNERS), made.bounds[key[0]]) for key, row in stored.items()
    }


def inside(box: Box, bounds: Rect) -> Box:
    return (
        max(box[0], bounds.x_min),
        max(box[1], bounds.y_min),
        min(box[2], bounds.x_max),
        min(box[3], bounds.y_max),
    )


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


def test_coco_has_each_object_once_as_primary_and_whole_if_it_fits_a_tile(
    made: Made, boxes: dict[Key, Box], tmp_path: Path
) -> None:
    result = export_coco(made.run, tmp_path / "coco", options=TILES, head="genera")
    coco = json.loads((tmp_path / "coco" / ANNOTATIONS).read_text(encoding="utf-8"))
    images = {image["id"]: image for image in coco["images"]}
    names = [image["file_name"] for image in coco["images"]]
    assert len({name.casefold() for name in names}) == len(names) == result.images
    primary: dict[Key, Box] = {}
    for annotation in coco["annotations"]:
        key, image = (annotation["slide_id"], annotation["object_id"]), images[annotation["image_id"]]
        assert image["slide_id"] == key[0]
        box = on_slide(annotation["bbox"], image)
        assert all(abs(a - b) <= 1 for a, b in zip(box, clipped_to(boxes[key], image), strict=True)), (
            "the visible part of the box"
        )
        if annotation["primary"]:
            assert key not in primary
            primary[key] = box
            assert annotation["whole"] == fits(boxes[key]), key
    assert set(primary) == set(boxes)
    assert result.objects == len(boxes)
    assert result.boxes == len(coco["annotations"])
    assert result.cut == sum(not fits(box) for box in boxes.values()) == len(WELLS)
    assert (result.lost, result.unreadable, result.clipped) == (0, 0, len(made.overrunning))
    assert (
        result.background
        == len(images) - len({annotation["image_id"] for annotation in coco["annotations"]})
        > 0
    )
    for image in coco["images"]:
        pixels = cv2.imread(str(tmp_path / "coco" / "images" / image["file_name"]))
        assert pixels.shape == (TILES.tile_px, TILES.tile_px, 3)


def on_slide(bbox: list[float], image: dict[str, Any]) -> Box:
    """Convert a box of COCO to OpenSlide's frame, as docs/guide/exports.md describes."""
    scale = (image["x_max"] - image["x_min"]) / image["width"]
    left, top = image["x_min"] + bbox[0] * scale, image["y_min"] + bbox[1] * scale
    return left, top, left + bbox[2] * scale, top + bbox[3] * scale


def clipped_to(box: Box, image: dict[str, Any]) -> Box:
    square = Rect(*(float(image[name]) for name in CORNERS))  # type: ignore[arg-type]
    return inside(box, square)


def fits(box: Box) -> bool:
    return max(box[2] - box[0], box[3] - box[1]) <= TILE


@pytest.mark.parametrize("by", ["auto", "well"])
def test_yolo_has_every_object_and_keeps_wells_whole(
    made: Made, boxes: dict[Key, Box], tmp_path: Path, by: SplitBy
) -> None:
    out = tmp_path / "yolo"
    result = export_yolo(made.run, out, options=TILES, validation=0.3, split_by=by)
    rows = rows_of(out / IMAGES_CSV)
    assert {row["file"] for row in rows} == {
        str(path.relative_to(out)) for path in (out / "images").rglob("*.jpg")
    }
    assert len({row["file"].casefold() for row in rows}) == len(rows) == result.tiles.images
    found: Counter[Key] = Counter()
    total = 0
    for row in rows:
        image = {name: float(row[name]) for name in CORNERS}
        lines = (out / row["file"].replace("images/", "labels/")).with_suffix(".txt").read_text().splitlines()
        assert len(lines) == int(row["boxes"])
        total += len(lines)
        side = image["x_max"] - image["x_min"]
        for line in lines:
            x, y, width, height = (float(value) * side for value in line.split()[1:])
            low = (image["x_min"] + x - width / 2, image["y_min"] + y - height / 2)
            box = (*low, low[0] + width, low[1] + height)
            (same, *_) = [
                key
                for key, other in boxes.items()
                if key[0] == row["slide_id"]
                and all(abs(a - b) <= 1 for a, b in zip(clipped_to(other, image), box, strict=True))
            ]
            whole = all(abs(a - b) <= 1 for a, b in zip(boxes[same], box, strict=True))
            found[same] += whole or not fits(boxes[same])
    assert set(found) == set(boxes)
    assert min(found.values()) >= 1, "an object that fits an image is whole in none"
    assert (result.tiles.objects, result.tiles.boxes, result.tiles.lost) == (len(boxes), total, 0)
    subsets: dict[str, set[str]] = {}
    for row in rows:
        subsets.setdefault(row["well"], set()).add(row["part"])
    if result.split.by == "well":
        assert all(len(of_well) == 1 for of_well in subsets.values())
    share = result.validation / result.tiles.images
    assert share == pytest.approx(0.3, abs=0.08)
    assert f"{share:.1%}" in (out / "data.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))["val"] == "images/val"
    assert 0 < result.tiles.background / result.tiles.images <= TILES.background + 0.02


def test_objects_in_unreadable_regions_are_counted_and_others_are_kept(
    made: Made, boxes: dict[Key, Box], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    middle = made.bounds["b-1"].x_min + SIDE // 2
    read = Slide.read

    def fail_on_the_right(self: Slide, level: int, x: int, y: int, width: int, height: int) -> Any:
        if x > middle:
            raise UnreadableRegion("a scratch")
        return read(self, level, x, y, width, height)

    monkeypatch.setattr(Slide, "read", fail_on_the_right)
    of_slide = {key for key in boxes if key[0] == "b-1"}
    coco = export_coco(made.run, tmp_path / "coco", options=TILES, slide="b-1")
    content = json.loads((tmp_path / "coco" / ANNOTATIONS).read_text(encoding="utf-8"))
    assert coco.unreadable > 0
    assert coco.lost > 0
    assert coco.objects + coco.lost == len(of_slide)
    assert {image["id"] for image in content["images"]} >= {
        annotation["image_id"] for annotation in content["annotations"]
    }
    assert {image["file_name"] for image in content["images"]} == {
        path.name for path in (tmp_path / "coco" / "images").iterdir()
    }
    assert sum(annotation["primary"] for annotation in content["annotations"]) == coco.objects
    yolo = export_yolo(made.run, tmp_path / "yolo", options=TILES, slide="b-1").tiles
    assert (yolo.objects, yolo.lost, yolo.boxes) == (coco.objects, coco.lost, coco.boxes)


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


def test_background_images_show_no_object_of_the_run_whatever_the_condition(
    made: Made, boxes: dict[Key, Box], tmp_path: Path
) -> None:
    result = export_coco(
        made.run,
        tmp_path / "coco",
        options=TileOptions(tile_px=96, background=0.5),
        where="object_id = 4",
        slide="d-1",
    )
    coco = json.loads((tmp_path / "coco" / ANNOTATIONS).read_text(encoding="utf-8"))
    taken = {annotation["image_id"] for annotation in coco["annotations"]}
    free = [image for image in coco["images"] if image["id"] not in taken]
    assert result.objects == 1
    assert result.background == len(free) > 0
    for image in free:
        for box in (box for key, box in boxes.items() if key[0] == "d-1"):
            left, top, right, bottom = clipped_to(box, image)
            assert left >= right or top >= bottom


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
    export_vectors(made.run, out, slide="b-1", where="object_id < 5")
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
