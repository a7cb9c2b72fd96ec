"""Checks of how a file stores pixels and the levels of its pyramid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fossilray.core.records import Doubt
from fossilray.core.text import counted
from fossilray.core.types import SlideInfo
from fossilray.slides.file_kinds import FIELD_VENDOR
from fossilray.slides.tiff.pixel_format import TiffFormat

_RGB, _YCBCR = 2, 6
_COLOURS = {
    0: "grey, white is zero",
    1: "grey",
    3: "a palette",
    4: "a mask",
    5: "inks",
    8: "CIE L*a*b*",
    32844: "LogL",
    32845: "LogLuv",
}
_BITS = ("dicom.BitsStored", "mirax.GENERAL.VIMSLIDE_SLIDE_BITDEPTH")
_SAMPLES = "dicom.SamplesPerPixel"
_CONVERT = "`vips tiffsave IN OUT.tif --tile --pyramid --bigtiff --compression jpeg`"


def bit_depth_doubts(info: SlideInfo, tiff: TiffFormat | None) -> Iterator[Doubt]:
    """Check for 8 bits and three colours; of other formats than TIFF only what their properties state is known.

    Levels of two vendors, `aperio` and `generic-tiff`, are those of the TIFF itself.
    """
    bits, samples, colours = _pixels(info, tiff)
    faults = []
    if bits is not None and bits != 8:
        faults.append(f"{bits} bits per colour, which are cut to 8")
    if colours is not None or (samples is not None and samples not in (3, 4)):
        names = colours or "other colours than RGB"
        faults.append(
            f"{counted(samples, 'sample')} per pixel ({names})"
            if samples is not None
            else f"no RGB colours ({names})"
        )
    if faults:
        yield Doubt(
            "bit-depth",
            float(bits or 8),
            f"the pixels have {' and '.join(faults)}; the detector is made for RGB with 8 bits per colour: export "
            "the slide again as 8-bit RGB",
        )


def level_doubts(
    info: SlideInfo, tiff: TiffFormat | None, tiles_per_level: Sequence[int] = ()
) -> Iterator[Doubt]:
    """Check for levels of the pyramid that are in the file and cannot be used.

    tiles_per_level: number of tiles that the index lists for each level; empty if unknown.
    """
    if tiff is not None and info.vendor == "generic-tiff":
        for count, why in (
            (tiff.unmarked, "not marked as reduced images (NewSubfileType)"),
            (tiff.sub_directories, "in SubIFDs, as OME-TIFF has them"),
        ):
            if count:
                yield Doubt(
                    "levels-missing",
                    float(count),
                    f"the file has {counted(count, 'level')} that OpenSlide does not use, because they are {why}; "
                    f"reading takes longer from the {len(info.levels)} that it uses: write the pyramid again, with "
                    f"{_CONVERT}",
                )
    empty = [level for level, count in enumerate(tiles_per_level) if count == 0]
    if empty and any(tiles_per_level):
        numbers = ", ".join(map(str, empty))
        yield Doubt(
            "levels-missing",
            float(len(empty)),
            f"the index lists no tile of level {numbers}, of {len(tiles_per_level)} levels; copy the slide again with "
            "all its files, or export it again",
        )


def _pixels(info: SlideInfo, tiff: TiffFormat | None) -> tuple[int | None, int | None, str | None]:
    """Return bits per colour, colours per pixel, and the name of colours that are not RGB; None where unknown."""
    if tiff is not None:
        colours = None
        if tiff.photometric not in (_RGB, _YCBCR):
            colours = _COLOURS.get(tiff.photometric, f"photometric interpretation {tiff.photometric}")
        return tiff.bits, tiff.samples, colours
    if info.vendor == FIELD_VENDOR:
        stated = info.properties.get("field.colours")
        return _whole(info.properties.get("field.bits")), None, stated if stated != "RGB" else None
    bits, samples = (_whole(info.properties.get(name)) for name in (_BITS[info.vendor == "mirax"], _SAMPLES))
    return bits, samples, None


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdecimal() else None
