"""The files of an evaluation: tables that spreadsheets take, JSON, and how they come into a folder."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.images import resize_to
from fossilray.core.text import escape_formula
from fossilray.core.whole_files import write_whole
from fossilray.evaluation.martinsen2024 import LOGISTIC, NEAREST, ClassScores, Martinsen2024
from fossilray.evaluation.scampi import Retrieval, Scampi
from fossilray.labels.load import LabelledSet
from fossilray.render.crops import jpeg_uri
from fossilray.render.html import svg_uri, template_environment

Rows = Iterable[Sequence[object]]


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their names into a folder, which is made.

    Raises:
        UsageError: the folder cannot be written.
    """
    for name, content in files.items():
        write_whole(out / name, content)


def csv_file(header: Sequence[str], rows: Rows) -> bytes:
    """A table in UTF-8; numbers to six digits, what is not known empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([escape_formula(name) for name in header])
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return buffer.getvalue().encode()


def json_file(content: Mapping[str, Any]) -> bytes:
    """JSON to read, its keys in the order given."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _cell(value: object) -> object:
    if isinstance(value, str):
        return escape_formula(value)
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else value


_CELL_PX = 92


@dataclass(frozen=True)
class RetrievalCrop:
    """A crop in its true proportions."""

    uri: str
    width_px: int
    height_px: int
    name: str
    genus: str
    right: bool


@dataclass(frozen=True)
class ShownRetrieval:
    """A question and its answers."""

    precision: float
    query: RetrievalCrop
    answers: tuple[RetrievalCrop, ...]


def render_page(
    labelled: LabelledSet,
    *,
    facts: Mapping[str, Any],
    figures: Mapping[str, float],
    files: Mapping[str, bytes],
    metrics: Sequence[str] = (),
    classified: Martinsen2024 | None = None,
    retrieved: Scampi | None = None,
) -> str:
    """The HTML of one evaluation. files: what is written beside it; its pictures are embedded."""
    sheets = (
        []
        if retrieved is None
        else [
            ("Ten best retrievals", [_show(labelled, one) for one in retrieved.best]),
            ("Ten worst retrievals", [_show(labelled, one) for one in retrieved.worst]),
        ]
    )
    return render_template(
        "evaluation.html.j2",
        labelled,
        facts=facts,
        figures=figures,
        files=files,
        metrics=metrics,
        classified=classified,
        logistic=LOGISTIC,
        per_class=[] if classified is None else _side_by_side(classified.per_class),
        retrieved=retrieved,
        sheets=sheets,
    )


def render_template(
    template: str,
    labelled: LabelledSet,
    *,
    facts: Mapping[str, Any],
    figures: Mapping[str, float],
    files: Mapping[str, bytes],
    **shown: Any,
) -> str:
    """The HTML of a protocol's template, which has what every protocol tells and what is `shown` besides."""
    environment = template_environment()
    environment.filters["third"] = _third
    environment.filters["shares"] = _shares
    return environment.get_template(template).render(
        facts=facts,
        figures=figures,
        files=sorted(files),
        pictures={name: svg_uri(content) for name, content in files.items() if name.endswith(".svg")},
        classes=list(facts["classes"]),
        counts=list(facts["classes"].values()),
        findings=labelled.findings,
        **shown,
    )


def _third(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def _side_by_side(rows: Sequence[ClassScores]) -> list[tuple[ClassScores, ClassScores]]:
    """Each class under both classifiers: nearest neighbour, logistic regression."""
    nearest = [row for row in rows if row.method == NEAREST]
    logistic = [row for row in rows if row.method == LOGISTIC]
    return list(zip(nearest, logistic, strict=True))


def _shares(confusion: NDArray[np.int64]) -> list[list[tuple[int, float]]]:
    """(count, share of the row) of every cell."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return [
        list(zip(counts, shares, strict=True))
        for counts, shares in zip(confusion.tolist(), share.tolist(), strict=True)
    ]


def _show(labelled: LabelledSet, retrieval: Retrieval) -> ShownRetrieval:
    genus = int(labelled.crops.label[retrieval.row])
    return ShownRetrieval(
        retrieval.precision,
        _show_crop(labelled, retrieval.row, genus),
        tuple(_show_crop(labelled, row, genus) for row in retrieval.nearest),
    )


def _show_crop(labelled: LabelledSet, row: int, asked: int) -> RetrievalCrop:
    crops = labelled.crops
    own = int(crops.label[row])
    width, height = (max(1, round(_CELL_PX * float(side))) for side in crops.shape[row])
    picture = resize_to(crops.pixels[row], size_px=_CELL_PX)
    return RetrievalCrop(
        jpeg_uri(picture), width, height, labelled.names[row], crops.classes[own], right=own == asked
    )
