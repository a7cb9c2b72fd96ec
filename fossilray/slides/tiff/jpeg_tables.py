"""Complete JPEGs from the tiles of a TIFF, which share tables and whose colour space the TIFF states.

Sources: TIFF Technical Note 2, and libjpeg's choice between RGB and YCbCr (default_decompress_parms of jdapimin.c):
always YCbCr after a JFIF marker, else by an Adobe marker.
"""

from __future__ import annotations

from collections.abc import Iterator

_START = b"\xff\xd8"
# Version 1.1, no unit, 1 to 1, no thumbnail.
_IS_YCBCR = b"\xff\xe0\x00\x10JFIF\0\x01\x01\x00\x00\x01\x00\x01\x00\x00"
# Version 100, no flags, no transform of colours.
_IS_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
_QUANTIZATION, _HUFFMAN, _SCAN, _END = 0xDB, 0xC4, 0xDA, 0xD9
# Baseline, extended and progressive frames.
_FRAMES = (0xC0, 0xC1, 0xC2)
_RESTARTS = 0xDD
_COMMENT = 0xFE
_APPLICATION = range(0xE0, 0xF0)


class JpegTables:
    """Converter of the tiles of one level to complete JPEGs; any number of threads may call it.

    tables: bytes of the tag JPEGTables; empty if there is none. is_rgb: the tiles are RGB, else YCbCr.

    Raises:
        ValueError: the bytes are no JPEG tables.
    """

    def __init__(self, tables: bytes, *, is_rgb: bool) -> None:
        self._head = _START + (_IS_RGB if is_rgb else _IS_YCBCR)
        for marker, segment in _segments(tables) if tables else ():
            if marker not in (_QUANTIZATION, _HUFFMAN, _END):
                raise ValueError(f"JPEG tables hold a marker {marker:#x}")
            self._head += segment if marker != _END else b""
        # Nearly all tiles begin alike: the head of the last one, and its replacement.
        self._known = b"", b""

    def __call__(self, tile: bytes) -> bytes:
        """Return a tile with the level's tables and colour marker instead of its own application markers.

        Raises:
            ValueError: the tile is no JPEG of three components of 8 bits, or has unsupported markers.
        """
        begun, head = self._known
        if not (begun and tile.startswith(begun)):
            begun, head = self._known = self._rewritten(tile)
        return head + tile[len(begun) :]

    def _rewritten(self, tile: bytes) -> tuple[bytes, bytes]:
        """Return all bytes before the data of the first scan, as stored and as rewritten."""
        head = self._head
        frames = 0
        for marker, segment in _segments(tile):
            if marker in _FRAMES:
                # Length, precision, height, width, components.
                frames += 1
                if len(segment) != 19 or segment[4] != 8 or segment[9] != 3:
                    raise ValueError("a tile has other components than three of 8 bits")
            elif marker == _SCAN and frames == 1:
                start = len(tile) - len(segment) + 2
                return tile[:start], head + segment[:2]
            elif marker in _APPLICATION or marker == _COMMENT:
                continue
            elif marker not in (_QUANTIZATION, _HUFFMAN, _RESTARTS):
                raise ValueError(f"a tile holds a marker {marker:#x}")
            head += segment
        raise ValueError("a tile has no scan")


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each marker and its segment (marker bytes included); the first scan extends to the end."""
    if not content.startswith(_START):
        raise ValueError("a JPEG does not begin")
    at = 2
    while at + 4 <= len(content):
        if content[at] != 0xFF:
            raise ValueError("a JPEG has something between its markers")
        marker = content[at + 1]
        if marker == _SCAN:
            yield marker, content[at:]
            return
        size = int.from_bytes(content[at + 2 : at + 4], "big")
        yield marker, content[at : at + 2 + size]
        at += 2 + size
    if content[at : at + 2] == bytes((0xFF, _END)):
        yield _END, content[at:]
