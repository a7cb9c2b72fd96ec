"""A run directory's records, made up for tests of what stores and reads them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fossilray.core.config import CropsConfig, RunConfig
from fossilray.core.records import ArrayFiles, Attempt, Failure, SlideSummary
from fossilray.core.schemas import OBJECTS_SCHEMA
from fossilray.store import RunStore
from fossilray.store.arrays.group import ArrayWriter
from fossilray.store.run.layout import arrays_path
from fossilray.store.run.run_record import RunRecord, describe_run

CROPS = CropsConfig(size_px=16)


def a_run(config: RunConfig | None = None, **weights: str) -> RunRecord:
    return describe_run(config or RunConfig(), weights)


def a_summary(slide_id: str, attempt: str, *, objects: int = 0, well: str = "6407/6-5") -> SlideSummary:
    return SlideSummary(
        slide_id=slide_id,
        path=f"slides/{slide_id}.mrxs",
        well=well,
        measured_depth_m=2030.5,
        vendor="mirax",
        width=1000,
        height=800,
        mpp=0.25,
        bounds_x=10,
        bounds_y=20,
        bounds_width=900,
        bounds_height=700,
        scanned_mm2=0.039,
        tiles_planned=4,
        tiles_blank=1,
        tiles_read=3,
        tiles_failed=0,
        content_mm2=1.0,
        detector_megapixels=2.0,
        device="cpu/float32",
        objects=objects,
        crops_coarser=0,
        crops_failed=0,
        array_bytes=1234,
        seconds_fetch=0.0,
        seconds_open=0.1,
        seconds_detect=1.5,
        seconds_merge=0.1,
        seconds_crops=0.4,
        seconds_embed=0.3,
        seconds_write=0.2,
        seconds_total=2.6,
        attempt=attempt,
        host="here",
        finished_at="2030-01-01T00:00:00+00:00",
    )


def some_objects(slide_id: str, arrays: str, count: int) -> pa.Table:
    """A table of OBJECTS_SCHEMA whose numbers are the row's own."""
    row = np.arange(count)
    given = {"slide_id": [slide_id] * count, "arrays": [arrays] * count, "measured_depth_m": [2030.5] * count}
    columns = []
    for field in OBJECTS_SCHEMA:
        if field.name in given:
            columns.append(pa.array(given[field.name], field.type))
        elif field.type == pa.bool_():
            columns.append(pa.array(row % 2 == 0))
        elif pa.types.is_list(field.type):
            columns.append(pa.array([[number % 200, 0.5] for number in row.tolist()], field.type))
        else:
            columns.append(pa.array(row % 200).cast(field.type))
    return pa.Table.from_arrays(columns, schema=OBJECTS_SCHEMA)


def some_crops(count: int, *, size_px: int = 16, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 60, (count, 1, 1, 3))
    ramp = np.linspace(0, 150, size_px).astype(int)[None, :, None, None]
    return np.broadcast_to(noise + ramp, (count, size_px, size_px, 3)).astype(np.uint8)


def write_arrays(store: RunStore, slide_id: str, attempt: str, *, count: int = 3) -> ArrayFiles:
    writer = ArrayWriter(store, slide_id, attempt, count=count, crops=CROPS, dimension=4)
    writer.write(0, some_crops(count), np.ones((count, 4), np.float16))
    return writer.finish()


def commit(
    store: RunStore,
    slide_id: str,
    *,
    objects: int = 3,
    well: str = "6407/6-5",
    attempt: Attempt | None = None,
    arrays: bool = False,
) -> bool:
    """Commit a made-up slide, with real arrays or the mere name of some."""
    attempt = attempt or store.attempts.start(slide_id, deadline_s=60)
    if arrays:
        files = write_arrays(store, slide_id, attempt.attempt, count=objects)
    else:
        files = ArrayFiles(arrays_path(slide_id, attempt.attempt), {"zarr.json": 1}, {"zarr.json": "00"})
    return store.commit_slide(
        some_objects(slide_id, files.path, objects),
        a_summary(slide_id, attempt.attempt, objects=objects, well=well),
        files,
        attempt=attempt,
    )


def a_failure(slide_id: str, attempt: str, *, at: str = "2030-01-01T00:00:00+00:00") -> Failure:
    return Failure(
        slide_id=slide_id,
        attempt=attempt,
        stage="detect",
        error="TooManyUnreadableTiles",
        message="nothing could be read",
        transient=False,
        quarantined=True,
        host="here",
        failed_at=at,
    )
