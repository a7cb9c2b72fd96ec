"""Fossils on a page: contact sheets of crops, and one map on which neighbours look alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.core.types import Image
from fossilray.render.crops import ContactSheet, Fit, field_of, jpeg_uri, name_size, resize_image, show_crop
from fossilray.store import RunStore
from fossilray.store.query.connection import load_crops, load_embeddings, query_table

if TYPE_CHECKING:
    from fossilray.store.query.connection import Connection


CROPS_A_SHEET = 24
MAP_EMBEDDINGS = 1600
"""Objects whose vectors the map is drawn from; it shows some 300 of them."""
MAP_SLIDES = 24
"""Slides they come from: each is a file to open, in an object store a request."""


@dataclass(frozen=True)
class SheetKind:
    """One way to choose crops."""

    title: str
    says: str
    order: str
    """SQL by which the first ones are taken."""
    condition: str = "true"


# md5 of the row's name is a lottery that draws the same rows every time.
_RANDOM_ORDER = "md5(slide_id || '/' || object_id)"

SHEET_KINDS = (
    SheetKind("Random", "What the archive looks like when nobody chooses.", _RANDOM_ORDER),
    SheetKind(
        "Largest",
        "By longest side; objects cut by the scan's edge left out.",
        "greatest(width_um, height_um) DESC",
        "NOT touches_edge",
    ),
    SheetKind(
        "Sharpest",
        "Most detail in focus, among objects of at least 15 µm.",
        "sharpness DESC",
        "greatest(width_um, height_um) >= 15",
    ),
    SheetKind("Darkest", "Highest mean optical density: wood, charcoal, opaque debris.", "opacity DESC"),
    SheetKind("Most confident", "What the detector is surest of.", "score DESC"),
    SheetKind("Least confident", "Where to look for false finds before trusting a count.", "score ASC"),
)


@dataclass(frozen=True)
class SimilarityMap:
    """A picture of many crops, each beside those with similar embeddings."""

    uri: str
    width_px: int
    height_px: int
    shown: int
    drawn_from: int


def make_contact_sheets(con: Connection, store: RunStore, *, slides: int, fit: Fit) -> Iterator[ContactSheet]:
    """The sheets of SHEET_KINDS over the view `objects`; `slides`: how many slides the view holds."""
    # No slide fills a sheet alone while others have something to show.
    per_slide = max(2, -(-2 * CROPS_A_SHEET // max(slides, 1)))
    for kind in SHEET_KINDS:
        # Objects whose pixels no level could give have no opacity, and nothing to show.
        chosen = query_table(
            con,
            "SELECT slide_id, well, measured_depth_m, arrays, object_id, width_um, height_um, score "
            f"FROM objects WHERE opacity IS NOT NULL AND {kind.condition} "
            f"QUALIFY row_number() OVER (PARTITION BY slide_id ORDER BY {kind.order}, object_id) <= {per_slide} "
            f"ORDER BY {kind.order}, slide_id, object_id LIMIT {CROPS_A_SHEET}",
        )
        crops = load_crops(store, chosen)
        shown = tuple(
            show_crop(row, crop, fit=fit, detail=name_size(row))
            for row, crop in zip(chosen.to_pylist(), crops, strict=True)
        )
        yield ContactSheet(kind.title, kind.says, shown)


def draw_similarity_map(
    con: Connection, store: RunStore, *, fit: Fit, columns: int = 22, cell_px: int = 64
) -> SimilarityMap | None:
    """A map of crops laid out by their embeddings; None if there are too few objects for one."""
    drawn = query_table(
        con,
        "SELECT * FROM objects WHERE opacity IS NOT NULL AND slide_id IN "
        f"(SELECT slide_id FROM objects GROUP BY slide_id ORDER BY md5(slide_id) LIMIT {MAP_SLIDES}) "
        f"ORDER BY {_RANDOM_ORDER} LIMIT {MAP_EMBEDDINGS}",
    )
    if drawn.num_rows < 12:
        return None
    columns = min(columns, max(4, int(np.sqrt(drawn.num_rows * 1.3))))
    rows = max(3, min(round(columns * 0.64), drawn.num_rows // columns))
    vectors = load_embeddings(store, drawn).astype(np.float32)
    chosen = arrange(vectors, columns=columns, rows=rows)
    shown = drawn.take(pa.array(chosen))
    plate = _lay_plate(shown, load_crops(store, shown), columns=columns, rows=rows, cell_px=cell_px, fit=fit)
    return SimilarityMap(
        uri=jpeg_uri(plate),
        width_px=plate.shape[1],
        height_px=plate.shape[0],
        shown=len(chosen),
        drawn_from=drawn.num_rows,
    )


def arrange(vectors: NDArray[np.float32], *, columns: int, rows: int) -> NDArray[np.intp]:
    """Which vector stands in each cell of a grid, row by row, so that neighbours are alike.

    vectors: (n, d), n >= columns * rows. A self-organising map (Kohonen 1982, batch form) started on the plane
    of the first two principal components; then each cell gets a vector of its own at the least total distance.
    """
    from scipy.optimize import linear_sum_assignment

    features = _principal(vectors, keep=24)
    x, y = np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows))
    place = np.stack([x.ravel() * columns / 2, y.ravel() * rows / 2], axis=1)
    spread = features.std(axis=0)
    nodes = np.zeros((columns * rows, features.shape[1]), np.float32)
    nodes[:, 0] = x.ravel() * 1.7 * spread[0]
    if features.shape[1] > 1:
        nodes[:, 1] = y.ravel() * 1.7 * spread[1]
    apart = ((place[:, None] - place[None]) ** 2).sum(axis=2)
    for radius in np.geomspace(max(columns, rows) / 4, 0.7, 24):
        nearest = _squared_distances(features, nodes).argmin(axis=1)
        weight = np.exp(-apart[:, nearest] / (2 * radius**2))
        nodes = ((weight @ features) / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    _, chosen = linear_sum_assignment(_squared_distances(nodes, features))
    return np.asarray(chosen, dtype=np.intp)


def _lay_plate(
    table: pa.Table, crops: NDArray[np.uint8], *, columns: int, rows: int, cell_px: int, fit: Fit
) -> Image:
    """Crops laid on one clear field as on a light table: light multiplies, so their own fields vanish."""
    field = np.array([240, 238, 235], np.float32)
    plate = np.empty((rows * cell_px, columns * cell_px, 3), np.float32)
    plate[:] = field
    size = zip(table["width_um"].to_pylist(), table["height_um"].to_pylist(), strict=True)
    for cell, ((width_um, height_um), crop) in enumerate(zip(size, crops, strict=True)):
        side = cell_px - 6
        scale = 1.0 if fit == "letterbox" else side / max(width_um, height_um, 1e-6)
        width, height = (side, side) if fit == "letterbox" else (width_um * scale, height_um * scale)
        small = resize_image(crop, max(round(width), 4), max(round(height), 4)).astype(np.float32)
        light = np.clip(small / np.maximum(field_of(small), 1), 0, 1)
        top = cell // columns * cell_px + (cell_px - small.shape[0]) // 2
        left = cell % columns * cell_px + (cell_px - small.shape[1]) // 2
        plate[top : top + small.shape[0], left : left + small.shape[1]] *= light
    return np.round(plate).astype(np.uint8)


def _principal(vectors: NDArray[np.float32], *, keep: int) -> NDArray[np.float32]:
    """Directions of the vectors (length says little of a look), centred, on their first components."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    centred = unit - unit.mean(axis=0)
    left, strength, _ = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(left[:, :keep] * strength[:keep], dtype=np.float32)


def _squared_distances(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    cross = one @ other.T
    squares: Sequence[NDArray[np.float32]] = [(each**2).sum(axis=1) for each in (one, other)]
    return np.asarray(squares[0][:, None] - 2 * cross + squares[1][None], dtype=np.float32)
