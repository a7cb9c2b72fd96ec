"""Images to identify: decoded within bounds, with their um per px and the source of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import ResolutionSource
from fossilray.core.errors import UsageError
from fossilray.core.formats import FileRole
from fossilray.core.formats.images import decode_image
from fossilray.core.formats.regular_file import open_regular
from fossilray.core.plausible_values import why_no_mpp
from fossilray.core.types import Image
from fossilray.slides.fields.image_handle import (
    FieldImage,
    ImageHandle,
    decode_field,
    is_field_file,
    read_field,
)
from fossilray.slides.fields.image_header import FieldHeader
from fossilray.slides.fields.sidecar import sidecar_mpp
from fossilray.slides.file_kinds import TIFF_STARTS
from fossilray.slides.limits import LARGEST_ACCEPTED_TILE_PX
from fossilray.slides.properties import choose_mpp, stated_mpp, unbelieved_mpp
from fossilray.slides.slide import Slide

MOST_IMAGE_BYTES = 256 * 2**20
LEAST_SIDE_PX = 16
_SOURCES: dict[str, ResolutionSource] = {"slide": "file", "sidecar": "sidecar", "config": "given"}
_ENDINGS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"BM": ".bmp", **dict.fromkeys(TIFF_STARTS, ".tif")}
_START_BYTES = 16
_SLIDE_SUFFIXES = (".mrxs", ".svs", ".ndpi", ".scn", ".vms", ".bif", ".czi", ".dcm")


@dataclass(frozen=True, eq=False)
class Photograph:
    """A decoded image: one fossil, cropped tightly, or a field of view."""

    name: str
    pixels: Image
    um_per_px: float | None
    um_per_px_from: ResolutionSource | None
    """None where the um per px is unknown."""
    unused: str = ""
    """Why a resolution that the file states is not used."""

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @cached_property
    def _bgra(self) -> NDArray[np.uint8]:
        bgra = np.full((self.height, self.width, 4), 255, np.uint8)
        bgra[..., :3] = self.pixels[..., ::-1]
        return bgra

    def as_slide(self, um_per_px: float) -> Slide:
        """Return the image as a slide of one field of view, which the detector reads."""
        handle = ImageHandle(self._bgra)
        header = FieldHeader("", self.width, self.height, 8, 1, {})
        info = header.info(self.name, mpp=um_per_px, mpp_from="config", properties={})
        return Slide(info, handle, lambda: handle)


def read_photograph(path: Path, *, name: str | None = None, mpp: float | None = None) -> Photograph:
    """Decode an image of a fossil or of a field of view: JPEG, PNG, BMP, TIFF or WebP, 8 to 16 bits.

    Args:
        path: the file; a sidecar beside it may state its um per px.
        name: in messages and results; None: that of the file.
        mpp: um per px, where neither the file nor a sidecar states any.

    Raises:
        UsageError: the file cannot be read, is a slide, or mpp is none that a microscope has.
        NotASlide, UnsupportedSlide, TooLarge: it is damaged, its pixels are of a kind that is not read, or too many.
        MissingResolution: a sidecar cannot be used.
    """
    shown = name or path.name
    _check_mpp(mpp)
    if path.suffix.lower() in _SLIDE_SUFFIXES:
        raise UsageError(
            f"{shown} is a scanned slide; find its objects with `fossilray process`, and name them with "
            "`fossilray classify run`"
        )
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
        if size > MOST_IMAGE_BYTES:
            raise UsageError(f"{shown} has {size:,} bytes, more than the {MOST_IMAGE_BYTES:,} of one image")
        photograph = _read(path, shown, mpp)
    except OSError as error:
        raise UsageError(f"{shown} cannot be read: {error.strerror or type(error).__name__}") from None
    return _checked(photograph)


def decode_photograph(content: bytes, *, name: str, mpp: float | None = None) -> Photograph:
    """Decode an image whose content is in memory, as `read_photograph`; there is no sidecar.

    Raises:
        UsageError: it cannot be decoded, is too small, or mpp is none that a microscope has.
        NotASlide, UnsupportedSlide, TooLarge: as `read_photograph`.
    """
    _check_mpp(mpp)
    field = decode_field(f"image{_ending(content)}", content)
    return _checked(_from_content(content, name, mpp) if field is None else _from_field(field, name, mpp))


def _read(path: Path, shown: str, mpp: float | None) -> Photograph:
    field = read_field(path) if is_field_file(path) else None
    if field is None:
        return _from_content(path, shown, mpp)
    return _from_field(field, shown, mpp, sidecar_mpp(path))


def _from_content(content: Path | bytes, shown: str, mpp: float | None) -> Photograph:
    role = FileRole(shown, "an image to identify", "give a JPEG, PNG, BMP, TIFF or WebP", UsageError)
    if isinstance(content, bytes):
        start = content[:_START_BYTES]
    else:
        with open_regular(content) as file:
            start = file.read(_START_BYTES)
    # Pillow knows formats that run other programs, such as EPS.
    if not (_ending(start) or (start.startswith(b"RIFF") and start[8:12] == b"WEBP")):
        raise role.damaged("it is in none of the formats that are read")
    pixels = decode_image(content, role, most_px=LARGEST_ACCEPTED_TILE_PX)
    return Photograph(shown, pixels, mpp, None if mpp is None else "given")


def _from_field(
    field: FieldImage, shown: str, mpp: float | None, of_sidecar: float | None = None
) -> Photograph:
    properties = field.header.properties
    stated, unbelieved = stated_mpp(properties), unbelieved_mpp(properties)
    unused = "" if unbelieved is None else unbelieved[1]
    if stated is not None and stated.square is None:
        unused = f"it states {stated.x:g} um per px across and {stated.y:g} down"
        stated = None
    value, source = choose_mpp(
        stated,
        shown=shown,
        mpp=mpp,
        catalog_mpp=None,
        mpp_override=None,
        sidecar_mpp=of_sidecar,
    )
    return Photograph(
        shown, _on_white(field.bgra), value, None if value is None else _SOURCES[source], unused
    )


def _check_mpp(mpp: float | None) -> None:
    why = None if mpp is None else why_no_mpp(mpp)
    if why is not None:
        raise UsageError(f"{mpp:g} um per px cannot be right: it is {why}")


def _checked(photograph: Photograph) -> Photograph:
    if min(photograph.width, photograph.height) < LEAST_SIDE_PX:
        raise UsageError(
            f"{photograph.name} has {photograph.width} x {photograph.height} px, fewer than {LEAST_SIDE_PX} along a "
            "side; give an image in which the fossil can be seen"
        )
    return photograph


def _ending(content: bytes) -> str:
    """Return the ending of the format of an image, by its first bytes; empty for others."""
    return next((ending for start, ending in _ENDINGS.items() if content.startswith(start)), "")


def _on_white(bgra: NDArray[np.uint8]) -> Image:
    """Return RGB over white of premultiplied BGRA."""
    alpha = bgra[..., 3:]
    rgb = bgra[..., 2::-1]
    return np.ascontiguousarray(rgb if alpha.min(initial=255) == 255 else rgb + (255 - alpha))
