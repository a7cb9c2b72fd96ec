"""Exports of tiles, COCO and YOLO: the objects of the run, at their places, each counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml
from support.cli_runner import rows_of
from support.exported_run import SIDE, TILE, TILES, WELLS, Box, Key, Made, boxes, inside, made, stored

from fossilray.analysis.export.coco import ANNOTATIONS, export_coco
from fossilray.analysis.export.selection import CORNERS
from fossilray.analysis.export.tiles import TileOptions
from fossilray.analysis.export.yolo import IMAGES_CSV, export_yolo
from fossilray.core.config.choices import SplitBy
from fossilray.core.errors import UnreadableRegion
from fossilray.core.types import Rect
from fossilray.slides.slide import Slide

__all__ = ["boxes", "made", "stored"]


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
    coco = export_coco(made.run, tmp_path / "coco", options=TILES, slides=["b-1"])
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
    yolo = export_yolo(made.run, tmp_path / "yolo", options=TILES, slides=["b-1"]).tiles
    assert (yolo.objects, yolo.lost, yolo.boxes) == (coco.objects, coco.lost, coco.boxes)


def test_background_images_show_no_object_of_the_run_whatever_the_condition(
    made: Made, boxes: dict[Key, Box], tmp_path: Path
) -> None:
    result = export_coco(
        made.run,
        tmp_path / "coco",
        options=TileOptions(tile_px=96, background=0.5),
        where="object_id = 4",
        slides=["d-1"],
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
