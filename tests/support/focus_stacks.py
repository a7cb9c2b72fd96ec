"""Slides with focus planes: objects at known depths, each plane defocused by its distance, in several formats."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from support.jpeg_tiffs import Tags, assembled

from fossilray.synthetic.painters.palynomorphs import PaintedSpecimen, paint

CLEAR = np.array([226, 222, 219], np.float32)
BLUR_UM_PER_UM = 0.35
"""Standard deviation of the blur per um of distance from focus, as of an objective of NA 0.7 or so."""
TILE_PX = 256
_KINDS = ("bisaccate_pollen", "proximate_cyst", "tricolpate_pollen", "trilete_spore", "chorate_cyst")
_SVS = "Aperio Image Library v12\n{0}x{1} [0,0 {0}x{1}] (256x256) JPEG/RGB|AppMag = 20|MPP = {2}"

Compression = Literal["none", "deflate", "jpeg"]
Plane = NDArray[np.uint8]


@dataclass(frozen=True)
class FocusStack:
    """Planes (k, h, w, 3) uint8; boxes (n, 4) px of the objects; sharp: (n,) the plane in which each is in focus."""

    planes: NDArray[np.uint8]
    boxes: NDArray[np.int64]
    sharp: NDArray[np.int64]
    um_per_px: float


def paint_stack(
    size: int = 1024,
    *,
    planes: int = 5,
    step_um: float = 4.0,
    objects: int = 16,
    um_per_px: float = 0.5,
    noise: float = 2.0,
    seed: int = 0,
) -> FocusStack:
    """Paint objects on a grid of cells, each in focus in one plane; objects are spread evenly over the planes."""
    rng = np.random.default_rng(seed)
    cells = int(np.ceil(np.sqrt(objects)))
    pitch = size // cells
    sharp = np.arange(objects) % planes
    rng.shuffle(sharp)
    light = np.ones((planes, size, size, 3), np.float32)
    boxes = []
    for number in range(objects):
        specimen = _specimen(rng, um_per_px, 0.6 * pitch * um_per_px)
        height, width = specimen.mask.shape
        room = (pitch - max(height, width)) // 2 - 1
        middle = np.array([number % cells, number // cells]) * pitch + pitch // 2
        left, top = (middle - [width // 2, height // 2]).tolist()
        rows, columns = np.flatnonzero(specimen.mask.any(1)), np.flatnonzero(specimen.mask.any(0))
        boxes.append([left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1])
        sheet = np.pad(specimen.transmittance, ((room, room), (room, room), (0, 0)), constant_values=1)
        for plane in range(planes):
            blur_px = BLUR_UM_PER_UM * step_um * abs(plane - sharp[number]) / um_per_px
            shown = cv2.GaussianBlur(sheet, (0, 0), blur_px) if blur_px else sheet
            light[plane, top - room : top + height + room, left - room : left + width + room] *= shown
    pixels = np.empty(light.shape, np.uint8)
    for plane in range(planes):
        grain = rng.standard_normal(light[plane].shape, dtype=np.float32) * np.float32(noise)
        pixels[plane] = np.clip(light[plane] * CLEAR + grain + 0.5, 0, 255)
    return FocusStack(pixels, np.array(boxes), sharp, um_per_px)


def _specimen(rng: np.random.Generator, um_per_px: float, largest_um: float) -> PaintedSpecimen:
    """Paint an object that is dark enough to be seen and fits into its cell."""
    while True:
        size_um = float(rng.uniform(0.6, 1.0)) * largest_um
        painted = paint(str(rng.choice(_KINDS)), size_um=size_um, um_per_px=um_per_px, rng=rng)
        dark = 1 - painted.transmittance[painted.mask].min(axis=1)
        if (
            painted.mask.any()
            and dark.mean() > 0.15
            and max(painted.mask.shape) * um_per_px < 1.5 * largest_um
        ):
            return painted


def write_pages(
    path: Path, stack: FocusStack, *, levels: int = 3, compression: Compression = "none", reduced: bool = True
) -> Path:
    """A tiled TIFF of the planes, each at full size, then each coarser level of all planes.

    reduced: coarser levels are marked as reduced images, and OpenSlide takes all of them for levels.
    """
    pages = [
        Page(halved(plane, level), stack.um_per_px * 2**level, is_reduced=reduced and level > 0)
        for level in range(levels)
        for plane in stack.planes
    ]
    return _write_tiled(path, pages, compression)


def write_ome(path: Path, stack: FocusStack, *, levels: int = 1, compression: Compression = "none") -> Path:
    """An OME-TIFF with SizeZ, and coarser levels in SubIFDs of each plane."""
    count, height, width, _ = stack.planes.shape
    ome = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{width}" '
        f'SizeY="{height}" SizeC="3" SizeZ="{count}" SizeT="1" PhysicalSizeX="{stack.um_per_px}" '
        f'PhysicalSizeY="{stack.um_per_px}"><Channel ID="Channel:0" SamplesPerPixel="3"/><TiffData/>'
        "</Pixels></Image></OME>"
    )
    with tifffile.TiffWriter(path) as file:
        for number, plane in enumerate(stack.planes):
            first = Page(plane, stack.um_per_px, description=ome if number == 0 else None)
            _write_page(file, first, compression, sub_directories=levels - 1)
            for level in range(1, levels):
                page = Page(halved(plane, level), stack.um_per_px * 2**level, is_reduced=True)
                _write_page(file, page, compression)
    return path


def write_svs(
    path: Path,
    stack: FocusStack,
    *,
    levels: int = 2,
    compression: Compression = "jpeg",
    order: Literal["by level", "by plane"] = "by level",
) -> Path:
    """An SVS with the planes of each level together, or the levels of each plane, as ImageScope exports them."""
    height, width = stack.planes.shape[1:3]
    numbers = [(level, plane) for level in range(levels) for plane in range(len(stack.planes))]
    if order == "by plane":
        numbers.sort(key=lambda number: number[::-1])
    description = _SVS.format(width, height, stack.um_per_px)
    pages = [
        Page(halved(stack.planes[plane], level), stack.um_per_px * 2**level, description=description)
        for level, plane in numbers
    ]
    return _write_tiled(path, pages, compression)


@dataclass(frozen=True)
class Page:
    """An image of a TIFF."""

    pixels: Plane
    um_per_px: float
    is_reduced: bool = False
    description: str | None = None


def halved(plane: Plane, times: int) -> Plane:
    """The plane at half its size, as often as stated."""
    for _ in range(times):
        size = plane.shape[1] // 2, plane.shape[0] // 2
        plane = np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA), np.uint8)
    return plane


def _write_tiled(path: Path, pages: Sequence[Page], compression: Compression) -> Path:
    if compression == "jpeg":
        path.write_bytes(assembled([_jpeg_page(page) for page in pages], order="<", is_big=False))
        return path
    with tifffile.TiffWriter(path) as file:
        for page in pages:
            _write_page(file, page, compression)
    return path


def _write_page(
    file: tifffile.TiffWriter, page: Page, compression: Compression, *, sub_directories: int = 0
) -> None:
    file.write(
        page.pixels,
        tile=(TILE_PX, TILE_PX),
        photometric="rgb",
        compression="zlib" if compression == "deflate" else None,
        predictor=compression == "deflate",
        subfiletype=int(page.is_reduced),
        resolution=(10_000 / page.um_per_px, 10_000 / page.um_per_px),
        resolutionunit="centimeter",
        description=page.description,
        subifds=sub_directories or None,
        metadata=None,
    )


def _jpeg_page(page: Page) -> tuple[Tags, list[bytes]]:
    """Tags and tiles of an image in JPEG. (tifffile would need another library.)"""
    height, width = page.pixels.shape[:2]
    per_cm = round(10_000 / page.um_per_px)
    tags: Tags = {
        254: ("I", [int(page.is_reduced)]),
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [8, 8, 8]),
        259: ("H", [7]),
        262: ("H", [6]),
        277: ("H", [3]),
        282: ("I", [per_cm, 1]),
        283: ("I", [per_cm, 1]),
        284: ("H", [1]),
        296: ("H", [3]),
        322: ("I", [TILE_PX]),
        323: ("I", [TILE_PX]),
        530: ("H", [2, 2]),
    }
    if page.description is not None:
        tags[270] = ("c", page.description.encode() + b"\0")
    whole = np.pad(page.pixels, [(0, -side % TILE_PX) for side in (height, width)] + [(0, 0)], mode="edge")
    tiles = [
        _jpeg(whole[top : top + TILE_PX, left : left + TILE_PX])
        for top in range(0, height, TILE_PX)
        for left in range(0, width, TILE_PX)
    ]
    return tags, tiles


def _jpeg(pixels: Plane, *, subsampling: int = 2, **options: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90, subsampling=subsampling, **options)
    return file.getvalue()


def write_ndpi(path: Path, stack: FocusStack, *, levels: int = 2, depths_um: Sequence[float]) -> Path:
    """An NDPI: each level of each plane is one JPEG with restart markers; depths of planes in um, one of them 0."""
    content = bytearray(struct.pack("<2sHQ", b"II", 42, 0))
    link = 4
    for plane, depth_um in zip(stack.planes, depths_um, strict=True):
        for level in range(levels):
            pixels = halved(plane, level)
            stored = _jpeg(pixels, subsampling=0, restart_marker_blocks=16)
            # Each interval begins after a restart marker, the first after the header.
            header = stored.index(b"\xff\xda") + 2
            header += int.from_bytes(stored[header : header + 2], "big")
            starts = [header, *(found.end() for found in re.finditer(rb"\xff[\xd0-\xd7]", stored[header:]))]
            starts[1:] = [start + header for start in starts[1:]]
            at = len(content)
            content += stored
            per_cm = round(10_000 / (stack.um_per_px * 2**level))
            directory: list[tuple[int, str, list[float]]] = [
                (256, "I", [pixels.shape[1]]),
                (257, "I", [pixels.shape[0]]),
                (258, "H", [8, 8, 8]),
                (259, "H", [7]),
                (262, "H", [6]),
                (273, "I", [at]),
                (277, "H", [3]),
                (278, "I", [pixels.shape[0]]),
                (279, "I", [len(stored)]),
                (282, "R", [per_cm, 1]),
                (283, "R", [per_cm, 1]),
                (296, "H", [3]),
                (65_420, "I", [1]),
                (65_421, "f", [20 / 2**level]),
                (65_424, "i", [round(depth_um * 1000)]),
                (65_426, "I", starts),
            ]
            link = _append_directory(content, link, directory)
    path.write_bytes(content)
    return path


def _append_directory(content: bytearray, link: int, tags: Sequence[tuple[int, str, list[float]]]) -> int:
    """Append a directory with the 64-bit pointers of an NDPI; return where the pointer to the next one stands."""
    entries = b""
    for tag, letter, values in tags:
        kind, words = {"H": (3, 1), "I": (4, 1), "R": (5, 2), "i": (9, 1), "f": (11, 1)}[letter]
        stored = struct.pack(f"<{len(values)}{'I' if letter == 'R' else letter}", *values)
        if len(stored) > 4:
            content += stored + bytes(len(stored) % 2)
            stored = struct.pack("<I", len(content) - len(stored) - len(stored) % 2)
        entries += struct.pack("<HHI", tag, kind, len(values) // words) + stored.ljust(4, b"\0")
    struct.pack_into("<Q", content, link, len(content))
    content += struct.pack("<H", len(tags)) + entries
    link = len(content)
    content += bytes(8 + 4 * len(tags))
    return link
