"""Pixels of a field of view: the image decoded whole, and its halvings."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import threading
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image as Pillow

from fossilray.core.errors import TooLarge
from fossilray.slides.fields.image_header import (
    HEADER_BYTES,
    FieldHeader,
    check_strips,
    damaged,
    is_field,
    read_header,
)

# Eight bytes a pixel, of the largest image, and its metadata.
_LARGEST_BYTES = 600_000_000
# Bytes between the data and the end of the image, which some cameras write, change no pixel.
_PADDED = re.compile(r"Corrupt JPEG data: [0-9]+ extraneous bytes before marker 0xd9")
_PNG_CHUNKS_FROM = 8
_START_BYTES = 4096


class ImageHandle:
    """Pixels of a field of view, a PixelHandle. bgra: (height, width, 4) uint8, premultiplied, of the upright image."""

    def __init__(self, bgra: NDArray[np.uint8]) -> None:
        self._levels = [bgra]
        self._halving = threading.Lock()

    def read(self, argb: NDArray[np.uint32], level: int, x: int, y: int) -> None:
        """Fill `argb` (height, width) with premultiplied pixels, 0 outside the image. x, y: level-0 px.

        Positions between the pixels of a level are interpolated linearly.
        """
        height, width = argb.shape
        pixels = self._level(level)
        left, across = divmod(x, 1 << level)
        top, down = divmod(y, 1 << level)
        out = argb.view(np.uint8).reshape(height, width, 4)
        if not (across or down):
            _copy_window(pixels, left, top, out)
            return
        window = np.empty((height + 1, width + 1, 4), np.uint8)
        _copy_window(pixels, left, top, window)
        shift = np.array([[1, 0, -across / (1 << level)], [0, 1, -down / (1 << level)]])
        cv2.warpAffine(window, shift, (width, height), dst=out, flags=cv2.INTER_LINEAR)

    def close(self) -> None:
        """Forget the pixels."""
        self._levels = []

    def _level(self, number: int) -> NDArray[np.uint8]:
        with self._halving:
            while len(self._levels) <= number:
                self._levels.append(_halve(self._levels[-1]))
            return self._levels[number]


@dataclass(frozen=True, eq=False)
class FieldImage:
    """A decoded field of view. bgra: (height, width, 4) uint8, premultiplied and upright. sha256: of its file."""

    header: FieldHeader
    bgra: NDArray[np.uint8]
    sha256: str


def read_field(path: Path) -> FieldImage | None:
    """Return a field of view, decoded; None for a file that is none.

    Raises:
        OSError: the file cannot be read.
        NotASlide: it is damaged.
        UnsupportedSlide, TooLarge: as `read_header`.
    """
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
        read = partial(_read_range, file, start)
        if not is_field(path.name, start, read):
            return None
        header = read_header(path.name, start, read)
        file.seek(len(start))
        content = start + file.read(_LARGEST_BYTES - len(start) + 1)
    if len(content) > _LARGEST_BYTES:
        raise TooLarge(
            f"{path.name} has more than {_LARGEST_BYTES / 1e6:.0f} MB; convert it to a tiled pyramidal TIFF"
        )
    return FieldImage(header, _decode(path.name, content, header), hashlib.sha256(content).hexdigest())


def decode_field(name: str, content: bytes) -> FieldImage | None:
    """Return a field of view whose content is in memory; None for content that is none.

    Raises:
        NotASlide, UnsupportedSlide, TooLarge: as `read_field`.
    """
    start, read = content[:HEADER_BYTES], partial(_part_of, content)
    if not is_field(name, start, read):
        return None
    header = read_header(name, start, read)
    return FieldImage(header, _decode(name, content, header), hashlib.sha256(content).hexdigest())


def is_field_file(path: Path) -> bool:
    """Return whether a file on a disk is read as a field of view, by its content.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
        return is_field(path.name, start, partial(_read_range, file, start))


def _read_range(file: BinaryIO, start: bytes, begin: int, end: int) -> bytes:
    """Return bytes [begin, end) of a file whose first bytes are `start`."""
    if end <= len(start):
        return start[begin:end]
    file.seek(begin)
    return file.read(end - begin)


def _part_of(content: bytes, begin: int, end: int) -> bytes:
    return content[begin:end]


def _decode(name: str, content: bytes, header: FieldHeader) -> NDArray[np.uint8]:
    try:
        match header.format:
            case "JPEG":
                bgra = _decode_jpeg(content)
            case _:
                if header.format == "PNG":
                    _check_chunks(content)
                if header.format == "TIFF":
                    check_strips(name, content)
                bgra = _decode_others(content, header)
    except (
        OSError,
        SyntaxError,
        ValueError,
        LookupError,
        TypeError,
        EOFError,
        struct.error,
        zlib.error,
    ) as error:
        raise damaged(name, error) from None
    bgra = _turn(bgra, header.orientation)
    if bgra.shape[:2] != (header.height, header.width):
        raise damaged(
            name, f"it has {bgra.shape[1]} x {bgra.shape[0]} px and claims {header.width} x {header.height}"
        )
    return bgra


def _decode_jpeg(content: bytes) -> NDArray[np.uint8]:
    try:
        return np.asarray(simplejpeg.decode_jpeg(content, "BGRA", strict=True))
    except ValueError as error:
        if not _PADDED.match(str(error)):
            raise
        return np.asarray(simplejpeg.decode_jpeg(content, "BGRA", strict=False))


def _decode_others(content: bytes, header: FieldHeader) -> NDArray[np.uint8]:
    with Pillow.open(io.BytesIO(content), formats=(header.format,)) as file:
        file.load()
        if file.mode.startswith("I;16"):
            grey = (np.asarray(file).astype(np.uint16) >> (header.bits - 8)).clip(0, 255).astype(np.uint8)
            return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGRA))
        if file.mode == "RGB" and "transparency" not in file.info:
            return np.asarray(cv2.cvtColor(np.asarray(file), cv2.COLOR_RGB2BGRA))
        if file.mode not in ("L", "LA", "P", "PA", "RGB", "RGBA"):
            raise ValueError(f"its pixels are of the kind {file.mode}")
        rgba = np.asarray(file.convert("RGBA"))
    premultiplied = rgba if rgba[..., 3].min() == 255 else cv2.cvtColor(rgba, cv2.COLOR_RGBA2mRGBA)
    return np.asarray(cv2.cvtColor(premultiplied, cv2.COLOR_RGBA2BGRA))


def _check_chunks(content: bytes) -> None:
    """Check the checksums of a PNG's chunks: decoders may skip them, or take a missing end for blank pixels.

    Raises:
        ValueError, struct.error: one is wrong, or the last chunk is missing.
    """
    at, kind = _PNG_CHUNKS_FROM, b""
    view = memoryview(content)
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, at)
        (stated,) = struct.unpack_from(">I", content, at + 8 + length)
        if zlib.crc32(view[at + 4 : at + 8 + length]) != stated:
            raise ValueError(f"the checksum of its chunk {kind!r:.20} at byte {at:,} is wrong")
        at += 12 + length


def _turn(bgra: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return the upright image of stored pixels, by the orientation of EXIF."""
    if orientation in (5, 6, 7, 8):
        bgra = bgra.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        bgra = bgra[:, ::-1]
    if orientation in (3, 4, 7, 8):
        bgra = bgra[::-1]
    return np.ascontiguousarray(bgra)


def _halve(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the means of 2 x 2 pixels; the last row and column are repeated where the size is odd."""
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        pixels = cv2.copyMakeBorder(pixels, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)  # type: ignore[assignment]
    size = pixels.shape[1] // 2, pixels.shape[0] // 2
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _copy_window(pixels: NDArray[np.uint8], left: int, top: int, out: NDArray[np.uint8]) -> None:
    """Fill `out` with the window of `pixels` whose top left corner is at left, top; 0 outside."""
    height, width = out.shape[:2]
    rows = slice(max(top, 0), min(top + height, pixels.shape[0]))
    columns = slice(max(left, 0), min(left + width, pixels.shape[1]))
    if rows.stop - rows.start < height or columns.stop - columns.start < width:
        out[:] = 0
    if rows.start < rows.stop and columns.start < columns.stop:
        inside = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        out[inside] = pixels[rows, columns]
