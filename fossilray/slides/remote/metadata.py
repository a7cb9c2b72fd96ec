"""Metadata of a slide in an object store, read from a few kB of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

from fossilray.core.errors import NotASlide
from fossilray.core.types import Level, Rect, SlideInfo
from fossilray.slides.fields.image_header import HEADER_BYTES, is_field, read_header
from fossilray.slides.file_kinds import (
    FIELD_SUFFIXES,
    FIELD_VENDOR,
    START_BYTES,
    TIFF_STARTS,
    has_slide_start,
    kind_of,
)
from fossilray.slides.mirax.companions import check_support
from fossilray.slides.mirax.metadata import read_grid, read_levels, read_mpp, read_properties, read_scanned
from fossilray.slides.mirax.slidedat import check_claims
from fossilray.slides.properties import StatedMpp, stated_mpp
from fossilray.slides.refusals import refuse_start, why_tiff_unsupported
from fossilray.slides.remote.slide_files import SlideFiles, is_mirax
from fossilray.slides.remote.source import RemoteFile, SlideSource
from fossilray.slides.tiff.directories import TiffDirectory
from fossilray.slides.tiff.metadata import read_tiff
from fossilray.slides.tiff.pixel_format import TiffFormat

MOST_GIGAPIXELS = 200.0
_TIFF_SUFFIXES = (".tif", ".tiff", ".svs")


@dataclass(frozen=True)
class SlideMetadata:
    """Metadata of a slide, read without opening it.

    levels: empty if unknown. stated: um per level-0 pixel. bounds: scanned area in level-0 px as OpenSlide reports it;
    None if that needs the whole slide. properties: by OpenSlide's names; few of those it has. tiff: format of a TIFF.
    """

    vendor: str | None = None
    levels: tuple[Level, ...] = ()
    stated: StatedMpp | None = None
    bounds: Rect | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    tiff: TiffFormat | None = None

    @property
    def mpp(self) -> float | None:
        """um per level-0 pixel; None if none is stated, or if pixels are not square."""
        return self.stated.square if self.stated is not None else None

    def info(self, path: str, *, mpp: float, mpp_from: str, bounds: Rect | None = None) -> SlideInfo:
        """Return these metadata as those of an opened slide; `levels` must be known.

        path: URL of the slide. mpp: um per level-0 pixel. bounds: scanned area; by default the stated one, else the
        whole canvas.
        """
        finest = self.levels[0]
        return SlideInfo(
            path=path,
            vendor=self.vendor or "unknown",
            width=finest.width,
            height=finest.height,
            mpp=mpp,
            levels=self.levels,
            bounds=bounds or self.bounds or Rect(0, 0, finest.width, finest.height),
            background_rgb=(255, 255, 255),
            mpp_from=mpp_from,
            properties=self.properties,
        )


def read_metadata(
    source: SlideSource, bundle: SlideFiles, *, shown: str, max_gigapixels: float = MOST_GIGAPIXELS
) -> SlideMetadata:
    """Return the metadata of a slide; empty if they need OpenSlide and the whole slide. shown: its name in messages.

    Raises:
        NotASlide: the file is no slide of any format.
        UnsupportedSlide: it is a slide that OpenSlide does not read.
        MissingCompanion, TooLarge: Slidedat.ini is damaged, or claims more than the limits.
        SourceUnreachable: the store is unreachable.
    """
    if bundle.slidedat is not None:
        check_claims(
            bundle.slidedat, f"{PurePosixPath(shown).stem}/Slidedat.ini", max_gigapixels=max_gigapixels
        )
        check_support(bundle.slidedat, shown)
        try:
            grid = read_grid(bundle.slidedat)
            return SlideMetadata(
                "mirax",
                read_levels(grid),
                read_mpp(bundle.slidedat),
                properties=read_properties(bundle.slidedat),
            )
        except (KeyError, ValueError) as error:
            raise NotASlide(
                f"{shown} cannot be opened: its Slidedat.ini is not as OpenSlide needs it ({error}); it is damaged "
                "or incomplete, copy it again with all its files"
            ) from None
    file = bundle.files[bundle.name]
    start = _read(source, file, 0, START_BYTES)

    def read(begin: int, end: int) -> bytes:
        is_there = end <= len(start) or len(start) == file.bytes
        return start[begin:end] if is_there else _read(source, file, begin, end)

    if is_field(shown, start, read):
        return _of_field(
            shown, start if file.bytes <= len(start) else _read(source, file, 0, HEADER_BYTES), read
        )
    if not start.startswith(TIFF_STARTS):
        return _no_tiff(shown, start)
    tiff = read_tiff(
        read,
        check=partial(_check_support, shown),
    )
    if tiff is None:
        return SlideMetadata()
    finest = tiff.levels[0]
    whole = Rect(0, 0, finest.width, finest.height)
    return SlideMetadata(tiff.vendor, tiff.levels, tiff.stated, whole, tiff.properties, tiff.format)


def read_scanned_area(source: SlideSource, bundle: SlideFiles) -> tuple[Rect, ...] | None:
    """Return approximate rectangles of a MIRAX slide's scanned area, level-0 px; None if unknown.

    Raises:
        SourceUnreachable: the store is unreachable.
    """
    if bundle.slidedat is None or not is_mirax(bundle.name):
        return None
    try:
        grid = read_grid(bundle.slidedat)
        name = bundle.slidedat["HIERARCHICAL"]["INDEXFILE"]
    except (KeyError, ValueError):
        return None
    index = bundle.files[f"{PurePosixPath(bundle.name).stem}/{name}"]
    return read_scanned(grid, lambda begin, end: _read(source, index, begin, end))


def _read(source: SlideSource, file: RemoteFile, start: int, stop: int) -> bytes:
    try:
        return source.read(file, start, stop)
    except FileNotFoundError:
        raise NotASlide(f"{file.url} was deleted just now; check the path") from None


def _of_field(shown: str, start: bytes, read: Callable[[int, int], bytes]) -> SlideMetadata:
    header = read_header(shown, start, read)
    whole = Rect(0, 0, header.width, header.height)
    return SlideMetadata(FIELD_VENDOR, header.levels, stated_mpp(header.properties), whole, header.properties)


def _check_support(shown: str, directories: Sequence[TiffDirectory]) -> None:
    refusal = why_tiff_unsupported(shown, directories)
    if refusal is not None:
        raise refusal


def _no_tiff(shown: str, start: bytes) -> SlideMetadata:
    # OpenSlide identifies files by content, not by name; DICOM and some others may have any name.
    others = has_slide_start(start) or start.startswith(b"[")
    if others or (not shown.lower().endswith((*_TIFF_SUFFIXES, *FIELD_SUFFIXES)) and kind_of(start) is None):
        return SlideMetadata()
    raise refuse_start(shown, start)
