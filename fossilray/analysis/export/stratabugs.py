"""A matrix of counts in the terms of StrataBugs: types of samples, analyses, qualifiers and situations.

StrataData's pages state the types of samples (CU cuttings, SC sidewall core, CO core, OC outcrop) and that an analysis
is prepared, analysed or barren. The layout of a file that StrataBugs imports as a table is not published; this one is
read by column, and its first three rows name a column's taxon, qualifier and situation.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from fossilray.analysis.export.count_matrix import CountedSample, CountMatrix
from fossilray.analysis.export.occurrences import TaxonName
from fossilray.analysis.export.tilia import name_of
from fossilray.core.atomic_files import atomic_text
from fossilray.core.errors import UsageError
from fossilray.core.text import escape_formula

SAMPLE_TYPE_CODES = {"ditch cuttings": "CU", "side-wall core": "SC", "core": "CO", "outcrop": "OC"}
MATRIX_COLUMNS = (
    *("Well", "Sample", "Top depth (m)", "Base depth (m)", "Sample type"),
    *("Analysis", "Unnamed objects", "Names"),
)

_HEADINGS: tuple[tuple[str, Callable[[TaxonName], str]], ...] = (
    ("Qualifier", lambda name: name.qualifier),
    ("Situation", lambda name: name.situation),
)


def write_stratabugs(matrix: CountMatrix, out: Path) -> None:
    """Write the matrix as CSV, a row for each sample and a column for each name; 0 stays empty.

    Raises:
        UsageError: the file has another name than .csv, or cannot be written.
    """
    if out.suffix.lower() != ".csv":
        raise UsageError(f"{out} is no .csv; name the matrix so")
    with atomic_text(out, newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*MATRIX_COLUMNS, *(escape_formula(name.taxon) for name in matrix.taxa)])
        for heading, part in _HEADINGS:
            empty = [""] * (len(MATRIX_COLUMNS) - 1)
            writer.writerow([heading, *empty, *map(part, matrix.taxa)])
        for sample in matrix.samples:
            writer.writerow(
                [
                    escape_formula(matrix.well),
                    escape_formula(name_of(sample)),
                    sample.top_m,
                    sample.base_m,
                    _type_code(sample),
                    _state_of(sample),
                    sample.unnamed,
                    matrix.basis,
                    *(sample.counts[name] or "" for name in matrix.taxa),
                ]
            )


def _type_code(sample: CountedSample) -> str:
    kind = sample.sample_type or ""
    return SAMPLE_TYPE_CODES.get(kind, kind)


def _state_of(sample: CountedSample) -> str:
    """`analysed`, `barren`, or `prepared` where there are objects but none has a name."""
    if sample.counts:
        return "analysed"
    return "prepared" if sample.unnamed else "barren"
