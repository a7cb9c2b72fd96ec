"""A workbook of counts in the layout of Tilia's data sheet, from which data enter the Neotoma database.

By the Tilia manual (tilia-manual.readthedocs.io, "Editing Your Tilia Data File"): the columns A to G are Code, Name,
Element, Units, Context, Taphonomy and Group; samples begin in column H. Row 1 has their depths, row 2 the names of the
analysis units, the next rows what describes them, such as their thickness; then follows a row for each taxon. Depths
and thicknesses are in centimetres, as in Neotoma. Counts of specimens have the unit NISP.
"""

from __future__ import annotations

from pathlib import Path

from fossilray.analysis.export.count_matrix import CountedSample, CountMatrix
from fossilray.core.atomic_files import write_atomically
from fossilray.core.errors import UsageError
from fossilray.core.formats.xlsx import write_sheets
from fossilray.core.text import escape_formula

TiliaRow = list[str | int | float | None]

TILIA_COLUMNS = ("Code", "Name", "Element", "Units", "Context", "Taphonomy", "Group")
_CM_PER_M = 100.0


def write_tilia(matrix: CountMatrix, out: Path) -> None:
    """Write the workbook: the data sheet, and a sheet of notes.

    Raises:
        UsageError: the file has another name than .xlsx, or cannot be written.
    """
    if out.suffix.lower() != ".xlsx":
        raise UsageError(f"{out} is no .xlsx; name the workbook so")
    try:
        content = write_sheets({"Data": _data_rows(matrix), "Notes": _note_rows(matrix)})
    except ValueError as fault:
        raise UsageError(f"{out} cannot be written: the table has {fault}") from None
    write_atomically(out, content)


def _data_rows(matrix: CountMatrix) -> list[TiliaRow]:
    samples = matrix.samples
    rows: list[TiliaRow] = [
        [*TILIA_COLUMNS, *map(_depth_cm, samples)],
        [None, "Analysis Unit Name", *[None] * 5, *(escape_formula(name_of(sample)) for sample in samples)],
        [None, "Thickness", None, "cm", *[None] * 3, *map(_thickness_cm, samples)],
        [None, "Sample type", *[None] * 5, *(sample.sample_type for sample in samples)],
    ]
    for name in matrix.taxa:
        written = f"{name.taxon} {name.qualifier}".strip()
        rows.append(
            [
                *(None, escape_formula(written), None, "NISP", None, name.situation or None, None),
                *(sample.counts[name] for sample in samples),
            ]
        )
    return rows


def _note_rows(matrix: CountMatrix) -> list[TiliaRow]:
    return [
        ["Site", escape_formula(matrix.well)],
        ["Names", matrix.basis],
        ["Objects counted", matrix.objects],
        ["Objects without a name, not counted", matrix.unnamed],
        ["Depth", "middle of the sample's interval, cm of measured depth below the datum of the well"],
        [
            "Empty columns",
            "Code, Element, Context and Group are Neotoma's terms, which the run does not know",
        ],
    ]


def name_of(sample: CountedSample) -> str:
    """Return the slides of a sample."""
    return ", ".join(sample.slide_ids)


def _depth_cm(sample: CountedSample) -> float | None:
    if sample.top_m is None or sample.base_m is None:
        return None
    return round((sample.top_m + sample.base_m) / 2 * _CM_PER_M, 3)


def _thickness_cm(sample: CountedSample) -> float | None:
    if sample.top_m is None or sample.base_m is None:
        return None
    return round((sample.base_m - sample.top_m) * _CM_PER_M, 3)
