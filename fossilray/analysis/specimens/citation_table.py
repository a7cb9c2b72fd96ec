"""Citations of specimens as a table for other programs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from fossilray.analysis.specimens.citation import CITATION_COLUMNS, Citation, row_of
from fossilray.core.atomic_files import atomic_text
from fossilray.core.errors import UsageError
from fossilray.core.text import escape_formula


def write_citations(citations: Sequence[Citation], path: Path) -> None:
    """Write a CSV of CITATION_COLUMNS; `--specimens` reads it again.

    Raises:
        UsageError: the file has another name than .csv, or cannot be written.
    """
    if path.suffix.lower() != ".csv":
        raise UsageError(f"{path} is no .csv; name the file of citations so")
    with atomic_text(path, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CITATION_COLUMNS)
        for citation in citations:
            writer.writerow(
                escape_formula(cell) if isinstance(cell, str) else cell for cell in row_of(citation)
            )
