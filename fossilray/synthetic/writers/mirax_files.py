"""Files in a MIRAX folder: data files, Index.dat and Slidedat.ini.

Format: https://openslide.org/formats/mirax/ and OpenSlide's reader.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from fossilray.synthetic.writers.mirax_plan import MiraxOptions, MiraxScanGrid

INDEX_VERSION = "01.02"
INDEX_FILE = "Index.dat"
SLIDEDAT_FILE = "Slidedat.ini"
# Offsets in Index.dat are signed 32-bit numbers; a scanner starts a new file long before.
_LARGEST_FILE_BYTES = 1_900_000_000
_ENTRIES_A_PAGE = 1_000
# The format version of position buffers with 9 bytes a photo: flag, x, y.
_POSITION_FORMAT = 257
_POSITION = np.dtype([("flag", "u1"), ("x", "<i4"), ("y", "<i4")])

_IniValues = dict[str, str | int | float]
_IniSections = dict[str, _IniValues]


@dataclass(frozen=True)
class Stored:
    """Position of a byte range in the data files."""

    offset: int
    length: int
    file_number: int


class DataFiles:
    """Data0000.dat and its successors, written one after the other."""

    def __init__(self, folder: Path, slide_id: str) -> None:
        self._folder = folder
        self._slide_id = slide_id
        self._open: BinaryIO | None = None
        self.paths: list[Path] = []

    def __enter__(self) -> Self:
        self.start_file()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._open is not None:
            self._open.close()

    def start_file(self) -> None:
        """Close the current file and start the next one."""
        if self._open is not None:
            self._open.close()
        path = self._folder / f"Data{len(self.paths):04d}.dat"
        self._open = path.open("wb")
        header = f"{INDEX_VERSION}{self._slide_id}{len(self.paths):03d}".encode("ascii")
        self._open.write(header)
        self.paths.append(path)

    def append(self, data: bytes) -> Stored:
        """Append `data` and return its position."""
        assert self._open is not None, "DataFiles is used as a context manager"
        if self._open.tell() + len(data) > _LARGEST_FILE_BYTES:
            self.start_file()
        stored = Stored(self._open.tell(), len(data), len(self.paths) - 1)
        self._open.write(data)
        return stored


class TileIndex:
    """Positions of the tiles of all levels: the hierarchical section of Index.dat."""

    def __init__(self, levels: int) -> None:
        self._entries = [array("i") for _ in range(levels)]

    def add(self, level: int, image_index: int, stored: Stored) -> None:
        """Add a tile; image_index: number of its upper left level-0 tile, counted row by row."""
        entry = (image_index, stored.offset, stored.length, stored.file_number)
        self._entries[level].extend(entry)

    def to_bytes(self, slide_id: str, records: Sequence[Stored]) -> bytes:
        """Return the content of Index.dat; `records` are in the order of the NONHIER values of Slidedat.ini."""
        out = _PointerBuffer(INDEX_VERSION.encode("ascii") + slide_id.encode("ascii"))
        roots = out.reserve(2)

        out.point(roots)
        heads = out.reserve(len(self._entries))
        for level, entries in enumerate(self._entries):
            out.point(heads + 4 * level)
            table = np.frombuffer(entries, dtype=np.int32).reshape(-1, 4)
            # The list always starts with an empty page.
            out.write([0])
            next_page = out.reserve(1)
            for start in range(0, max(1, len(table)), _ENTRIES_A_PAGE):
                page = table[start : start + _ENTRIES_A_PAGE]
                out.point(next_page)
                out.write([len(page)])
                next_page = out.reserve(1)
                out.write(page)

        out.point(roots + 4)
        heads = out.reserve(len(records))
        for number, stored in enumerate(records):
            out.point(heads + 4 * number)
            out.write([0])
            first_page = out.reserve(1)
            out.point(first_page)
            out.write([1, 0, 0, 0, stored.offset, stored.length, stored.file_number])
        return bytes(out.data)


class _PointerBuffer:
    """Buffer of little-endian int32, with reserved pointers that are set later."""

    def __init__(self, start: bytes) -> None:
        self.data = bytearray(start)

    def write(self, values: Sequence[int] | np.ndarray) -> None:
        self.data += np.asarray(values, dtype="<i4").tobytes()

    def reserve(self, count: int) -> int:
        """Return the offset of the first of `count` new pointers; an unset one is 0, the end of a list."""
        offset = len(self.data)
        self.data += bytes(4 * count)
        return offset

    def point(self, offset: int) -> None:
        """Set the pointer at `offset` to the current end of the buffer."""
        self.data[offset : offset + 4] = len(self.data).to_bytes(4, "little")


def position_buffer(grid: MiraxScanGrid) -> bytes:
    """Return the record of photo positions, 9 bytes each, row by row."""
    records = np.ones(grid.columns * grid.rows, dtype=_POSITION)
    records["x"] = grid.positions[..., 0].ravel()
    records["y"] = grid.positions[..., 1].ravel()
    return records.tobytes()


def slidedat_bytes(
    grid: MiraxScanGrid,
    options: MiraxOptions,
    *,
    name: str,
    slide_id: str,
    thumbnail_size: tuple[int, int],
    data_paths: list[Path],
) -> bytes:
    """Return the content of Slidedat.ini."""
    red, green, blue = options.background_rgb
    has_positions = options.layout == "overlapping"
    hierarchical: _IniValues = {
        "HIER_COUNT": 1,
        "NONHIER_COUNT": 2 if has_positions else 1,
        "INDEXFILE": INDEX_FILE,
        "HIER_0_NAME": "Slide zoom level",
        "HIER_0_COUNT": grid.levels,
    }
    for level in range(grid.levels):
        hierarchical[f"HIER_0_VAL_{level}"] = f"ZoomLevel_{level}"
        hierarchical[f"HIER_0_VAL_{level}_SECTION"] = f"LAYER_0_LEVEL_{level}_SECTION"
    hierarchical |= {
        "NONHIER_0_NAME": "Scan data layer",
        "NONHIER_0_COUNT": 1,
        "NONHIER_0_VAL_0": "ScanDataLayer_SlidePreview",
        "NONHIER_0_VAL_0_SECTION": "NONHIERLAYER_0_LEVEL_0_SECTION",
    }
    data_file_names: _IniValues = {"FILE_COUNT": len(data_paths)}
    data_file_names |= {f"FILE_{number}": file.name for number, file in enumerate(data_paths)}
    sections: _IniSections = {
        "GENERAL": {
            "SLIDE_VERSION": INDEX_VERSION,
            "SLIDE_ID": slide_id,
            "SLIDE_NAME": name,
            "SLIDE_TYPE": "SLIDE_TYPE_BRIGHTFIELD",
            "IMAGENUMBER_X": grid.columns * options.divisions_per_side,
            "IMAGENUMBER_Y": grid.rows * options.divisions_per_side,
            "OBJECTIVE_MAGNIFICATION": round(10 / options.mpp),
            "CameraImageDivisionsPerSide": options.divisions_per_side,
        },
        "HIERARCHICAL": hierarchical,
        "DATAFILE": data_file_names,
        "NONHIERLAYER_0_LEVEL_0_SECTION": {
            "PREVIEW_IMAGE_TYPE": "JPEG",
            "PREVIEW_IMAGE_WIDTH": thumbnail_size[0],
            "PREVIEW_IMAGE_HEIGHT": thumbnail_size[1],
        },
    }
    if has_positions:
        hierarchical |= {
            "NONHIER_1_NAME": "VIMSLIDE_POSITION_BUFFER",
            "NONHIER_1_COUNT": 1,
            "NONHIER_1_VAL_0": "default",
            "NONHIER_1_VAL_0_SECTION": "NONHIERLAYER_1_LEVEL_0_SECTION",
        }
        sections["NONHIERLAYER_1_LEVEL_0_SECTION"] = {
            "VIMSLIDE_POSITION_DATA_FORMAT_VERSION": _POSITION_FORMAT
        }
    for level in range(grid.levels):
        scale = 1 << level
        sections[f"LAYER_0_LEVEL_{level}_SECTION"] = {
            "OVERLAP_X": (options.photo_px - grid.step_x) / scale,
            "OVERLAP_Y": (options.photo_px - grid.step_y) / scale,
            "MICROMETER_PER_PIXEL_X": options.mpp * scale,
            "MICROMETER_PER_PIXEL_Y": options.mpp * scale,
            "IMAGE_FORMAT": "JPEG",
            "IMAGE_COMPRESSION_FACTOR": options.jpeg_quality,
            "IMAGE_FILL_COLOR_BGR": blue << 16 | green << 8 | red,
            "DIGITIZER_WIDTH": options.tile_px,
            "DIGITIZER_HEIGHT": options.tile_px,
            "IMAGE_CONCAT_FACTOR": min(level, 1),
        }
    return _ini_bytes(sections)


def _ini_bytes(sections: _IniSections) -> bytes:
    """Encode an INI file as scanners do: UTF-8 with a byte-order mark, lines end with CRLF."""
    lines: list[str] = []
    for name, values in sections.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {value}" for key, value in values.items()]
    return ("\r\n".join(lines) + "\r\n").encode("utf-8-sig")
