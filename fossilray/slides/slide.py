"""Pixels and metadata of one slide, whichever library decodes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import SlideReader
from fossilray.core.errors import NotASlide, UnreadableRegion
from fossilray.core.types import Image, Rect, SlideInfo
from fossilray.slides.access import as_slide_error, check_readable
from fossilray.slides.clear_field import background_beyond_scan, sample_scanned
from fossilray.slides.direct.compositing import flatten
from fossilray.slides.direct.index_faults import count_reasons
from fossilray.slides.direct.listed_tiles import ListedTiles, read_listed_tiles
from fossilray.slides.direct.placement import is_everywhere
from fossilray.slides.direct.reader import DirectReader
from fossilray.slides.fields.opening import open_field
from fossilray.slides.handle_reader import HandleReader
from fossilray.slides.limits import check_size
from fossilray.slides.mirax.companions import check_mirax
from fossilray.slides.misnamed import LinkedSlide, check_names
from fossilray.slides.overview import LEVEL_TOLERANCE, Overview, read_overview, shrink
from fossilray.slides.pixel_handle import OpenHandle, PixelHandle
from fossilray.slides.refusals import check_samples
from fossilray.slides.slide_handle import describe_slide, open_handle, split_argb
from fossilray.slides.tiff.limits import check_tiff
from fossilray.slides.tiff.pixel_format import TiffFormat, is_ndpi, read_format

_MOST_GIGAPIXELS = 200.0


def open_slide(
    path: str | Path,
    *,
    mpp: float | None = None,
    catalog_mpp: float | None = None,
    mpp_override: float | None = None,
    max_gigapixels: float = _MOST_GIGAPIXELS,
    reader: SlideReader = "auto",
) -> Slide:
    """Open a slide for reading by any number of threads.

    Args:
        path: file of a MIRAX (.mrxs), TIFF or SVS slide, or another format that OpenSlide reads; or a field of view, a
            JPEG, PNG, BMP or single-page TIFF.
        mpp: micrometres per level-0 pixel, if the slide states none.
        catalog_mpp: micrometres per level-0 pixel that the user's catalog states; used instead of the slide's value.
        mpp_override: micrometres per level-0 pixel, used instead of either.
        max_gigapixels: largest number of level-0 pixels, in 1e9, that a file may claim.
        reader: `auto` decodes tiles without OpenSlide on levels where the pixels were seen to be equal; `openslide`
            never does.

    Returns:
        The slide, a context manager. `info` has its size in level-0 pixels, mpp, levels and scanned area;
        `read(level, x, y, width, height)` gives (height, width, 3) uint8 RGB, with x and y in level-0 pixels from the
        top left corner and width and height in pixels of the level; `thumbnail(longest_side_px)` gives the scanned area
        and the level-0 rectangle that it shows.

    Raises:
        NotASlide: the file is damaged or no slide.
        UnsupportedSlide: OpenSlide does not read slides of this kind.
        SlideMissing, SlideUnreadable, SourceUnreachable: the operating system cannot.
        MissingCompanion: a MIRAX slide lacks a file, or has one that is too short.
        MisnamedSlide: files of a MIRAX slide must be renamed. Names in another case are opened through links in the
            system's temporary folder, to which `info.path` leads then, until the slide is closed.
        UnsupportedOrientation: a TIFF states that its pixels are stored rotated or mirrored.
        MissingResolution: neither the slide nor the caller states the mpp, or the slide's differs across and down.
        TooLarge: the file claims more pixels than that, or tiles too large to decode.

    Example:
        >>> import fossilray
        >>> path = fossilray.query("census", "SELECT path FROM slides ORDER BY slide_id")["path"][0].as_py()
        >>> with fossilray.open_slide(path) as slide:
        ...     image, area = slide.thumbnail(1024)
        ...     corner = slide.read(0, slide.info.bounds.x_min, slide.info.bounds.y_min, 512, 512)
    """
    path = Path(path)
    resolutions = {"mpp": mpp, "catalog_mpp": catalog_mpp, "mpp_override": mpp_override}
    with ExitStack() as opened:
        links = check_names(path, partial(check_files, max_gigapixels=max_gigapixels))
        if links is not None:
            opened.callback(links.close)
            path = links.path
        elif (field := _open_field(path, **resolutions)) is not None:
            return field
        handle = open_handle(path)
        opened.callback(handle.close)
        info = describe_slide(path, handle, **resolutions)
        check_size(info, max_gigapixels=max_gigapixels)
        listed = read_listed_tiles(info)
        opened.pop_all()
    if listed is not None:
        info = replace(info, bounds=listed.widen(info.bounds, info.width, info.height))
    return Slide(info, handle, partial(open_handle, path), listed=listed, reader=reader, links=links)


def _open_field(path: Path, **resolutions: float | None) -> Slide | None:
    """Return the slide of a field of view; None for other files. It is read whole, so that no read can fail."""
    try:
        opened = open_field(path, **resolutions)
    except OSError as error:
        raise as_slide_error(error, error.filename or path) or error from None
    if opened is None:
        return None
    info, handle = opened
    return Slide(info, handle, lambda: handle)


def check_files(path: Path, *, max_gigapixels: float = _MOST_GIGAPIXELS) -> None:
    """Check that the files that `path` needs are there and not empty, without OpenSlide.

    Raises:
        NotASlide: the file is empty, or a TIFF whose tiles claim more bytes than it has.
        UnsupportedSlide: OpenSlide does not read the layout or the format of its pixels.
        SlideMissing, SlideUnreadable, SourceUnreachable: the file itself cannot be read.
        MissingCompanion: Slidedat.ini, Index.dat or a data file of a MIRAX slide is missing or empty.
        TooLarge: the Slidedat.ini of a MIRAX slide claims more than OpenSlide should be given.
    """
    status = check_readable(path)
    try:
        if path.suffix.lower() == ".mrxs":
            check_mirax(path, max_gigapixels=max_gigapixels)
        elif status.st_size == 0:
            raise NotASlide(f"{path.name} is empty (0 bytes); copy it again from its source")
        else:
            check_tiff(path)
            check_samples(path)
    except OSError as error:
        raise as_slide_error(error, error.filename or path) or error from None


def level_for(info: SlideInfo, um_per_px: float) -> int:
    """Return the coarsest level that is at most 5 % coarser than `um_per_px`, else level 0.

    Of levels of one size, as OpenSlide lists them for the focus planes of a TIFF, it is the first.
    """
    fitting = [
        (level.downsample, -number)
        for number, level in enumerate(info.levels)
        if level.downsample * info.mpp <= um_per_px * LEVEL_TOLERANCE
    ]
    return -max(fitting)[1] if fitting else 0


class Slide:
    """An open slide: a context manager that any number of threads may read from at once.

    handle: reads its pixels. open_handle: opens another one when a read has failed.
    """

    def __init__(
        self,
        info: SlideInfo,
        handle: PixelHandle,
        open_handle: OpenHandle,
        *,
        listed: ListedTiles | None = None,
        reader: SlideReader = "auto",
        links: LinkedSlide | None = None,
    ) -> None:
        self.info = info
        self.listed = listed
        """Tiles that the slide's index lists; None where that is not known."""
        self._links = links
        self._source = HandleReader(info.path, handle, open_handle)
        self._direct = DirectReader(info, self._read_argb if reader == "auto" else None)
        self._measuring = threading.Lock()
        self._background_rgb: tuple[int, int, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the slide; reads in progress finish, and the last one closes the handle."""
        self._direct.close()
        self._source.close()
        if self._links is not None:
            self._links.close()

    @cached_property
    def tiff_format(self) -> TiffFormat | None:
        """Format of the pixels and images of a plain TIFF, an SVS or an NDPI; None for other slides."""
        path = Path(self.info.path)
        is_known = self.info.vendor in ("generic-tiff", "aperio") or is_ndpi(path.name)
        return read_format(path) if is_known else None

    @property
    def regions_read_directly(self) -> int:
        """Number of regions that were read without OpenSlide."""
        return self._direct.regions

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        """Colour of what was not scanned: the slide's stated background, or its clear field where they differ.

        It is measured at the first read beyond the scan.
        """
        with self._measuring:
            if self._background_rgb is None:
                read = partial(self._read_premultiplied, is_counted=False)
                pixels = sample_scanned(_ScannedPixels(self.info, read))
                self._background_rgb = background_beyond_scan(self.info.background_rgb, pixels)
            return self._background_rgb

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Image:
        """Return pixels of one level on `background_rgb`, (height, width, 3) uint8 RGB.

        x, y: level-0 px of the top left corner; width, height: px of that level. Pixels outside the canvas are
        background.

        Raises:
            UnreadableRegion: it cannot be decoded, or a stored tile there is missing or damaged; other regions stay
                readable.
        """
        return self.read_with_alpha(level, x, y, width, height)[0]

    def read_with_alpha(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> tuple[Image, NDArray[np.uint8]]:
        """Return the pixels as `read` does, and their coverage.

        Coverage is (height, width) uint8 and read-only: 0 where nothing was scanned, 255 where all was.
        """
        if width <= 0 or height <= 0:
            raise ValueError(f"a region of {width} x {height} px has no pixels")
        rgb, alpha = self._read_premultiplied(level, x, y, width, height)
        if not is_everywhere(alpha) and alpha.min() < 255:
            rgb = flatten(rgb, alpha, self.background_rgb)
        return rgb, alpha

    def faulty_tiles(self) -> Mapping[str, int]:
        """Return the number of stored tiles by what is wrong with them: in the index, and as found by reads so far."""
        faulty = count_reasons(self.listed.faulty if self.listed is not None else ())
        if self._direct.damaged_tiles:
            faulty["with damaged data"] = self._direct.damaged_tiles
        return faulty

    def level_for(self, um_per_px: float) -> int:
        """Return the coarsest level that is at most 5 % coarser than `um_per_px`, else level 0."""
        return level_for(self.info, um_per_px)

    def overview(self, um_per_px: float) -> Overview:
        """Return the scanned area at `um_per_px` or somewhat finer; unreadable blocks are marked in its mask."""
        return read_overview(
            self.info,
            self.read_with_alpha,
            self.listed,
            level=self.level_for(um_per_px),
            um_per_px=um_per_px,
        )

    def thumbnail(self, longest_side_px: int) -> tuple[Image, Rect]:
        """Return a small image of the scanned area (unreadable blocks mid-grey) and its level-0 rectangle."""
        bounds = self.info.bounds
        wanted = max(1.0, max(bounds.width, bounds.height) / longest_side_px)
        overview = self.overview(wanted * self.info.mpp)
        height, width = overview.rgb.shape[:2]
        ratio = min(1.0, longest_side_px / max(height, width))
        size = max(1, round(width * ratio)), max(1, round(height * ratio))
        return shrink(overview.rgb, *size), overview.rect

    def _read_premultiplied(
        self, level: int, x: int, y: int, width: int, height: int, *, is_counted: bool = True
    ) -> tuple[Image, NDArray[np.uint8]]:
        self._refuse_faulty_entries(level, x, y, width, height)
        pixels = self._direct.read(level, x, y, width, height, is_counted=is_counted)
        return pixels or split_argb(self._read_argb(level, x, y, width, height))

    def _refuse_faulty_entries(self, level: int, x: int, y: int, width: int, height: int) -> None:
        """Raise UnreadableRegion if the region meets a tile whose index entry leads to no image of its own."""
        if self.listed is None or not 0 <= level < len(self.info.levels):
            return
        downsample = self.info.levels[level].downsample
        why = self.listed.fault_within(level, (x, y, x + width * downsample, y + height * downsample))
        if why is not None:
            raise UnreadableRegion(
                f"{Path(self.info.path).name}: level {level} cannot be decoded at ({x}, {y}): the index lists tiles "
                f"{why}; copy the slide again if its source is sound"
            )

    def _read_argb(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint32]:
        return self._source.read(level, x, y, width, height)

    def check_losses(self) -> None:
        """Check that regions which could not be decoded are damage of the slide, not a fault of its disk or share.

        Raises:
            SlideMissing, SlideUnreadable, SourceUnreachable: a file cannot be read, or a lost region can be read now.
        """
        self._source.check_losses()


@dataclass(frozen=True)
class _ScannedPixels:
    """Pixels of a slide before its background is mixed in."""

    info: SlideInfo
    read_with_alpha: Callable[[int, int, int, int, int], tuple[Image, NDArray[np.uint8]]]
