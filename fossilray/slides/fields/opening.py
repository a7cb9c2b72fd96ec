"""Opening of a field of view as a slide: its metadata and the handle of its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fossilray.core.errors import MissingResolution
from fossilray.core.types import SlideInfo
from fossilray.slides.fields.image_handle import ImageHandle, read_field
from fossilray.slides.fields.sidecar import FOLDER_SIDECAR, sidecar_mpp
from fossilray.slides.properties import choose_mpp, stated_mpp, unbelieved_mpp


def open_field(
    path: Path, *, mpp: float | None, catalog_mpp: float | None, mpp_override: float | None
) -> tuple[SlideInfo, ImageHandle] | None:
    """Return the metadata and the pixels of a field of view; None for a file that is none.

    The resolutions are those of `open_slide`; the resolution of a sidecar comes after the catalog's.

    Raises:
        NotASlide: the image is damaged.
        UnsupportedSlide, TooLarge: its pixels are of a kind that is not read, or too many.
        MissingResolution: there is no um per px, or a sidecar cannot be used.
        OSError: a file cannot be read.
    """
    read = read_field(path)
    if read is None:
        return None
    resolution, mpp_from = choose_mpp(
        stated_mpp(read.header.properties),
        shown=path.name,
        mpp=mpp,
        catalog_mpp=catalog_mpp,
        mpp_override=mpp_override,
        sidecar_mpp=sidecar_mpp(path),
    )
    if resolution is None:
        raise MissingResolution(missing_field_mpp(read.header.properties, path.name))
    properties = {"field.sha256": read.sha256}
    info = read.header.info(str(path), mpp=resolution, mpp_from=mpp_from, properties=properties)
    return info, ImageHandle(read.bgra)


def missing_field_mpp(stated: Mapping[str, str], shown: str) -> str:
    """Return a sentence with the remedy for a field of view without um per px. shown: its name."""
    unbelieved = unbelieved_mpp(stated)
    fault = (
        f"{shown} states no um per px"
        if unbelieved is None
        else f"{shown} has no usable um per px: {unbelieved[1]}"
    )
    return f'{fault}; give --mpp, write {{"mpp": …}} to {FOLDER_SIDECAR} beside it, or add an mpp column to the catalog'
