"""Kinds of files that are met beside slides or under their names, by ending and by first bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

START_BYTES = 4096
"""Number of first bytes of a file by which its kind is recognised."""

FIELD_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".png", ".bmp"))
"""Endings, lower case, of images that are read as fields of view; a TIFF may be one too, without tiles."""

FIELD_VENDOR = "field"
"""Vendor of fields of view, where slides have the one of their scanner."""

ARCHIVE_SUFFIXES = frozenset((".zip", ".7z", ".rar", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".zst"))
"""Endings, lower case, of packed files."""

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DICOM_AT = 128

_BIO_FORMATS = (
    "convert it with Bio-Formats (`bfconvert -tilex 512 -tiley 512 -compression JPEG IN OUT.ome.tif`)"
)
_VENDOR = "export it as SVS or pyramidal TIFF from the scanner's software"
FOREIGN_SLIDES = {
    ".vsi": ("Olympus VSI", _BIO_FORMATS),
    ".ets": ("Olympus VSI", _BIO_FORMATS),
    ".oir": ("Olympus OIR", _BIO_FORMATS),
    ".oib": ("Olympus OIB", _BIO_FORMATS),
    ".nd2": ("Nikon ND2", _BIO_FORMATS),
    ".lif": ("Leica LIF", _BIO_FORMATS),
    ".zvi": ("Zeiss ZVI", _BIO_FORMATS),
    ".ims": ("Imaris IMS", _BIO_FORMATS),
    ".isyntax": ("Philips iSyntax", "export it as TIFF from the Philips software"),
    ".i2syntax": ("Philips iSyntax", "export it as TIFF from the Philips software"),
    ".kfb": ("KFBIO KFB", _VENDOR),
    ".sdpc": ("SQRAY SDPC", _VENDOR),
    ".mds": ("Motic MDS", _VENDOR),
    ".mdsx": ("Motic MDSX", _VENDOR),
    ".tmap": ("UNIC TMAP", _VENDOR),
    ".jp2": (
        "JPEG 2000",
        "convert it: `vips tiffsave IN OUT.tif --tile --pyramid --bigtiff --compression jpeg`",
    ),
}
"""Name and remedy of the formats of slides that OpenSlide does not read, by ending."""


@dataclass(frozen=True)
class FileKind:
    """What a file is. name: with its article. remedy: what its owner may do."""

    name: str
    remedy: str


_FIELD = "if it is a field of view, give it the ending of its format"
_UNPACK = "unpack it"
_AGAIN = "download it again"
_STARTS = (
    (b"\xff\xd8\xff", FileKind("a JPEG image", _FIELD)),
    (b"\x89PNG\r\n\x1a\n", FileKind("a PNG image", _FIELD)),
    (b"BM", FileKind("a BMP image", _FIELD)),
    (b"GIF8", FileKind("a GIF image", _FIELD)),
    (b"\0\0\0\x0cjP  ", FileKind("a JPEG 2000 image", FOREIGN_SLIDES[".jp2"][1])),
    (b"PK\x03\x04", FileKind("a ZIP archive", _UNPACK)),
    (b"\x1f\x8b", FileKind("a gzip archive", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", _UNPACK)),
    (b"Rar!\x1a\x07", FileKind("a RAR archive", _UNPACK)),
    (b"%PDF", FileKind("a PDF document", "remove it from the slides")),
    (b"\x89HDF", FileKind("an HDF5 file", "remove it from the slides")),
    (b"<!DOCTYPE html", FileKind("an HTML page", _AGAIN)),
    (b"<html", FileKind("an HTML page", _AGAIN)),
    (b"version https://git-lfs", FileKind("a pointer of Git LFS", "fetch its content with `git lfs pull`")),
)


def kind_of(start: bytes) -> FileKind | None:
    """Return the kind of a file that is no slide, by its first bytes; None if they are of no known kind."""
    if start and not start.strip(b"\0"):
        return FileKind(
            f"{len(start):,} zero bytes at its start",
            "it was not copied to its end: copy it again from its source",
        )
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((kind for head, kind in _STARTS if start.startswith(head) or text.startswith(head)), None)


def has_slide_start(start: bytes) -> bool:
    """Return whether a file of any name may be a slide of one file, by its first bytes: TIFF, DICOM, CZI, Sakura."""
    return start.startswith((*TIFF_STARTS, b"ZISRAWFILE", b"SQLite format 3\0")) or is_dicom(start)


def is_dicom(start: bytes) -> bool:
    """Return whether a file is in DICOM's format, by its first bytes."""
    return start[_DICOM_AT : _DICOM_AT + 4] == b"DICM"


def foreign_slide(name: str) -> tuple[str, str] | None:
    """Return the format and the remedy of a slide that OpenSlide does not read, by its name; None for others."""
    return FOREIGN_SLIDES.get(PurePosixPath(name).suffix.lower())
