"""Errors for files that OpenSlide refuses: unsupported, misnamed or damaged."""

from __future__ import annotations

import re
import shlex
import struct
from collections.abc import Sequence
from pathlib import Path, PurePath

from fossilray.core.errors import NotASlide, SlideError, UnsupportedSlide
from fossilray.slides.file_kinds import START_BYTES, TIFF_STARTS, foreign_slide, is_dicom, kind_of
from fossilray.slides.tiff.directories import TiffDirectory, directories_in
from fossilray.slides.tiff.pixel_format import describe_format

_WIDTH, _BITS, _COMPRESSION, _TILE_WIDTH, _SAMPLE_FORMAT = 256, 258, 259, 322, 339
_APERIO = "Aperio"
_DESCRIPTION = 270
# Hamamatsu stores each level of an NDPI as one strip.
_HAMAMATSU = range(65_420, 65_500)
_FLOAT = 3
_DEPTHS = (1, 2, 4, 8, 16)
# Numbers are those of libtiff's tiff.h, of tifffile and of the registered private tags.
_CODECS = {
    6: "old JPEG",
    9: "JBIG",
    10: "JBIG",
    262: "Kodak DCR",
    22610: "JPEG XR of NDPI",
    32867: "Kodak KDC",
    33003: "JPEG 2000 of Aperio",
    33004: "JPEG 2000",
    33005: "JPEG 2000 of Aperio",
    33007: "JPEG of ALT",
    34661: "JBIG",
    34712: "JPEG 2000",
    34718: "Microsoft Document Imaging",
    34887: "LERC",
    34892: "lossy JPEG of DNG",
    34925: "LZMA",
    34926: "Zstandard of NDPI",
    34927: "WebP of NDPI",
    34933: "PNG",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    50013: "Pixtiff",
    52546: "JPEG XL of DNG",
    65000: "EER",
    65001: "EER",
    65002: "EER",
}
"""Compressions of TIFF that OpenSlide does not read, by number."""
_OF_APERIO = (33003, 33005)
_READ_BY_VIPS = (50001,)
_MIRAX_CODECS = {
    "JPEGXR": "JPEG XR",
    "JPEG2000": "JPEG 2000",
    "JPEGLS": "JPEG-LS",
    "WEBP": "WebP",
    "TIFF": "TIFF",
    "BMP48": "BMP of 16 bits per colour",
    "PNG16": "PNG of 16 bits per colour",
}
_MIRAX_REMEDY = (
    "export it with 3DHISTECH's SlideConverter or CaseViewer, as MIRAX in JPEG or as pyramidal TIFF"
)
_CZI_REMEDY = (
    "export it from ZEN as CZI without compression, or convert it with Bio-Formats "
    "(`bfconvert -tilex 512 -tiley 512 -compression JPEG IN.czi OUT.ome.tif`)"
)
_DICOM_REMEDY = (
    "decompress each of its files (`gdcmconv --raw IN.dcm OUT.dcm`), or export it as pyramidal TIFF"
)
_BITS_REMEDY = "export it again as RGB with 8 bits per colour"


def explain_failure(name: str, message: str) -> SlideError:
    """Return the error for a file that OpenSlide cannot open. name: of the file. message: OpenSlide's."""
    number = re.search(r"Unsupported TIFF compression: (\d+)", message)
    if number is not None:
        return unsupported_compression(name, int(number[1]))
    for pattern, what, remedy in _UNSUPPORTED:
        match = re.search(pattern, message)
        if match is not None:
            return UnsupportedSlide(
                f"{name} {what.format(*match.groups())}, which OpenSlide does not read; {remedy}"
            )
    return NotASlide(
        f"{name} cannot be opened: {message}; it is damaged or incomplete, copy it again with all its files"
    )


_UNSUPPORTED = (
    (r"can not handle (?:images|data) with (.{1,80})", "has images with {}", _BITS_REMEDY),
    (r"Unsupported JPEG (data precision \d+|process: .{1,40})", "has JPEG tiles of {}", _BITS_REMEDY),
    (r"requested compression method is not configured", "has an unusual TIFF compression", _BITS_REMEDY),
    (r"(\S.{0,30}?) compression is not supported", "has tiles in {}", _CZI_REMEDY),
    (r"Compression (\d+) is not supported", "has tiles in compression {} of CZI", _CZI_REMEDY),
    (r"Pixel type (\w+) is not supported", "has pixels of the type {}", _CZI_REMEDY),
    (r"Nonzero subblock channel (\d+)", "has several channels", "export it from ZEN as RGB"),
    (r"Unsupported transfer syntax (\S+)", "has the transfer syntax {}", _DICOM_REMEDY),
    (r"Unsupported photometric interpretation (\S+)", "has pixels in {}", _DICOM_REMEDY),
    (
        r"Slides with dissimilar main images",
        "has main images of different kinds",
        "export each of them by itself",
    ),
    (r"JPEG color components != 3", "has JPEG tiles without three colours", _BITS_REMEDY),
)
"""Patterns of OpenSlide's messages about slides that are sound, what they mean, and the remedy."""


def unsupported_compression(name: str, number: int) -> SlideError:
    """Return the error for a TIFF whose tiles have a compression that OpenSlide does not read."""
    codec = _CODECS.get(number)
    if codec is None:
        return NotASlide(
            f"{name} states TIFF compression {number}, which no known program writes; it is damaged, copy it "
            "again from its source"
        )
    remedy = convert_tiff(name) if number in _READ_BY_VIPS else _decode_tiff(name)
    return UnsupportedSlide(
        f"{name} has tiles in {codec} (TIFF compression {number}), which OpenSlide does not read; convert it: {remedy}"
    )


def unsupported_mirax_tiles(name: str, image_format: str) -> UnsupportedSlide | None:
    """Return the error for a MIRAX slide with tiles in this image format; None if it is read, or no known one."""
    codec = _MIRAX_CODECS.get(image_format)
    if codec is None:
        return None
    return UnsupportedSlide(
        f"{name} has tiles in {codec}, which OpenSlide does not read in MIRAX (it reads JPEG, PNG and BMP24); "
        f"{_MIRAX_REMEDY}"
    )


def unsupported_mirax_layout(name: str, version: str, levels: Sequence[int]) -> UnsupportedSlide:
    """Return the error for a MIRAX slide with levels that are not halved. version: stated by the slide."""
    numbers = ", ".join(map(str, levels))
    return UnsupportedSlide(
        f"{name} has the layout of MIRAX {version:.10} (IMAGE_CONCAT_FACTOR is 0 on level {numbers}, expected 1 "
        f"or more), which OpenSlide does not read; {_MIRAX_REMEDY}"
    )


def refuse_file(path: Path) -> SlideError:
    """Return the error for a file that OpenSlide does not recognise.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(START_BYTES)
        if start.startswith(TIFF_STARTS):
            try:
                return refuse_tiff(path.name, list(directories_in(file)))
            except (KeyError, ValueError, struct.error, OverflowError, IndexError):
                return NotASlide(
                    f"{path.name} is a TIFF whose directories cannot be read; it is damaged or cut short, copy it "
                    "again from its source"
                )
    return refuse_start(path.name, start)


def refuse_start(name: str, start: bytes) -> SlideError:
    """Return the error for a file that is neither a TIFF nor recognised. start: its first START_BYTES bytes."""
    kind = kind_of(start)
    if kind is not None and kind.name.startswith("a"):
        return NotASlide(f"{name} is {kind.name}, no slide; {kind.remedy}")
    if kind is not None:
        return NotASlide(f"{name} has {kind.name}; {kind.remedy}")
    if is_dicom(start):
        return NotASlide(
            f"{name} is a DICOM file of another kind than a whole-slide image; take it from the slides"
        )
    foreign = foreign_slide(name)
    if foreign is not None:
        form, remedy = foreign
        return UnsupportedSlide(f"{name} is in the format {form}, which OpenSlide does not read; {remedy}")
    return NotASlide(
        f"{name} is in no format that OpenSlide reads; if it is an image, convert it to a tiled pyramidal TIFF"
    )


def refuse_tiff(name: str, directories: Sequence[TiffDirectory]) -> SlideError:
    """Return the error for a TIFF that OpenSlide does not recognise."""
    known = why_tiff_unsupported(name, directories)
    return known or NotASlide(
        f"{name} is in no format that OpenSlide reads; if it is an image, convert it to a tiled pyramidal TIFF: "
        f"{convert_tiff(name)}"
    )


def why_tiff_unsupported(name: str, directories: Sequence[TiffDirectory]) -> SlideError | None:
    """Return the error for a TIFF that OpenSlide refuses by the tags of its first image; None for others.

    Raises:
        KeyError, ValueError, struct.error: the directories are damaged.
    """
    first = directories[0]
    codec = _unsupported_codec(name, first)
    if codec is not None or any(tag in _HAMAMATSU for tag in first.tags):
        return codec
    if not any(_TILE_WIDTH in directory.tags for directory in directories):
        return UnsupportedSlide(
            f"{name} is a TIFF in strips, not in tiles, which OpenSlide does not read; convert it: {convert_tiff(name)}"
        )
    if _TILE_WIDTH not in first.tags:
        return None
    return _unsupported_samples(name, first) or _unsupported_planes(name, directories)


def explain_tiff_failure(path: Path) -> SlideError | None:
    """Return the error for a TIFF that OpenSlide cannot open because of its compression; None for other files."""
    try:
        with path.open("rb") as file:
            first = next(directories_in(file)) if file.read(4).startswith(TIFF_STARTS) else None
            return None if first is None else _unsupported_codec(path.name, first)
    except (OSError, KeyError, ValueError, struct.error, OverflowError, StopIteration):
        return None


def check_samples(path: Path) -> None:
    """Check that OpenSlide can show the samples of a TIFF; it would open the file and fail at each tile.

    Other files pass, and damaged ones, which OpenSlide reports.

    Raises:
        UnsupportedSlide: the samples are floating-point numbers, or have a depth that OpenSlide does not read.
    """
    with path.open("rb") as file:
        if not file.read(4).startswith(TIFF_STARTS):
            return
        try:
            first = next(directories_in(file))
            refusal = _unsupported_samples(path.name, first) if _TILE_WIDTH in first.tags else None
        except (KeyError, ValueError, struct.error, OverflowError, StopIteration):
            return
    if refusal is not None:
        raise refusal


def _unsupported_codec(name: str, first: TiffDirectory) -> SlideError | None:
    number = int(first.first(_COMPRESSION)) if _COMPRESSION in first.tags else 1
    is_aperio = _DESCRIPTION in first.tags and str(first.first(_DESCRIPTION)).startswith(_APERIO)
    return (
        unsupported_compression(name, number)
        if number in _CODECS and not (is_aperio and number in _OF_APERIO)
        else None
    )


def _unsupported_planes(name: str, directories: Sequence[TiffDirectory]) -> SlideError | None:
    """Return the error for an SVS with the levels of each focus plane after those of the one before."""
    planes = describe_format(directories).full_size
    first = directories[0]
    is_aperio = _DESCRIPTION in first.tags and str(first.first(_DESCRIPTION)).startswith(_APERIO)
    widths = [int(each.first(_WIDTH)) for each in directories if _TILE_WIDTH in each.tags]
    # OpenSlide reads the planes of one level after those of the finer one.
    is_by_level = widths == sorted(widths, reverse=True)
    if planes < 2 or not is_aperio or is_by_level:
        return None
    return UnsupportedSlide(
        f"{name} has {planes:,} focus planes, all levels of each after those of the one before, which OpenSlide does "
        "not read; convert it to OME-TIFF (`bfconvert`, of Bio-Formats), and read the planes with --planes best"
    )


def _unsupported_samples(name: str, first: TiffDirectory) -> SlideError | None:
    bits = int(first.first(_BITS)) if _BITS in first.tags else 1
    is_float = _SAMPLE_FORMAT in first.tags and first.first(_SAMPLE_FORMAT) == _FLOAT
    if bits in _DEPTHS and not is_float:
        return None
    what = f"{bits}-bit floating-point" if is_float else f"{bits}-bit"
    return UnsupportedSlide(f"{name} has {what} samples, which OpenSlide does not read; {_BITS_REMEDY}")


def convert_tiff(name: str) -> str:
    """Return the command that makes a tiled pyramidal TIFF of an image that libvips reads."""
    out = f"{PurePath(name).stem}-tiled.tif"
    options = "--tile --pyramid --bigtiff --compression jpeg --Q 90"
    return f"`vips tiffsave {shlex.quote(name)} {shlex.quote(out)} {options}`"


def _decode_tiff(name: str) -> str:
    """Return the commands for a compression that imagecodecs decodes and libvips does not."""
    out = f"{PurePath(name).stem}-plain.tif"
    code = (
        f"import tifffile as t; t.imwrite({out!r}, t.imread({name!r}), tile=(256, 256), photometric='rgb', "
        "compression='zlib', bigtiff=True)"
    )
    return f"`pip install imagecodecs`, `python -c {shlex.quote(code)}`, and state its um per px in a catalog"
