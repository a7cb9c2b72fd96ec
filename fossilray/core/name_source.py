"""Marks of names in exported tables and images: a person gave the name, or a head predicted it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

NAME_SOURCE = "name_source"
"""Column that states what named the column `genus` or `taxon` of its row: EXPERT, or `prediction:` and the head's
digest; empty where the row has no name."""
EXPERT = "expert"
PREDICTION = "prediction"

MARK_BYTES = 16 * 1024
"""Bytes at the begin of an image in which its mark is."""

_PREDICTION_COLUMNS = {
    *("genus_score", "genus_entropy", "genus_2", "genus_2_score", "score_2", "genus_3", "score_3"),
    "similarity",
}
"""Columns that only tables of predictions and of searches have."""
_BEGIN = b'fossilray {"name_source"'
_EXIF_DESCRIPTION, _EXIF_SOFTWARE = 0x010E, 0x0131


@dataclass(frozen=True)
class NameMark:
    """The mark inside an image that was exported under a predicted name."""

    name_source: str
    name: str
    folder: str
    """The folder that it was written into."""
    score: float | None = None


def predicted_source(head: Mapping[str, Any] | None) -> str:
    """Return the source of names that a head predicted. head: its fields in the record of the predictions."""
    digest = str((head or {}).get("sha256", ""))[:16]
    return f"{PREDICTION}:{digest}" if digest else PREDICTION


def is_predicted(source: str) -> bool:
    """Return whether a cell of NAME_SOURCE states a prediction."""
    return source.strip().lower().partition(":")[0] == PREDICTION


def has_predicted_names(columns: Collection[str]) -> bool:
    """Return whether the column `genus` of a table without NAME_SOURCE is of predictions, by its other columns."""
    return not _PREDICTION_COLUMNS.isdisjoint(name.lower() for name in columns)


def mark_jpeg(jpeg: bytes, mark: NameMark) -> bytes:
    """Return a JPEG file with the mark as the description in its EXIF."""
    from PIL import Image

    exif = Image.Exif()
    exif[_EXIF_DESCRIPTION] = f"fossilray {json.dumps(asdict(mark))}"
    exif[_EXIF_SOFTWARE] = "fossilray"
    payload = exif.tobytes()
    # The segment APP1 follows the mark that starts every JPEG file; its length includes the two bytes of the length.
    return jpeg[:2] + b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload + jpeg[2:]


def read_mark(begin: bytes) -> NameMark | None:
    """Return the mark in the first MARK_BYTES of an image; None if it has none.

    The text is searched for, so that it is found where another program has rewritten the EXIF.
    """
    at = begin.find(_BEGIN)
    if at < 0:
        return None
    text = begin[at + len(b"fossilray ") :].decode("latin-1")
    try:
        fields, _ = json.JSONDecoder().raw_decode(text)
        return NameMark(
            str(fields["name_source"]), str(fields["name"]), str(fields["folder"]), fields.get("score")
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
