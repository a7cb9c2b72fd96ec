"""Small whole-slide images in DICOM, written byte by byte (PS3.5 explicit or implicit little endian, PS3.10)."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
_LONG_FORMS = ("OB", "OW", "SQ", "UN")
_numbers = itertools.count(1)

Element = tuple[int, int, str, bytes]


def write_dicom(
    path: Path,
    rgb: NDArray[np.uint8],
    *,
    series: str,
    mpp: float = 0.25,
    tile_px: int = 64,
    sop_class: str = WHOLE_SLIDE,
    syntax: str = EXPLICIT,
) -> Path:
    """One level of a slide, uncompressed. series: its SeriesInstanceUID."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = rgb.shape[:2]
    down, across = -(-height // tile_px), -(-width // tile_px)
    padded = np.full((down * tile_px, across * tile_px, 3), 255, np.uint8)
    padded[:height, :width] = rgb
    frames = padded.reshape(down, tile_px, across, tile_px, 3).swapaxes(1, 2).tobytes()
    instance = f"2.25.{next(_numbers)}"
    implicit = syntax == IMPLICIT
    spacing = [(0x0028, 0x0030, "DS", f"{mpp / 1000}\\{mpp / 1000}".encode())]
    measures = [(0x0028, 0x9110, "SQ", _sequence(spacing, implicit=implicit))]
    referenced = [(0x0008, 0x1150, "UI", b"1.2.3")]
    meta = _encode(
        [
            (0x0002, 0x0001, "OB", b"\0\1"),
            (0x0002, 0x0002, "UI", sop_class.encode()),
            (0x0002, 0x0003, "UI", instance.encode()),
            (0x0002, 0x0010, "UI", syntax.encode()),
        ]
    )
    elements: list[Element] = [
        (0x0008, 0x0008, "CS", b"ORIGINAL\\PRIMARY\\VOLUME\\NONE"),
        (0x0008, 0x0016, "UI", sop_class.encode()),
        (0x0008, 0x0018, "UI", instance.encode()),
        (0x0008, 0x0060, "CS", b"SM"),
        (0x0008, 0x1140, "SQ", _sequence(referenced, implicit=implicit)),
        (0x0020, 0x000D, "UI", b"2.25.999"),
        (0x0020, 0x000E, "UI", series.encode()),
        (0x0020, 0x9311, "CS", b"TILED_FULL"),
        (0x0028, 0x0002, "US", struct.pack("<H", 3)),
        (0x0028, 0x0004, "CS", b"RGB"),
        (0x0028, 0x0006, "US", struct.pack("<H", 0)),
        (0x0028, 0x0008, "IS", str(down * across).encode()),
        (0x0028, 0x0010, "US", struct.pack("<H", tile_px)),
        (0x0028, 0x0011, "US", struct.pack("<H", tile_px)),
        *((0x0028, element, "US", struct.pack("<H", value)) for element, value in _BITS),
        (0x0048, 0x0006, "UL", struct.pack("<I", width)),
        (0x0048, 0x0007, "UL", struct.pack("<I", height)),
        (0x0048, 0x0303, "UL", struct.pack("<I", 1)),
        (0x5200, 0x9229, "SQ", _sequence(measures, implicit=implicit)),
        (0x7FE0, 0x0010, "OB", frames),
    ]
    length = _encode([(0x0002, 0x0000, "UL", struct.pack("<I", len(meta)))])
    path.write_bytes(bytes(128) + b"DICM" + length + meta + _encode(elements, implicit=implicit))
    return path


_BITS = ((0x0100, 8), (0x0101, 8), (0x0102, 7), (0x0103, 0))


def _encode(elements: list[Element], *, implicit: bool = False) -> bytes:
    encoded = b""
    for group, element, form, value in elements:
        is_undefined = form == "SQ"
        padded = value + b"\0" * (len(value) % 2) if form in ("UI", "OB") else value + b" " * (len(value) % 2)
        length = 0xFFFFFFFF if is_undefined else len(padded)
        tag = struct.pack("<HH", group, element)
        if implicit:
            head = struct.pack("<I", length)
        elif form in _LONG_FORMS:
            head = form.encode() + struct.pack("<HI", 0, length)
        else:
            head = form.encode() + struct.pack("<H", length)
        encoded += tag + head + padded
    return encoded


def _sequence(elements: list[Element], *, implicit: bool) -> bytes:
    """A sequence of one item, both of undefined length."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + _encode(elements, implicit=implicit)
    return item + struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
