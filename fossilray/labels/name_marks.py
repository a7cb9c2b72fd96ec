"""Recognition of predicted names in the sources of labels: tables with their marks, and exported folders of images."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from fossilray.core.errors import UsageError
from fossilray.core.formats.regular_file import read_regular
from fossilray.core.name_source import (
    EXPERT,
    MARK_BYTES,
    NAME_SOURCE,
    has_predicted_names,
    is_predicted,
    read_mark,
)
from fossilray.core.table_rows import TableRow
from fossilray.core.user_table import read_user_table
from fossilray.labels.occurrence_cells import NAME_COLUMNS

_OBJECTS_CSV = "objects.csv"
"""Beside the folders of an export of images."""


def is_predicted_row(row: TableRow) -> bool:
    """Return whether a head gave the name of a row.

    `name_source` is about the column `genus` of an export; a name in another column is a person's. A table without it
    is of predictions if it has columns that only these have.

    Raises:
        FossilrayError: the cell of name_source is neither `expert` nor a prediction.
    """
    if not row.table.has(NAME_SOURCE):
        return has_predicted_names(row.table.header)
    source = row[NAME_SOURCE].strip()
    if source.lower() not in ("", EXPERT) and not is_predicted(source):
        raise row.error(
            f"{NAME_SOURCE} is {source!r:.40}, expected {EXPERT}, or prediction with the digest of the head",
            NAME_SOURCE,
        )
    column = next((name for name in NAME_COLUMNS if row[name]), None)
    return is_predicted(source) and column == "genus"


def is_predicted_image(path: Path, *, label: str, exported: Collection[str]) -> bool:
    """Return whether an image is in the folder under which a head's prediction was exported; a person moved others.

    Args:
        label: name of its folder.
        exported: files of the export by its table, for images whose EXIF was lost.
    """
    try:
        mark = read_mark(read_regular(path, most_bytes=MARK_BYTES)[:MARK_BYTES])
    except OSError:
        mark = None
    if mark is not None:
        return is_predicted(mark.name_source) and label in (mark.folder, mark.name)
    return f"{label}/{path.name}" in exported


def exported_files(folder: Path) -> frozenset[str]:
    """Return <folder>/<image> of predictions by the table of an export in this folder; empty without such a table."""
    path = folder / _OBJECTS_CSV
    if not path.is_file():
        return frozenset()
    try:
        table = read_user_table(path, use="files of an export", columns=())
    except UsageError:
        return frozenset()
    if not table.has("file", NAME_SOURCE):
        return frozenset()
    return frozenset(row["file"] for row in table.rows if is_predicted(row[NAME_SOURCE]))
