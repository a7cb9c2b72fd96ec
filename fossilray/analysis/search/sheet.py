"""A sheet of what looks alike: each question, and beside it what was found; a page without script, or a picture."""

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

MOST_QUESTIONS = 200
"""Shown on a sheet; the table has all."""
_CELL_PX, _CAPTION_PX, _GAP_PX, _ACROSS = 112, 30, 8, 10
_MARK = (63, 111, 148)


@dataclass(frozen=True)
class QueryFigure:
    """A question as the page shows it."""

    name: str
    uri: str
    width_px: int
    height_px: int
    hits: tuple[CropFigure, ...]


@dataclass(frozen=True)
class SearchResult:
    """A question, the rows of its hits, and their crops."""

    name: str
    picture: Image
    shape: tuple[float, float]
    table: pa.Table
    crops: tuple[Image, ...]


def append_missing_summaries(index: SearchIndex, questions: Queries, table: pa.Table) -> list[SearchResult]:
    """Every question with the crops of its hits, up to MOST_QUESTIONS; a crop that cannot be read is grey.

    table: of `describe_hits`.
    """
    found: list[SearchResult] = []
    queries = table["query"]
    for name, picture, shape in zip(
        questions.names, questions.pictures, questions.shape.tolist(), strict=True
    ):
        if len(found) == MOST_QUESTIONS:
            break
        rows = table.filter(pc.equal(queries, name))
        found.append(SearchResult(name, picture, (shape[0], shape[1]), rows, _crops(index, rows)))
    return found


def write_search_sheet(index: SearchIndex, found: Sequence[SearchResult], out: Path, *, facts: str) -> None:
    """The sheet as .html, .png or .jpg, by the file's name; facts: a line about the search.

    Raises:
        UsageError: another ending, or the file cannot be written.
    """
    fit = str(index.record.crops["fit"])
    write_sheet(
        out,
        page=lambda: render_search_page(found, fit=fit, facts=facts),
        picture=lambda: draw_search_sheet(found, fit=fit),
        option="--sheet",
    )


def render_search_page(found: Sequence[SearchResult], *, fit: str, facts: str) -> str:
    """The page as HTML; no network, no script."""
    environment = template_environment()
    return environment.get_template("similar.html.j2").render(
        facts=facts, questions=[_show(one, fit) for one in found]
    )


def draw_search_sheet(found: Sequence[SearchResult], *, fit: str) -> Image:
    """One picture: questions below each other, the likest first, crops in true proportions with what they are."""
    pitch_x, pitch_y = _CELL_PX + _GAP_PX, _CELL_PX + _CAPTION_PX + _GAP_PX
    across = max(1, min(_ACROSS, max((len(one.crops) for one in found), default=1)))
    lines = [max(1, -(-len(one.crops) // across)) for one in found]
    width = (across + 1) * pitch_x + 3 * _GAP_PX
    plate = Plate(width, sum(lines) * pitch_y + _GAP_PX * (len(found) + 1))
    top = _GAP_PX
    for one, height in zip(found, lines, strict=True):
        plate.add_image(_in_cell(one.picture, *one.shape), _GAP_PX, top)
        plate.add_frame(_GAP_PX - 3, top - 3, _GAP_PX + _CELL_PX + 2, top + _CELL_PX + 2, _MARK)
        plate.add_text(Path(one.name).name, _GAP_PX, top + _CELL_PX + 4, size=10, width=_CELL_PX)
        for number, (row, crop) in enumerate(zip(one.table.to_pylist(), one.crops, strict=True)):
            left = 3 * _GAP_PX + (1 + number % across) * pitch_x
            y = top + number // across * pitch_y
            size = (1.0, 1.0) if fit == "letterbox" else (row["width_um"], row["height_um"])
            plate.add_image(_in_cell(crop, *size), left, y)
            score = f"{row['similarity']:.3f} {row['genus'] or ''}"
            plate.add_text(score, left, y + _CELL_PX + 2, size=10, width=_CELL_PX)
            name = f"{row['slide_id']}:{row['object_id']}"
            plate.add_text(name, left, y + _CELL_PX + 15, size=10, ink="faint", width=_CELL_PX)
        top += height * pitch_y + _GAP_PX
    return plate.to_image()


def _show(one: SearchResult, fit: str) -> QueryFigure:
    width, height = (max(8, round(_CELL_PX * side)) for side in one.shape)
    hits = tuple(
        show_crop(row, crop, fit="letterbox" if fit == "letterbox" else "stretch", detail=_detail(row))
        for row, crop in zip(one.table.to_pylist(), one.crops, strict=True)
    )
    return QueryFigure(one.name, jpeg_uri(one.picture), width, height, hits)


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


def _in_cell(crop: Image, across: float, down: float) -> Image:
    return centre_in_square(crop, across, down, side_px=_CELL_PX, ground=GROUND)
