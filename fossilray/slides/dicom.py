"""Series of a DICOM file, from its first bytes: the files of one series are one slide.

Encoding: DICOM PS3.5, sections 7.1 (data elements) and 7.5 (nested sequences), and PS3.10 (file format).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from fossilray.core.slide_names import SLIDE_SUFFIXES
from fossilray.slides.file_kinds import FIELD_SUFFIXES, is_dicom

DICOM_START_BYTES = 1 << 16
"""First bytes of a file in which the series is looked for; it stands before the pixels and the colour profile."""

NOT_DICOM = (SLIDE_SUFFIXES - {".dcm"}) | FIELD_SUFFIXES
"""Endings of other formats. OpenSlide opens a file that is TIFF and DICOM at once by its ending."""

_PREAMBLE = 132
_META_GROUP = 0x0002
_TRANSFER_SYNTAX, _SOP_CLASS, _SERIES = (0x0002, 0x0010), (0x0008, 0x0016), (0x0020, 0x000E)
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_IMPLICIT = "1.2.840.10008.1.2"
# Big endian, and deflated.
_OTHER_ENCODINGS = ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_LONG_FORMS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 16

_Tag = tuple[int, int]


@dataclass(frozen=True)
class DicomSeries:
    """Series of a file. uid: its SeriesInstanceUID. is_slide: it is a whole-slide image."""

    uid: str
    is_slide: bool


def read_series(start: bytes) -> DicomSeries | None:
    """Return the series of a DICOM file by its first DICOM_START_BYTES; None for other and for damaged files."""
    if not is_dicom(start):
        return None
    syntax, sop_class, series = "", "", ""
    try:
        for tag, value in _top_elements(start):
            text = value.rstrip(b"\0 ").decode("ascii", errors="replace")
            if tag == _TRANSFER_SYNTAX:
                syntax = text
            elif tag == _SOP_CLASS:
                sop_class = text
            elif tag == _SERIES:
                series = text
            if tag >= _SERIES or syntax in _OTHER_ENCODINGS:
                break
    except (struct.error, ValueError):
        return None
    return DicomSeries(series, sop_class == _WHOLE_SLIDE) if series else None


def _top_elements(start: bytes) -> Iterator[tuple[_Tag, bytes]]:
    """Yield the elements outside sequences: those of the file's own header, then those of the data set."""
    at, is_implicit = _PREAMBLE, False
    while True:
        tag = _tag(start, at)
        is_meta = tag[0] == _META_GROUP
        at, length = _head(start, at, is_implicit=is_implicit and not is_meta)
        if length == _UNDEFINED:
            at = _skip_items(start, at, is_implicit=is_implicit, depth=0)
            continue
        value = start[at : at + length]
        if tag == _TRANSFER_SYNTAX:
            is_implicit = value.rstrip(b"\0 ") == _IMPLICIT.encode()
        yield tag, value
        at += length


def _tag(start: bytes, at: int) -> _Tag:
    group, element = struct.unpack_from("<HH", start, at)
    return group, element


def _head(start: bytes, at: int, *, is_implicit: bool) -> tuple[int, int]:
    """Return where the value of the element at `at` begins, and its length."""
    if is_implicit or _tag(start, at) in (_ITEM, _ITEM_END, _SEQUENCE_END):
        return at + 8, struct.unpack_from("<I", start, at + 4)[0]
    form = start[at + 4 : at + 6]
    if not form.isalpha() or not form.isupper():
        raise ValueError(f"an element has the form {form!r}")
    if form in _LONG_FORMS:
        return at + 12, struct.unpack_from("<I", start, at + 8)[0]
    return at + 8, struct.unpack_from("<H", start, at + 6)[0]


def _skip_items(start: bytes, at: int, *, is_implicit: bool, depth: int) -> int:
    """Return where a sequence or an item of undefined length ends."""
    if depth > _DEEPEST:
        raise ValueError("sequences are nested too deep")
    while True:
        tag = _tag(start, at)
        at, length = _head(start, at, is_implicit=is_implicit)
        if tag in (_ITEM_END, _SEQUENCE_END):
            return at
        at = (
            _skip_items(start, at, is_implicit=is_implicit, depth=depth + 1)
            if length == _UNDEFINED
            else at + length
        )
