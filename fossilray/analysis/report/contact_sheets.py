"""Contact sheets of a report, and its similarity map of crops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.core.config.choices import CropFit
from fossilray.core.types import Image
from fossilray.core.vectors import unit_vectors
from fossilray.render.contact_sheet import tile_grid
from fossilray.render.crops import (
    ContactSheet,
    background_colour,
    describe_size,
    jpeg_uri,
    resize_lanczos,
    show_crop,
)
from fossilray.store import RunStore
from fossilray.store.query.connection import load_crops, load_embeddings, query_table

if TYPE_CHECKING:
    from fossilray.store.query.connection import Connection


CROPS_A_SHEET = 24
MAP_EMBEDDINGS = 1600
"""Objects whose embeddings the map is fitted to; it shows about 300 of them."""
MAP_SLIDES = 24
"""Slides that these objects come from. Each costs a file to open, or a request to an object store."""


@dataclass(frozen=True)
class SheetKind:
    """A contact sheet: its title, its caption and the objects on it."""

    title: str
    caption: str
    order: str
    """SQL expression; the first objects in its order are shown."""
    condition: str = "true"
    """SQL condition on objects."""


# The md5 of a row's key is a random order that is equal in every report.
_RANDOM_ORDER = "md5(slide_id || '/' || object_id)"

SHEET_KINDS = (
    SheetKind("Random", "Objects selected at random.", _RANDOM_ORDER),
    SheetKind(
        "Largest",
        "Greatest longest side, without objects at the edge of the scan.",
        "greatest(width_um, height_um) DESC",
        "NOT touches_edge",
    ),
    SheetKind(
        "Sharpest",
        "Highest variance of the Laplacian, among objects of at least 15 µm.",
        "sharpness DESC",
        "greatest(width_um, height_um) >= 15",
    ),
    SheetKind(
        "Darkest", "Highest mean optical density, such as wood, charcoal and opaque debris.", "opacity DESC"
    ),
    SheetKind("Most confident", "Highest score of the detector.", "score DESC"),
    SheetKind(
        "Least confident",
        "Lowest score of the detector. False detections are most frequent here; check before using counts.",
        "score ASC",
    ),
)


@dataclass(frozen=True)
class SimilarityMap:
    """A picture of many crops, arranged so that neighbours have similar embeddings."""

    uri: str
    width_px: int
    height_px: int
    shown: int
    """Objects on the map."""
    fitted: int
    """Objects whose embeddings the map was fitted to."""


def make_contact_sheets(
    con: Connection, store: RunStore, *, slides: int, fit: CropFit
) -> Iterator[ContactSheet]:
    """Yield the sheets of SHEET_KINDS over the view `objects`. `slides`: number of slides in the view."""
    # A limit per slide keeps one slide from filling a sheet.
    per_slide = max(2, -(-2 * CROPS_A_SHEET // max(slides, 1)))
    for kind in SHEET_KINDS:
        # Objects whose pixels could not be read have no opacity and no crop.
        chosen = query_table(
            con,
            "SELECT slide_id, well, measured_depth_m, arrays, object_id, width_um, height_um, score "
            f"FROM objects WHERE opacity IS NOT NULL AND {kind.condition} "
            f"QUALIFY row_number() OVER (PARTITION BY slide_id ORDER BY {kind.order}, object_id) <= {per_slide} "
            f"ORDER BY {kind.order}, slide_id, object_id LIMIT {CROPS_A_SHEET}",
        )
        crops = load_crops(store, chosen)
        shown = tuple(
            show_crop(row, crop, fit=fit, detail=describe_size(row))
            for row, crop in zip(chosen.to_pylist(), crops, strict=True)
        )
        yield ContactSheet(kind.title, kind.caption, shown)


def draw_similarity_map(
    con: Connection, store: RunStore, *, fit: CropFit, columns: int = 22, cell_px: int = 64
) -> SimilarityMap | None:
    """Draw a map of crops arranged by their embeddings; None with fewer than 12 objects."""
    sample = query_table(
        con,
        "SELECT * FROM objects WHERE opacity IS NOT NULL AND slide_id IN "
        f"(SELECT slide_id FROM objects GROUP BY slide_id ORDER BY md5(slide_id) LIMIT {MAP_SLIDES}) "
        f"ORDER BY {_RANDOM_ORDER} LIMIT {MAP_EMBEDDINGS}",
    )
    if sample.num_rows < 12:
        return None
    columns = min(columns, max(4, int(np.sqrt(sample.num_rows * 1.3))))
    rows = max(3, min(round(columns * 0.64), sample.num_rows // columns))
    vectors = load_embeddings(store, sample).astype(np.float32)
    chosen = arrange_on_grid(vectors, columns=columns, rows=rows)
    shown = sample.take(pa.array(chosen))
    picture = _draw_grid(shown, load_crops(store, shown), columns=columns, cell_px=cell_px, fit=fit)
    return SimilarityMap(
        uri=jpeg_uri(picture),
        width_px=picture.shape[1],
        height_px=picture.shape[0],
        shown=len(chosen),
        fitted=sample.num_rows,
    )


def arrange_on_grid(vectors: NDArray[np.float32], *, columns: int, rows: int) -> NDArray[np.intp]:
    """Assign vectors to the cells of a grid so that neighbouring cells hold similar vectors.

    A batch self-organising map (Kohonen 1982) is initialised on the plane of the first two principal components. Each
    cell then gets a different vector, at the least total distance.

    Args:
        vectors: (n, dimension), n >= columns * rows.

    Returns:
        (columns * rows,) index of the vector in each cell, row by row.
    """
    from scipy.optimize import linear_sum_assignment

    features = _principal_components(vectors, keep=24)
    x, y = np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows))
    position = np.stack([x.ravel() * columns / 2, y.ravel() * rows / 2], axis=1)
    deviation = features.std(axis=0)
    nodes = np.zeros((columns * rows, features.shape[1]), np.float32)
    nodes[:, 0] = x.ravel() * 1.7 * deviation[0]
    if features.shape[1] > 1:
        nodes[:, 1] = y.ravel() * 1.7 * deviation[1]
    grid_distance2 = ((position[:, None] - position[None]) ** 2).sum(axis=2)
    for radius in np.geomspace(max(columns, rows) / 4, 0.7, 24):
        nearest = _squared_distances(features, nodes).argmin(axis=1)
        weight = np.exp(-grid_distance2[:, nearest] / (2 * radius**2))
        nodes = ((weight @ features) / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    _, chosen = linear_sum_assignment(_squared_distances(nodes, features))
    return np.asarray(chosen, dtype=np.intp)


def _draw_grid(
    table: pa.Table, crops: NDArray[np.uint8], *, columns: int, cell_px: int, fit: CropFit
) -> Image:
    """Draw crops in a grid on one background. Crops are multiplied onto it, so that their own backgrounds disappear."""
    field = np.array([240, 238, 235], np.float32)
    cells = np.empty((len(crops), cell_px, cell_px, 3), np.uint8)
    sizes = zip(table["width_um"].to_pylist(), table["height_um"].to_pylist(), strict=True)
    for number, ((width_um, height_um), crop) in enumerate(zip(sizes, crops, strict=True)):
        side = cell_px - 6
        scale = 1.0 if fit == "letterbox" else side / max(width_um, height_um, 1e-6)
        width, height = (side, side) if fit == "letterbox" else (width_um * scale, height_um * scale)
        small = resize_lanczos(crop, max(round(width), 4), max(round(height), 4)).astype(np.float32)
        transmitted = np.clip(small / np.maximum(background_colour(small), 1), 0, 1)
        cell = np.empty((cell_px, cell_px, 3), np.float32)
        cell[:] = field
        top, left = (cell_px - small.shape[0]) // 2, (cell_px - small.shape[1]) // 2
        cell[top : top + small.shape[0], left : left + small.shape[1]] *= transmitted
        cells[number] = np.round(cell)
    return tile_grid(cells, columns=columns)


def _principal_components(vectors: NDArray[np.float32], *, keep: int) -> NDArray[np.float32]:
    """Return the first principal components (n, keep) of the unit vectors."""
    unit = unit_vectors(vectors)
    left, singular_values, _ = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    return np.asarray(left[:, :keep] * singular_values[:keep], dtype=np.float32)


def _squared_distances(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return squared Euclidean distances (n, m) between rows."""
    squares = [(rows**2).sum(axis=1) for rows in (first, second)]
    return np.asarray(squares[0][:, None] - 2 * first @ second.T + squares[1][None], dtype=np.float32)
