"""Size, format of the pixels and resolution of a field of view, from the first bytes of its file."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

import simplejpeg
from PIL import Image as Pillow

from fossilray.core.errors import NotASlide, SlideError, TooLarge, UnsupportedSlide
from fossilray.core.types import Level, Rect, SlideInfo
from fossilray.slides.file_kinds import FIELD_SUFFIXES, FIELD_VENDOR, TIFF_STARTS
from fossilray.slides.limits import LARGEST_ACCEPTED_TILE_PX
from fossilray.slides.refusals import convert_tiff
from fossilray.slides.tiff.directories import TiffDirectory, read_directories

HEADER_BYTES: Final = 1 << 18
"""First bytes of a file that hold the header of its image; a camera may put previews and profiles before it."""

TIFF_SUFFIXES: Final = (".tif", ".tiff")

_JPEG, _PNG, _BMP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"
_MOST_READS = 64
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _DESCRIPTION, _ORIENTATION, _SAMPLES = 256, 257, 258, 262, 270, 274, 277
_X_RESOLUTION, _Y_RESOLUTION, _UNIT, _TILE_WIDTH, _SAMPLE_FORMAT = 282, 283, 296, 322, 339
_STRIP_OFFSETS, _STRIP_BYTE_COUNTS = 273, 279
_HAMAMATSU = range(65_420, 65_500)
_UNITS = {2: "inch", 3: "centimeter"}
_STATED = {_X_RESOLUTION: "XResolution", _Y_RESOLUTION: "YResolution", _DESCRIPTION: "ImageDescription"}
_COLOURS = {0: "grey", 1: "grey", 2: "RGB", 3: "a palette", 6: "RGB"}
_MODES = {
    "L": ("grey", 8),
    "LA": ("grey", 8),
    "P": ("a palette", 8),
    "PA": ("a palette", 8),
    "RGB": ("RGB", 8),
    "RGBA": ("RGB", 8),
    "I;16": ("grey", 16),
    "I;16B": ("grey", 16),
}
"""Colours and bits of the modes of Pillow that are read."""
# Levels are halved down to this side, which the coarsest pass of the detector and the overview need at most.
_SMALLEST_LEVEL_PX = 256
_EXIF_ORIENTATION = 0x112
_EXPORT = "export it as RGB with 8 bits per colour"


@dataclass(frozen=True)
class FieldHeader:
    """What the header of an image states.

    width, height: px of the upright image. orientation: that of EXIF, by which the stored pixels are turned; 1 where a
    TIFF's reader turns them. properties: of the slide, by OpenSlide's names where it has one.
    """

    format: str
    width: int
    height: int
    bits: int
    orientation: int
    properties: Mapping[str, str]

    @property
    def levels(self) -> tuple[Level, ...]:
        """The image and its halvings, which are made when they are read."""
        levels = [Level(self.width, self.height, 1.0)]
        while min(levels[-1].width, levels[-1].height) > _SMALLEST_LEVEL_PX:
            finer = levels[-1]
            levels.append(Level(-(-finer.width // 2), -(-finer.height // 2), finer.downsample * 2))
        return tuple(levels)

    def info(self, path: str, *, mpp: float, mpp_from: str, properties: Mapping[str, str]) -> SlideInfo:
        """Return the metadata of the field as those of a slide. properties: added to those of the header."""
        return SlideInfo(
            path=path,
            vendor=FIELD_VENDOR,
            width=self.width,
            height=self.height,
            mpp=mpp,
            levels=self.levels,
            bounds=Rect(0, 0, self.width, self.height),
            background_rgb=(255, 255, 255),
            mpp_from=mpp_from,
            properties={**self.properties, **properties},
        )


def is_field(name: str, start: bytes, read: Callable[[int, int], bytes]) -> bool:
    """Return whether a file is an image that is read as a field of view: JPEG, PNG, BMP, or a TIFF without tiles.

    name: of the file; an image under another ending is no field. start: its first bytes. read: returns bytes
    [start, stop) of it.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in FIELD_SUFFIXES and start.startswith((_JPEG, _PNG, _BMP)):
        return True
    return suffix in TIFF_SUFFIXES and bool(_plain_tiff(start, read))


def read_header(name: str, start: bytes, read: Callable[[int, int], bytes]) -> FieldHeader:
    """Return what the header of a field of view states. The arguments are those of `is_field`, which holds for it.

    Raises:
        NotASlide: the header is damaged.
        UnsupportedSlide: the pixels are of a kind that is not read.
        TooLarge: it claims more pixels than are decoded at once.
    """
    try:
        if start.startswith(TIFF_STARTS):
            header = _of_tiff(name, _plain_tiff(start, read))
        else:
            _check_size(name, *_claimed_size(start))
            header = _of_image(name, start)
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, OverflowError, struct.error) as error:
        raise damaged(name, error) from None
    _check_size(name, header.width, header.height)
    return header


def damaged(name: str, why: object) -> NotASlide:
    """Return the error for a field of view whose file is damaged."""
    return NotASlide(
        f"{name} cannot be decoded: {why}; it is damaged or cut short, copy it again from its source"
    )


def _of_image(name: str, start: bytes) -> FieldHeader:
    with Pillow.open(io.BytesIO(start), formats=("JPEG", "PNG", "BMP")) as file:
        if file.mode not in _MODES:
            raise _unsupported(name, f"pixels of the kind {file.mode}")
        colours, bits = _MODES[file.mode]
        if ";16" in str(getattr(file, "tile", "")):
            bits = 16
        # Pillow decodes a whole PNG to look for EXIF after its pixels, where writers do not put it.
        has_exif = file.format != "PNG" or "exif" in file.info
        orientation = int(file.getexif().get(_EXIF_ORIENTATION, 1)) if has_exif else 1
        properties = _described(file.format or "", bits, colours)
        across, down = file.info.get("dpi", (0, 0))
        if across and down:
            properties |= {
                "tiff.XResolution": f"{float(across):g}",
                "tiff.YResolution": f"{float(down):g}",
                "tiff.ResolutionUnit": "inch",
            }
        width, height = file.size
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return FieldHeader(properties["field.format"], width, height, bits, orientation, properties)


def _claimed_size(start: bytes) -> tuple[int, int]:
    """Return the width and height that a header claims, before a library allocates anything for them."""
    if start.startswith(_PNG):
        width, height = struct.unpack(">II", start[16:24])
    elif start.startswith(_BMP):
        # Bottom-up images have a positive height.
        width, height = struct.unpack("<ii", start[18:26])
    else:
        height, width, _, _ = simplejpeg.decode_jpeg_header(start)
    return abs(width), abs(height)


def _plain_tiff(start: bytes, read: Callable[[int, int], bytes]) -> list[TiffDirectory]:
    """Return the directories of a TIFF without tiles, as far as they can be read; none for other files."""
    directories: list[TiffDirectory] = []
    if not start.startswith(TIFF_STARTS):
        return directories
    # A stack of many planes has more directories than are read.
    with suppress(ValueError, KeyError, struct.error, OverflowError):
        directories.extend(read_directories(read, most_reads=_MOST_READS))
    is_plain = not any(
        _TILE_WIDTH in directory.tags or any(tag in _HAMAMATSU for tag in directory.tags)
        for directory in directories
    )
    has_pixels = bool(directories) and {_WIDTH, _HEIGHT, _STRIP_OFFSETS} <= directories[0].tags
    return directories if is_plain and has_pixels else []


def _of_tiff(name: str, directories: Sequence[TiffDirectory]) -> FieldHeader:
    first = directories[0]

    def number(tag: int, default: int) -> int:
        return int(first.first(tag)) if tag in first.tags else default

    bits, samples, photometric = number(_BITS, 1), number(_SAMPLES, 1), number(_PHOTOMETRIC, 1)
    if number(_SAMPLE_FORMAT, 1) != 1 or bits not in (8, 12, 16):
        kind = "floating-point or signed" if number(_SAMPLE_FORMAT, 1) != 1 else f"{bits}-bit"
        raise _unsupported(name, f"{kind} samples")
    if photometric not in _COLOURS:
        raise _unsupported(name, f"pixels of photometric interpretation {photometric}")
    properties = _described("TIFF", bits, _COLOURS[photometric] if samples < 3 else "RGB")
    for tag, key in _STATED.items():
        if tag in first.tags:
            properties[f"tiff.{key}"] = str(first.first(tag))
    properties["tiff.ResolutionUnit"] = _UNITS.get(number(_UNIT, 2), "unknown")
    width, height = number(_WIDTH, 0), number(_HEIGHT, 0)
    planes = sum(_has_size(directory, width, height) for directory in directories)
    if planes > 1:
        properties["field.planes"] = str(planes)
    if number(_ORIENTATION, 1) in (5, 6, 7, 8):
        width, height = height, width
    return FieldHeader("TIFF", width, height, bits, 1, properties)


def _has_size(directory: TiffDirectory, width: int, height: int) -> bool:
    sides = {_WIDTH: width, _HEIGHT: height}
    return all(tag in directory.tags and directory.first(tag) == side for tag, side in sides.items())


def check_strips(name: str, content: bytes) -> None:
    """Check that the strips of a TIFF lie inside the file.

    Raises:
        NotASlide: one does not.
    """
    directories = _plain_tiff(content, lambda start, stop: content[start:stop])
    try:
        first = directories[0]
        offsets = first.numbers(_STRIP_OFFSETS, most=1 << 20)
        counts = first.numbers(_STRIP_BYTE_COUNTS, most=1 << 20)
        is_whole = len(offsets) == len(counts) and bool(
            ((offsets > 0) & (counts > 0) & (offsets + counts <= len(content))).all()
        )
    except (LookupError, ValueError, struct.error) as error:
        raise damaged(name, error) from None
    if not is_whole:
        raise damaged(name, "strips of its pixels are missing, or lie beyond the end of the file")


def _described(image_format: str, bits: int, colours: str) -> dict[str, str]:
    name = {"MPO": "JPEG"}.get(image_format, image_format)
    return {"field.format": name, "field.bits": str(bits), "field.colours": colours}


def _check_size(name: str, width: int, height: int) -> None:
    if width <= 0 or height <= 0:
        raise damaged(name, f"it claims {width} x {height} px")
    if width * height > LARGEST_ACCEPTED_TILE_PX:
        raise TooLarge(
            f"{name} claims {width} x {height} px, more than the {LARGEST_ACCEPTED_TILE_PX / 1e6:.0f} megapixels that "
            f"are decoded at once; convert it to a tiled pyramidal TIFF: {convert_tiff(name)}"
        )


def _unsupported(name: str, what: str) -> SlideError:
    return UnsupportedSlide(f"{name} has {what}, which are not read as a field of view; {_EXPORT}")
