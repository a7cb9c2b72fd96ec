"""A run on slides that exist, with boxes of which some reach beyond the scan, for tests of exports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.classified_run import predict
from support.slides_on_disk import write_slide
from support.small_run import MPP, commit_slide, start_run

from fossilray.analysis.export.selection import CORNERS
from fossilray.analysis.export.tiles import TileOptions
from fossilray.core.records import CatalogRow
from fossilray.core.types import Boxes, Rect
from fossilray.slides.slide import open_slide
from fossilray.store import RunStore
from fossilray.store.query.connection import run_query

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
