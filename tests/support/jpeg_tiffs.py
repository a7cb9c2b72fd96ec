"""TIFFs in JPEG tiles of every kind; Pillow encodes them. (tifffile would need another library for JPEG.)"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Tags: TypeAlias = dict[int, tuple[str, bytes | list[int]]]
"""Letter of struct and values, by the number of the tag."""


@dataclass(frozen=True, kw_only=True)
class JpegTiff:
    """How a TIFF is stored.

    subsampling: as Pillow counts, 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0. tables: once for all tiles, or in each.
    markers: whether tiles say JFIF, and so YCbCr, whatever the TIFF says. halves: sizes of coarser levels, as shares
    of level 0. gaps: the share of tiles that are missing.
    """

    tile_px: tuple[int, int] = (64, 64)
    photometric: Literal["ycbcr", "rgb"] = "ycbcr"
    subsampling: int = 2
    tables: Literal["shared", "own"] = "own"
    markers: Literal["jfif", "none"] = "none"
    is_big: bool = False
    byte_order: Literal["<", ">"] = "<"
    halves: tuple[float, ...] = (0.4987, 0.25, 0.1201)
    gaps: float = 0.0
    description: str | None = None
    encoding: dict[str, Any] = field(default_factory=dict)
    """More for Pillow's JPEG encoder."""
    other_tags: dict[int, list[int]] = field(default_factory=dict)
    """Short numbers that a directory states instead."""
    ending: bytes = b"\xff\xd9"
    """What each tile ends with instead of the end marker."""


def write_jpeg_tiff(path: Path, image: NDArray[np.uint8], kind: JpegTiff, seed: int = 0) -> None:
    """A pyramid that OpenSlide opens with all its levels, at 0.25 um per px."""
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    directories = []
    for share in (1.0, *kind.halves):
        size = max(1, int(width * share)), max(1, int(height * share))
        pixels = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        tiles = list(encoded_tiles(pixels, kind, rng))
        tags: Tags = {
            254: ("I", [int(share < 1)]),
            256: ("I", [size[0]]),
            257: ("I", [size[1]]),
            258: ("H", [8, 8, 8]),
            259: ("H", [7]),
            262: ("H", [{"rgb": 2, "ycbcr": 6}[kind.photometric]]),
            277: ("H", [3]),
            282: ("I", [40_000, 1]),
            283: ("I", [40_000, 1]),
            284: ("H", [1]),
            296: ("H", [3]),
            322: ("I", [kind.tile_px[0]]),
            323: ("I", [kind.tile_px[1]]),
            530: ("H", [min(2, kind.subsampling + 1), max(1, kind.subsampling)]),
        }
        if kind.description is not None:
            tags[270] = ("c", kind.description.encode() + b"\0")
        if kind.tables == "shared":
            tags[347] = ("B", tables_of(kind))
        tags |= {tag: ("H", values) for tag, values in kind.other_tags.items()}
        directories.append((tags, tiles))
    path.write_bytes(assembled(directories, order=kind.byte_order, is_big=kind.is_big))


def assembled(directories: list[tuple[Tags, list[bytes]]], *, order: str, is_big: bool) -> bytes:
    """A whole file: tiles, values that do not fit into their entries, directories."""
    pointer = order + ("Q" if is_big else "I")
    mark = b"II" if order == "<" else b"MM"
    version = struct.pack(order + "HHH", 43, 8, 0) if is_big else struct.pack(order + "H", 42)
    content = bytearray(mark + version)
    # The place of the pointer to the next directory; 0 there ends the chain.
    link = len(content)
    content += bytes(struct.calcsize(pointer))
    for tags, tiles in directories:
        places = []
        for tile in tiles:
            places.append(len(content) if tile else 0)
            content += tile
        where: Tags = {324: (pointer[1], places), 325: (pointer[1], [len(tile) for tile in tiles])}
        entries = b""
        for tag, (letter, values) in sorted((tags | where).items()):
            code, words = (
                (5, 2) if tag in (282, 283) else ({"B": 7, "c": 2, "H": 3, "I": 4, "Q": 16}[letter], 1)
            )
            stored = (
                values if isinstance(values, bytes) else struct.pack(f"{order}{len(values)}{letter}", *values)
            )
            if len(stored) > struct.calcsize(pointer):
                content += stored + bytes(len(stored) % 2)
                stored = struct.pack(pointer, len(content) - len(stored) - len(stored) % 2)
            entries += struct.pack(order + "HH", tag, code) + struct.pack(pointer, len(values) // words)
            entries += stored.ljust(struct.calcsize(pointer), b"\0")
        struct.pack_into(pointer, content, link, len(content))
        content += struct.pack(order + ("Q" if is_big else "H"), len(tags | where)) + entries
        link = len(content)
        content += bytes(struct.calcsize(pointer))
    return bytes(content)


def encoded_tiles(pixels: NDArray[np.uint8], kind: JpegTiff, rng: np.random.Generator) -> Iterator[bytes]:
    across, down = kind.tile_px
    rim = ((0, -pixels.shape[0] % down), (0, -pixels.shape[1] % across), (0, 0))
    # What lies beyond the canvas is noise, so that it is seen where it should not be.
    whole = np.pad(pixels, rim)
    whole[pixels.shape[0] :] = rng.integers(0, 256, whole[pixels.shape[0] :].shape)
    whole[:, pixels.shape[1] :] = rng.integers(0, 256, whole[:, pixels.shape[1] :].shape)
    for top in range(0, whole.shape[0], down):
        for left in range(0, whole.shape[1], across):
            is_gap = (top or left) and rng.random() < kind.gaps
            yield b"" if is_gap else encode(whole[top : top + down, left : left + across], kind)


def encode(tile: NDArray[np.uint8], kind: JpegTiff) -> bytes:
    streamtype = 2 if kind.tables == "shared" else 0
    content = _saved(tile, kind, streamtype)
    content = content.removesuffix(b"\xff\xd9") + kind.ending
    return content if kind.markers == "jfif" else without_jfif(content)


def tables_of(kind: JpegTiff) -> bytes:
    return _saved(np.zeros((16, 16, 3), np.uint8), kind, 1)


def without_jfif(content: bytes) -> bytes:
    """A JPEG less the JFIF marker that it begins with."""
    if content[2:4] != b"\xff\xe0":
        return content
    return content[:2] + content[4 + int.from_bytes(content[4:6], "big") :]


def _saved(tile: NDArray[np.uint8], kind: JpegTiff, streamtype: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(tile).save(
        file, "JPEG", quality=85, subsampling=kind.subsampling, streamtype=streamtype, **kind.encoding
    )
    return file.getvalue()
