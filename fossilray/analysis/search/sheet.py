"""Contact sheet of a search: each query with its hits, as a page without scripts or as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fossilray.analysis.search.queries import Queries
from fossilray.analysis.search.search import SearchIndex
from fossilray.core.errors import StoreError, StoreUnreachable
from fossilray.core.images import FAILED_GREY
from fossilray.core.types import Image
from fossilray.render.contact_sheet import GROUND, Plate, write_sheet
from fossilray.render.crops import CropFigure, centre_in_square, jpeg_uri, show_crop
from fossilray.render.html import template_environment
from fossilray.store.query.connection import load_crops

MAX_QUERIES = 200
"""Queries on a sheet; the table has all."""
_CELL_PX, _CAPTION_PX, _GAP_PX, _MAX_COLUMNS = 112, 30, 8, 10
_FRAME_COLOUR = (63, 111, 148)


@dataclass(frozen=True)
class QueryFigure:
    """A query and its hits on the page."""

    name: str
    uri: str
    width_px: int
    height_px: int
    hits: tuple[CropFigure, ...]


@dataclass(frozen=True)
class SearchResult:
    """A query with the rows and the crops of its hits."""

    name: str
    picture: Image
    shape: tuple[float, float]
    """Width and height, the longer one 1."""
    table: pa.Table
    """Rows in HITS_SCHEMA."""
    crops: tuple[Image, ...]


def collect_results(index: SearchIndex, queries: Queries, table: pa.Table) -> list[SearchResult]:
    """Return the first MAX_QUERIES queries with the crops of their hits. A crop that cannot be read is grey.

    Args:
        table: hits of all queries, from `describe_hits`.
    """
    results: list[SearchResult] = []
    for name, picture, shape in zip(queries.names, queries.pictures, queries.shape.tolist(), strict=True):
        if len(results) == MAX_QUERIES:
            break
        rows = table.filter(pc.equal(table["query"], name))
        results.append(SearchResult(name, picture, (shape[0], shape[1]), rows, _crops(index, rows)))
    return results


def write_search_sheet(index: SearchIndex, results: Sequence[SearchResult], out: Path, *, note: str) -> None:
    """Write the sheet as .html, .png or .jpg, by the suffix of `out`. `note`: a line about the search.

    Raises:
        UsageError: another suffix, or the file cannot be written.
    """
    fit = str(index.record.crops["fit"])
    write_sheet(
        out,
        page=lambda: render_search_page(results, fit=fit, note=note),
        picture=lambda: draw_search_sheet(results, fit=fit),
        option="--sheet",
    )


def render_search_page(results: Sequence[SearchResult], *, fit: str, note: str) -> str:
    """Render the sheet as a page without network or scripts."""
    template = template_environment().get_template("similar.html.j2")
    return template.render(note=note, queries=[_figure(result, fit) for result in results])


def draw_search_sheet(results: Sequence[SearchResult], *, fit: str) -> Image:
    """Draw the sheet as one picture: each query, then its hits in rows, crops in their proportions with captions."""
    pitch_x, pitch_y = _CELL_PX + _GAP_PX, _CELL_PX + _CAPTION_PX + _GAP_PX
    columns = max(1, min(_MAX_COLUMNS, max((len(result.crops) for result in results), default=1)))
    lines = [max(1, -(-len(result.crops) // columns)) for result in results]
    width = (columns + 1) * pitch_x + 3 * _GAP_PX
    plate = Plate(width, sum(lines) * pitch_y + _GAP_PX * (len(results) + 1))
    top = _GAP_PX
    for result, height in zip(results, lines, strict=True):
        plate.add_image(_in_cell(result.picture, *result.shape), _GAP_PX, top)
        plate.add_frame(_GAP_PX - 3, top - 3, _GAP_PX + _CELL_PX + 2, top + _CELL_PX + 2, _FRAME_COLOUR)
        plate.add_text(Path(result.name).name, _GAP_PX, top + _CELL_PX + 4, size=10, width=_CELL_PX)
        for number, (row, crop) in enumerate(zip(result.table.to_pylist(), result.crops, strict=True)):
            left = 3 * _GAP_PX + (1 + number % columns) * pitch_x
            y = top + number // columns * pitch_y
            size = (1.0, 1.0) if fit == "letterbox" else (row["width_um"], row["height_um"])
            plate.add_image(_in_cell(crop, *size), left, y)
            score = f"{row['similarity']:.3f} {row['genus'] or ''}"
            plate.add_text(score, left, y + _CELL_PX + 2, size=10, width=_CELL_PX)
            name = f"{row['slide_id']}:{row['object_id']}"
            plate.add_text(name, left, y + _CELL_PX + 15, size=10, ink="faint", width=_CELL_PX)
        top += height * pitch_y + _GAP_PX
    return plate.to_image()


def _figure(result: SearchResult, fit: str) -> QueryFigure:
    width, height = (max(8, round(_CELL_PX * side)) for side in result.shape)
    hits = tuple(
        show_crop(row, crop, fit="letterbox" if fit == "letterbox" else "stretch", detail=_detail(row))
        for row, crop in zip(result.table.to_pylist(), result.crops, strict=True)
    )
    return QueryFigure(result.name, jpeg_uri(result.picture), width, height, hits)


def _detail(row: dict[str, object]) -> str:
    genus = f" · {row['genus']}" if row["genus"] else ""
    return f"{row['similarity']:.3f}{genus} · {row['width_um']:.0f} × {row['height_um']:.0f} µm"


def _crops(index: SearchIndex, rows: pa.Table) -> tuple[Image, ...]:
    stores = {url: source.store for url, source in index.runs().items()}
    crops: list[Image] = []
    for number, run in enumerate(rows["run"].to_pylist()):
        try:
            crops.append(load_crops(stores[run], rows.slice(number, 1))[0])
        except StoreUnreachable:
            raise
        except StoreError:
            crops.append(np.full((_CELL_PX, _CELL_PX, 3), FAILED_GREY, np.uint8))
    return tuple(crops)


def _in_cell(crop: Image, width: float, height: float) -> Image:
    return centre_in_square(crop, width, height, side_px=_CELL_PX, ground=GROUND)
