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
from fossilray.core.errors import StoreError, StoreUnreachable, UsageError
from fossilray.core.images import FAILED_GREY
from fossilray.core.text import strip_control_characters
from fossilray.core.types import Image
from fossilray.core.whole_files import write_whole
from fossilray.render.crops import CropFigure, centre_in_square, jpeg_uri, show_crop
from fossilray.render.html import encode_picture, template_environment
from fossilray.store.query.connection import load_crops

MOST_QUESTIONS = 200
"""Shown on a sheet; the table has all."""
_CELL_PX, _CAPTION_PX, _GAP_PX, _ACROSS = 112, 30, 8, 10
_GROUND, _INK, _FAINT, _MARK = (252, 251, 248), (36, 33, 28), (113, 106, 95), (63, 111, 148)


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


def write_sheet(index: SearchIndex, found: Sequence[SearchResult], out: Path, *, facts: str) -> None:
    """The sheet as .html, .png or .jpg, by the file's name; facts: a line about the search.

    Raises:
        UsageError: another ending, or the file cannot be written.
    """
    fit = str(index.record.crops["fit"])
    if out.suffix.lower() == ".html":
        write_whole(out, render_page(found, fit=fit, facts=facts))
    elif out.suffix.lower() in (".png", ".jpg", ".jpeg"):
        write_whole(out, encode_picture(draw_sheet(found, fit=fit), out.suffix))
    else:
        raise UsageError(f"--sheet {out} is neither .html nor .png nor .jpg; choose one of these")


def render_page(found: Sequence[SearchResult], *, fit: str, facts: str) -> str:
    """The page as HTML; no network, no script."""
    environment = template_environment()
    return environment.get_template("similar.html.j2").render(
        facts=facts, questions=[_show(one, fit) for one in found]
    )


def draw_sheet(found: Sequence[SearchResult], *, fit: str) -> Image:
    """One picture: questions below each other, the likest first, crops in true proportions with what they are."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    pitch_x, pitch_y = _CELL_PX + _GAP_PX, _CELL_PX + _CAPTION_PX + _GAP_PX
    across = max(1, min(_ACROSS, max((len(one.crops) for one in found), default=1)))
    lines = [max(1, -(-len(one.crops) // across)) for one in found]
    width = (across + 1) * pitch_x + 3 * _GAP_PX
    plate = Pillow.new("RGB", (width, sum(lines) * pitch_y + _GAP_PX * (len(found) + 1)), _GROUND)
    draw, font = ImageDraw.Draw(plate), ImageFont.load_default(10)
    top = _GAP_PX
    for one, height in zip(found, lines, strict=True):
        plate.paste(Pillow.fromarray(_in_cell(one.picture, *one.shape)), (_GAP_PX, top))
        draw.rectangle(
            (_GAP_PX - 3, top - 3, _GAP_PX + _CELL_PX + 2, top + _CELL_PX + 2), outline=_MARK, width=2
        )
        draw.text((_GAP_PX, top + _CELL_PX + 4), _fitting(draw, Path(one.name).name, font), _INK, font)
        for number, (row, crop) in enumerate(zip(one.table.to_pylist(), one.crops, strict=True)):
            left = 3 * _GAP_PX + (1 + number % across) * pitch_x
            y = top + number // across * pitch_y
            size = (1.0, 1.0) if fit == "letterbox" else (row["width_um"], row["height_um"])
            plate.paste(Pillow.fromarray(_in_cell(crop, *size)), (left, y))
            named = f"{row['similarity']:.3f} {row['genus'] or ''}"
            draw.text((left, y + _CELL_PX + 2), _fitting(draw, named, font), _INK, font)
            where = f"{row['slide_id']}:{row['object_id']}"
            draw.text((left, y + _CELL_PX + 15), _fitting(draw, where, font), _FAINT, font)
        top += height * pitch_y + _GAP_PX
    return np.asarray(plate)


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
    return centre_in_square(crop, across, down, side_px=_CELL_PX, ground=_GROUND)


def _fitting(draw: object, text: str, font: object) -> str:
    """As much of a text as fits below a crop."""
    text = strip_control_characters(text)
    while text and draw.textlength(text, font) > _CELL_PX:  # type: ignore[attr-defined]
        text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
    return text
