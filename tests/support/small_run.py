"""A small finished run, written through the real store: four slides over two wells, painted pixels."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image as Pillow
from support.run_fixtures import a_summary

from fossilray.core.config import CropsConfig, EmbedderConfig, RunConfig, StoreConfig
from fossilray.core.records import CatalogRow, Failure, SlideSummary
from fossilray.core.schemas import OBJECTS_SCHEMA
from fossilray.core.types import Boxes, Rect
from fossilray.render.slide_overview import draw_boxes
from fossilray.store import RunStore
from fossilray.store.arrays.group import ArrayWriter
from fossilray.store.run.run_record import describe_run

WELL = "6407/6-5"
HOSTILE_WELL = "<script>alert('well')</script> & \"Söhne\""
HOSTILE_PATH = "slides/<img src=x onerror=alert(1)> 'it\"s' $\\alpha$.mrxs"
BOUNDS = Rect(3000, 5000, 15000, 13000)
MPP = 0.25
CROP_PX = 32
DIMENSION = 12
COUNTS = {"a-2030": 40, "b-2050": 25, "c-2080": 12, "d-empty": 0}


def write_small_run(
    folder: Path | str,
    *,
    config: StoreConfig | None = None,
    counts: dict[str, int] | None = None,
    embeddings: bool = True,
) -> RunStore:
    """A run with the slides of COUNTS committed, one slide failed and one quarantined."""
    store = start_run(folder, config=config, embeddings=embeddings)
    depths = iter((2030.0, 2050.0, 2080.0, None, 2100.0, 2110.0))
    for number, (slide_id, count) in enumerate((counts or COUNTS).items()):
        well = HOSTILE_WELL if slide_id.startswith("d") else WELL
        commit_slide(
            store,
            slide_id,
            count=count,
            well=well,
            depth_m=next(depths, None),
            seed=number,
            embeddings=embeddings,
        )
    for slide_id, quarantined in (("e-broken", False), ("f-poison", True)):
        attempt = store.attempts.start(slide_id, deadline_s=60)
        store.attempts.record_failure(
            Failure(
                slide_id=slide_id,
                attempt=attempt.attempt,
                stage="open",
                error="NotASlide" if not quarantined else "WorkerDied",
                message="OpenSlide cannot read <b>this</b> file",
                transient=False,
                quarantined=quarantined,
                host="here",
                failed_at="2026-01-02T03:04:05+00:00",
            )
        )
    return store


def start_run(folder: Path | str, *, config: StoreConfig | None = None, embeddings: bool = True) -> RunStore:
    """A run with a catalog and nothing committed."""
    store = RunStore.open(str(folder), config)
    embedder = EmbedderConfig(weights="bundled" if embeddings else "none")
    settings = RunConfig(crops=CropsConfig(size_px=CROP_PX), embedder=embedder)
    store.create_or_check(describe_run(settings, {"detector": "ab" * 32}))
    names = [*COUNTS, "e-broken", "f-poison"]
    store.freeze_catalog([CatalogRow(slide_id=name, path=f"slides/{name}.mrxs", well=WELL) for name in names])
    return store


def commit_slide(
    store: RunStore,
    slide_id: str,
    *,
    count: int,
    well: str,
    depth_m: float | None,
    seed: int,
    embeddings: bool = True,
    boxes: Boxes | None = None,
    **facts: Any,
) -> None:
    """Commit one slide of `count` painted objects, with arrays and picture.

    boxes: level-0 px; drawn at random where none are given. facts: fields of the summary that differ.
    """
    rng = np.random.default_rng(seed)
    attempt = store.attempts.start(slide_id, deadline_s=600)
    writer = ArrayWriter(
        store,
        slide_id,
        attempt.attempt,
        count=count,
        crops=CropsConfig(size_px=CROP_PX),
        dimension=DIMENSION if embeddings else None,
    )
    shades = rng.uniform(0.15, 0.95, count)
    if count:
        vectors = rng.normal(size=(count, DIMENSION)) * 0.2 + shades[:, None]
        writer.write(
            0,
            np.stack([paint(shade) for shade in shades]),
            vectors.astype(np.float16) if embeddings else None,
        )
    files = writer.finish()
    boxes = boxes or _scatter(rng, count)
    summary = replace(
        _summarise(slide_id, count=count, well=well, depth_m=depth_m, attempt=attempt.attempt), **facts
    )
    table = _objects(slide_id, files.path, boxes, depth_m=depth_m, shades=shades)
    assert store.commit_slide(table, replace(summary, array_bytes=files.total_bytes), files)
    overview = np.full((200, 300, 3), (226, 222, 219), np.uint8)
    store.write_picture(slide_id, draw_boxes(overview, BOUNDS, boxes, mpp=MPP))


def paint(shade: float) -> NDArray[np.uint8]:
    """A brown disc on clear field, darker for a smaller shade."""
    y, x = np.mgrid[:CROP_PX, :CROP_PX] - (CROP_PX - 1) / 2
    inside = (np.hypot(x, y) < CROP_PX * 0.42)[..., None]
    field = np.array([226.0, 222, 219])
    return np.where(inside, field * np.array([1.0, 0.8, 0.5]) * shade, field).astype(np.uint8)


def decode_jpeg(jpeg: bytes) -> NDArray[np.uint8]:
    """The pixels of a JPEG file."""
    return np.asarray(Pillow.open(io.BytesIO(jpeg)).convert("RGB"))


def _scatter(rng: np.random.Generator, count: int) -> Boxes:
    centre = rng.uniform(
        (BOUNDS.x_min + 700, BOUNDS.y_min + 700), (BOUNDS.x_max - 700, BOUNDS.y_max - 700), (count, 2)
    )
    half = np.exp(rng.normal(np.log(80), 0.6, (count, 1))) * rng.uniform(0.6, 1.0, (count, 2))
    return Boxes(
        np.round(np.concatenate([centre - half, centre + half], axis=1)), rng.random(count, np.float32)
    )


def _objects(
    slide_id: str, arrays: str, boxes: Boxes, *, depth_m: float | None, shades: NDArray[np.float64]
) -> pa.Table:
    count = len(boxes)
    x_min, y_min, x_max, y_max = boxes.xyxy.astype(np.int32).T
    width, height = (x_max - x_min) * MPP, (y_max - y_min) * MPP
    opacity = -np.log10(shades)
    columns = {
        "slide_id": [slide_id] * count,
        "arrays": [arrays] * count,
        "measured_depth_m": [depth_m] * count,
        "object_id": np.arange(count),
        "x_min": x_min,
        "y_min": y_min,
        "x_max": x_max,
        "y_max": y_max,
        "width_um": width,
        "height_um": height,
        "area_um2": width * height,
        "score": boxes.score,
        "overlap": np.zeros(count),
        "isolated": np.ones(count, bool),
        "touches_edge": np.zeros(count, bool),
        "opacity": pa.array(opacity, pa.float32()),
        "sharpness": 100 * shades,
        "mean_r": (226 * shades).astype(np.uint8),
        "mean_g": (180 * shades).astype(np.uint8),
        "mean_b": (110 * shades).astype(np.uint8),
        "focus_plane": pa.nulls(count),
        "plane_sharpness": pa.nulls(count),
    }
    return pa.Table.from_arrays(
        [pa.array(columns[field.name]).cast(field.type) for field in OBJECTS_SCHEMA], schema=OBJECTS_SCHEMA
    )


def _summarise(slide_id: str, *, count: int, well: str, depth_m: float | None, attempt: str) -> SlideSummary:
    return replace(
        a_summary(slide_id, attempt, objects=count, well=well),
        path=HOSTILE_PATH if slide_id.startswith("d") else f"slides/{slide_id}.mrxs",
        measured_depth_m=depth_m,
        width=20000,
        height=16000,
        mpp=MPP,
        bounds_x=BOUNDS.x_min,
        bounds_y=BOUNDS.y_min,
        bounds_width=BOUNDS.width,
        bounds_height=BOUNDS.height,
        scanned_mm2=BOUNDS.width * BOUNDS.height * (MPP / 1000) ** 2,
        tiles_planned=24,
        tiles_blank=4,
        tiles_read=19,
        tiles_failed=1,
        array_bytes=0,
        seconds_detect=2.0,
        seconds_crops=1.0,
        seconds_embed=1.0,
        seconds_write=0.1,
        seconds_total=3.0,
        finished_at="2026-01-02T03:04:05+00:00",
    )
