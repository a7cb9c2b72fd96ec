"""Output of an evaluation: one folder with an HTML page, JSON, CSV tables and SVG figures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.atomic_files import write_atomically
from fossilray.core.text import escape_formula
from fossilray.labels.load import LabelledSet
from fossilray.models.heads import BackboneReference
from fossilray.render.html import svg_uri, template_environment

TableRows = Iterable[Sequence[object]]


@dataclass(frozen=True)
class Evaluation:
    """The page of a finished evaluation, and its main figures by name."""

    page: Path
    figures: dict[str, float]


def evaluation_metadata(
    labelled: LabelledSet, *, protocol: str, labels: str, backbone: BackboneReference, **settings: object
) -> dict[str, Any]:
    """Return the head of evaluation.json: protocol, labels, backbone, settings, and counts of crops per class."""
    return {
        "protocol": protocol,
        "labels": labels,
        "backbone": backbone.model_dump(),
        **settings,
        "crops": len(labelled),
        "classes": dict(zip(labelled.crops.classes, crops_per_class(labelled), strict=True)),
        "findings": asdict(labelled.findings),
    }


def crops_per_class(labelled: LabelledSet) -> list[int]:
    """Return the number of crops of each class, in the order of the classes."""
    counts: list[int] = np.bincount(labelled.crops.label, minlength=len(labelled.crops.classes)).tolist()
    return counts


def write_evaluation(
    out: Path,
    template: str,
    labelled: LabelledSet,
    *,
    metadata: Mapping[str, Any],
    figures: dict[str, float],
    files: Mapping[str, bytes],
    **context: Any,
) -> Evaluation:
    """Write evaluation.html, evaluation.json and further files into a folder, which is created.

    Args:
        out: The folder.
        template: Name of the page's template.
        labelled: The labelled crops; the page lists what was found in the labels.
        metadata: From `evaluation_metadata`.
        figures: Main figures by name, for evaluation.json and the page.
        files: Further files by name; the page embeds those that end in .svg.
        **context: Further variables of the template.

    Raises:
        UsageError: The folder cannot be written.
    """
    written = {**files, "evaluation.json": _encode_json({**metadata, "figures": figures})}
    environment = template_environment()
    environment.filters["three_decimals"] = _three_decimals
    environment.filters["row_shares"] = _row_shares
    page = environment.get_template(template).render(
        metadata=metadata,
        figures=figures,
        files=sorted(written),
        pictures={name: svg_uri(content) for name, content in files.items() if name.endswith(".svg")},
        classes=list(labelled.crops.classes),
        counts=crops_per_class(labelled),
        findings=labelled.findings,
        **context,
    )
    written["evaluation.html"] = page.encode()
    for name, content in written.items():
        write_atomically(out / name, content)
    return Evaluation(out / "evaluation.html", figures)


def encode_csv(header: Sequence[str], rows: TableRows) -> bytes:
    """Encode a table as CSV in UTF-8: numbers with six significant digits, missing values empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([escape_formula(name) for name in header])
    for row in rows:
        writer.writerow([_format_cell(value) for value in row])
    return buffer.getvalue().encode()


def encode_confusion(classes: Sequence[str], confusion: NDArray[np.int64]) -> bytes:
    """Encode a confusion matrix (classes, classes), true classes in rows, as confusion.csv."""
    rows = ((name, *row) for name, row in zip(classes, confusion.tolist(), strict=True))
    return encode_csv(("truth", *classes), rows)


def encode_layouts(
    labelled: LabelledSet,
    layouts: Mapping[str, NDArray[np.floating]],
    rows: Sequence[int],
) -> bytes:
    """Encode the positions (len(rows), 2) of crops in each layout as maps.csv."""
    crops = labelled.crops
    return encode_csv(
        ["name", "genus", *(f"{name}_{axis}" for name in layouts for axis in "xy")],
        (
            (
                labelled.names[row],
                crops.classes[crops.label[row]],
                *(float(value) for positions in layouts.values() for value in positions[number]),
            )
            for number, row in enumerate(rows)
        ),
    )


def _encode_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _format_cell(value: object) -> object:
    if isinstance(value, str):
        return escape_formula(value)
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else value


def _three_decimals(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def _row_shares(confusion: NDArray[np.int64]) -> list[list[tuple[int, float]]]:
    """Return (count, share of its row) for every cell of a confusion matrix."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return [
        list(zip(counts, shares, strict=True))
        for counts, shares in zip(confusion.tolist(), share.tolist(), strict=True)
    ]
