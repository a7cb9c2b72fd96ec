"""Occurrences in the cells of a table, and in single texts such as the name of a folder: words, flags and times."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from fossilray.core.table_rows import TableRow
from fossilray.labels.label import Box, Scan
from fossilray.labels.occurrence import (
    KINDS_WITHOUT_TAXON,
    OBJECT_KINDS,
    QUALIFIERS,
    SITUATIONS,
    SPECIMEN_ROLES,
    Kind,
    Occurrence,
    clean_text,
    parse_taxon_name,
)
from fossilray.labels.taxonomy import RANKS

NO_LABELS = ("", "unlabeled", "unlabelled", "unsure", "crops")
"""Names that stand for a missing label: those of ParticleTrieur, and the folder that `suggest` writes."""

NAME_COLUMNS = ("taxon", "genus", "label", "class")
BOX_COLUMNS = ("x_min", "y_min", "x_max", "y_max")
CHOSEN_BY = "chosen_by"
"""Column that states how the object was chosen to be labelled."""
SCAN_COLUMNS = ("width", "height", "bounds_x", "bounds_y", "bounds_width", "bounds_height")

_MAX_PX = 2**31 - 1
_YES = ("yes", "y", "true", "1", "x")
_NO = ("", "no", "n", "false", "0")
_OTHER_WORDS = {
    **{"amorphous": "amorphous matter", "aom": "amorphous matter", "several": "several objects"},
    **{"part": "part of an object", "in situ": "in place", "spp.": "sp.", "spp": "sp."},
    **{"cf": "cf.", "aff": "aff.", "sp": "sp.", "indet": "indet."},
}
"""Words that stand for others, in lower case."""

_Word = TypeVar("_Word", bound=str)


def occurrence_of_cell(text: str) -> Occurrence | None:
    """Return the occurrence that a single text states: a kind, or a name with its qualifier; None for no label."""
    written = clean_text(text)
    if written.casefold() in NO_LABELS:
        return None
    kind = _kind_of(written)
    if kind is not None:
        return Occurrence("", "", kind=kind)
    parsed = parse_taxon_name(written)
    return Occurrence(written, parsed.taxon, parsed.qualifier)


def occurrence_of_row(row: TableRow) -> Occurrence | None:
    """Return the occurrence that a row states in the columns of a table of labels; None if it states none.

    Raises:
        FossilrayError: a word is not known, or two columns contradict each other.
    """
    column = next((name for name in NAME_COLUMNS if row[name]), None)
    by_name = None if column is None else occurrence_of_cell(row[column])
    kind = word_of(row, "kind", OBJECT_KINDS)
    if by_name is None and kind is None:
        return None
    written, taxon, parsed = (
        ("", "", None) if by_name is None else (by_name.written, by_name.taxon, by_name.qualifier)
    )
    if by_name is not None and by_name.kind != "fossil":
        if kind not in (None, by_name.kind):
            raise row.error(f"kind is {kind!r}, and {column} is {by_name.kind!r}; keep one of them", "kind")
        kind = by_name.kind
    kind = kind or "fossil"
    if taxon and kind in KINDS_WITHOUT_TAXON:
        raise row.error(f"kind is {kind!r}, and {column} names {taxon!r:.60}; keep one of them", "kind")
    qualifier = word_of(row, "qualifier", QUALIFIERS)
    if qualifier is not None and parsed not in (None, qualifier):
        raise row.error(
            f"qualifier is {qualifier!r}, and {column} is {written!r:.60}, which has {parsed!r}; keep one of them",
            "qualifier",
        )
    return Occurrence(
        written,
        taxon,
        qualifier or parsed,
        rank=word_of(row, "taxon_rank", RANKS) if taxon else None,
        kind=kind,
        situation=word_of(row, "situation", SITUATIONS),
        specimen=word_of(row, "specimen", SPECIMEN_ROLES),
        is_unsure=_is_yes(row, "unsure"),
        remark=clean_text(row["remark"]),
    )


def word_of(row: TableRow, column: str, words: tuple[_Word, ...]) -> _Word | None:
    """Return the word in a column; None if the cell is empty or the table lacks the column.

    Raises:
        FossilrayError: it is none of these words.
    """
    text = clean_text(row[column]).casefold()
    if not text:
        return None
    text = _OTHER_WORDS.get(text, text)
    known = next((word for word in words if word == text), None)
    if known is None:
        raise row.error(f"{column} is {row[column]!r:.40}, expected {', '.join(words)}", column)
    return known


def time_of(row: TableRow) -> str:
    """Return the time in the column `at`, ISO 8601 as written; empty if there is none.

    Raises:
        FossilrayError: it is not a date or time of ISO 8601.
    """
    text = row["at"]
    try:
        if text:
            datetime.fromisoformat(text)
    except ValueError:
        raise row.error(
            f"at is {text!r:.40}, expected a date or time such as 2026-03-01T14:05:00", "at"
        ) from None
    return text


def box_of(row: TableRow) -> Box | None:
    """Return the box of a row in level-0 px; None if none of its columns is filled.

    Raises:
        FossilrayError: a side is missing or not a whole number, or the box has no area.
    """
    sides = _whole_numbers(row, BOX_COLUMNS)
    if not sides:
        return None
    if lacking := [name for name in BOX_COLUMNS if name not in sides]:
        raise row.error(f"its box lacks {', '.join(lacking)}", lacking[0])
    box = (sides["x_min"], sides["y_min"], sides["x_max"], sides["y_max"])
    if box[0] >= box[2] or box[1] >= box[3]:
        raise row.error(f"its box {box} has no area; x_min is below x_max, and y_min below y_max", "x_max")
    return box


def scan_of(row: TableRow) -> Scan:
    """Return the scan that a row states in the columns scan_id, width, height and bounds_….

    Raises:
        FossilrayError: a number is not whole.
    """
    sizes: Any = _whole_numbers(row, SCAN_COLUMNS)
    return Scan(row["scan_id"] or None, **sizes)


def _whole_numbers(row: TableRow, columns: tuple[str, ...]) -> Mapping[str, int]:
    """Return the numbers of the columns that are filled."""
    numbers = {}
    for column in columns:
        value = row.number(column, whole=True, within=(-_MAX_PX, _MAX_PX))
        if value is not None:
            if abs(value) > _MAX_PX:
                raise row.error(f"{column} is {value:.0f}, beyond any slide", column)
            numbers[column] = int(value)
    return numbers


def _kind_of(text: str) -> Kind | None:
    word = _OTHER_WORDS.get(text.casefold(), text.casefold())
    return next((kind for kind in OBJECT_KINDS if kind == word), None)


def _is_yes(row: TableRow, column: str) -> bool:
    text = row[column].casefold()
    if text not in (*_YES, *_NO):
        raise row.error(f"{column} is {row[column]!r:.40}, expected yes or no", column)
    return text in _YES
