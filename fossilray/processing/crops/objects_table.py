"""Rows of `objects`: boxes and measures in the columns and units of the schema."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.core.records import ArrayFiles, CatalogRow
from fossilray.core.schemas import OBJECTS_SCHEMA
from fossilray.core.types import Boxes, SlideInfo
from fossilray.processing.crops.measures import Measures
from fossilray.processing.detection.merge import largest_overlaps


@dataclass(frozen=True)
class StoredCrops:
    """Stored crops: the arrays' files, measures in row order, and the number of crops from a coarser level."""

    files: ArrayFiles
    measures: Measures
    coarser: int


def objects_table(
    row: CatalogRow, info: SlideInfo, boxes: Boxes, crops: StoredCrops, isolated_overlap: float
) -> pa.Table:
    """One row per box (level-0 px) in OBJECTS_SCHEMA; object_id is the row, in the table as in the arrays."""
    count = len(boxes)
    corners = round_outward(boxes.xyxy, info)
    width_um, height_um = (corners[:, 2:] - corners[:, :2]).T * np.float32(info.mpp)
    overlap = largest_overlaps(boxes.xyxy)
    measured = crops.measures
    columns: dict[str, pa.Array] = {
        "slide_id": pa.array([row.slide_id] * count, pa.string()),
        "arrays": pa.array([crops.files.path] * count, pa.string()),
        "measured_depth_m": pa.array([row.measured_depth_m] * count, pa.float64()),
        "object_id": pa.array(np.arange(count, dtype=np.int32)),
        **{
            name: pa.array(corners[:, axis]) for axis, name in enumerate(("x_min", "y_min", "x_max", "y_max"))
        },
        "width_um": pa.array(width_um.astype(np.float32)),
        "height_um": pa.array(height_um.astype(np.float32)),
        "area_um2": pa.array((width_um * height_um).astype(np.float32)),
        "score": pa.array(boxes.score),
        "overlap": pa.array(overlap),
        "isolated": pa.array(overlap < isolated_overlap),
        "touches_edge": pa.array(touches_rim(corners, info)),
        "opacity": pa.array(measured.opacity, mask=measured.missing),
        "sharpness": pa.array(measured.sharpness, mask=measured.missing),
        **{
            name: pa.array(measured.mean_rgb[:, channel], mask=measured.missing)
            for channel, name in enumerate(("mean_r", "mean_g", "mean_b"))
        },
    }
    columns |= _focus_columns(measured)
    return pa.table(columns, schema=OBJECTS_SCHEMA)


def _focus_columns(measured: Measures) -> dict[str, pa.Array]:
    """Return the plane in which each object is sharpest, and its sharpness in each; null on slides with one plane."""
    kinds = {name: OBJECTS_SCHEMA.field(name).type for name in ("focus_plane", "plane_sharpness")}
    by_plane = measured.plane_sharpness
    count, planes = by_plane.shape
    if not planes:
        return {name: pa.nulls(count, kind) for name, kind in kinds.items()}
    values = pa.array(by_plane.ravel(), from_pandas=True)
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * planes)
    unread = np.asarray(np.isnan(by_plane).all(axis=1), np.bool_)
    sharpest = np.where(np.isnan(by_plane), -1, by_plane).argmax(axis=1)
    return {
        "focus_plane": pa.array(sharpest.astype(np.int32), mask=unread),
        "plane_sharpness": pa.ListArray.from_arrays(offsets, values, mask=pa.array(unread)),
    }


def touches_rim(corners: NDArray[np.number], info: SlideInfo) -> NDArray[np.bool_]:
    """Return which boxes (n, 4), in level-0 px, touch the rim of the scanned area."""
    scanned = info.bounds
    touches: NDArray[np.bool_] = (
        (corners[:, 0] <= scanned.x_min)
        | (corners[:, 1] <= scanned.y_min)
        | (corners[:, 2] >= scanned.x_max)
        | (corners[:, 3] >= scanned.y_max)
    )
    return touches


def round_outward(xyxy: NDArray[np.float64], info: SlideInfo) -> NDArray[np.int32]:
    """Round boxes (n, 4) outward to whole pixels, clipped to the scanned area; at least one pixel wide and high."""
    scanned = info.bounds
    start, end = np.array([scanned.x_min, scanned.y_min]), np.array([scanned.x_max, scanned.y_max])
    low = np.floor(xyxy[:, :2] + 1e-6).clip(start, end - 1)
    high = np.ceil(xyxy[:, 2:] - 1e-6).clip(low + 1, end)
    return np.hstack([low, high]).astype(np.int32)
