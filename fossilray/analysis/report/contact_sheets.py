"""Fossils on a page: contact sheets of crops, and one map on which neighbours look alike."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.core.records import UNASSIGNED_WELL, Image
from fossilray.render.slide_overview import round_length_um
from fossilray.store import RunStore
from fossilray.store.query.connection import load_crops, load_embeddings, query_table

if TYPE_CHECKING:
    from fossilray.store.query.connection import Connection

Fit = Literal["stretch", "letterbox"]

CROPS_A_SHEET = 24
MAP_EMBEDDINGS = 1600
"""Objects whose vectors the map is drawn from; it shows some 300 of them."""
MAP_SLIDES = 24
"""Slides they come from: each is a file to open, in an object store a request."""

_CELL_PX = 118  # longest side of a crop on a contact sheet, in CSS pixels
_JPEG_QUALITY = 84
_THINNEST_PX = 6  # of a crop amid a square, however thin the object


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
class CropFigure:
    """One crop as the page shows it: in its true proportions, with a scale bar and a caption."""

    uri: str
    width_px: int
    height_px: int
    bar_px: float
    bar_label: str
    slide_id: str
    object_id: int
    place: str
    """Well and depth, or the slide where neither is known."""
    detail: str


@dataclass(frozen=True)
class ContactSheet:
    """Crops chosen in one way."""

    title: str
    says: str
    crops: tuple[CropFigure, ...]


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
            show_crop(row, crop, fit=fit, detail=_name_size(row))
            for row, crop in zip(chosen.to_pylist(), crops, strict=True)
        )
        yield ContactSheet(kind.title, kind.says, shown)


def show_crop(row: Mapping[str, Any], crop: Image, *, fit: Fit, detail: str) -> CropFigure:
    """The crop of a row of `objects` as the page shows it, with `detail` below it."""
    width_um, height_um = float(row["width_um"]), float(row["height_um"])
    longest_um = max(width_um, height_um, 1e-6)
    px_per_um = _CELL_PX / longest_um
    if fit == "letterbox":
        width, height = _CELL_PX, _CELL_PX
    else:
        width, height = (max(round(side * px_per_um), 8) for side in (width_um, height_um))
    bar_um = round_length_um(0.42 * longest_um)
    return CropFigure(
        uri=jpeg_uri(_resize(crop, min(2 * width, crop.shape[1]), min(2 * height, crop.shape[0]))),
        width_px=width,
        height_px=height,
        bar_px=bar_um * px_per_um,
        bar_label=f"{bar_um:g} µm",
        slide_id=row["slide_id"],
        object_id=row["object_id"],
        place=_name_place(row["slide_id"], row["well"], row["measured_depth_m"]),
        detail=detail,
    )


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


def centre_in_square(
    crop: Image, across: float, down: float, *, side_px: int, ground: tuple[int, int, int]
) -> Image:
    """The crop in the proportions of across : down, its longer side the square's, on a ground of one colour.

    Returns:
        (side_px, side_px, 3) uint8.
    """
    import cv2

    scale = side_px / max(across, down, 1e-6)
    width, height = (min(side_px, max(_THINNEST_PX, round(side * scale))) for side in (across, down))
    square = np.empty((side_px, side_px, 3), np.uint8)
    square[:] = ground
    left, top = (side_px - width) // 2, (side_px - height) // 2
    square[top : top + height, left : left + width] = cv2.resize(
        crop, (width, height), interpolation=cv2.INTER_AREA
    )
    return square


def jpeg_uri(image: Image, *, quality: int = _JPEG_QUALITY) -> str:
    """An image (H, W, 3) as a data URI."""
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    # Not optimize=True: Pillow then has room for one byte a pixel, and a crop of noise takes more.
    Pillow.fromarray(image).save(buffer, "JPEG", quality=quality)
    return to_uri(buffer.getvalue())


def to_uri(jpeg: bytes) -> str:
    """A JPEG file as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _name_size(row: Mapping[str, Any]) -> str:
    return f"{row['width_um']:.0f} × {row['height_um']:.0f} µm · {row['score']:.2f}"


def _name_place(slide_id: str, well: str, depth_m: float | None) -> str:
    if well == UNASSIGNED_WELL or depth_m is None:
        return slide_id
    return f"{well} {depth_m:,.10g} m"


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
        small = _resize(crop, max(round(width), 4), max(round(height), 4)).astype(np.float32)
        light = np.clip(small / np.maximum(_field_of(small), 1), 0, 1)
        top = cell // columns * cell_px + (cell_px - small.shape[0]) // 2
        left = cell % columns * cell_px + (cell_px - small.shape[1]) // 2
        plate[top : top + small.shape[0], left : left + small.shape[1]] *= light
    return np.round(plate).astype(np.uint8)


def _field_of(crop: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colour of the clear field of a crop: bright, and on its border if there is any there."""
    border = np.concatenate([crop[0], crop[-1], crop[:, 0], crop[:, -1]])
    return np.asarray(np.quantile(border, 0.6, axis=0), dtype=np.float32)


def _resize(crop: Image, width: int, height: int) -> Image:
    from PIL import Image as Pillow

    return np.asarray(Pillow.fromarray(crop).resize((width, height), Pillow.Resampling.LANCZOS))


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
