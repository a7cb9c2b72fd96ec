"""Checks of slides before processing: each finding on a slide with that fault, and none on sound slides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from support import damaged_slides
from support.slides_on_disk import CLEAR, discs, write_slide

from fossilray.core.doubt_codes import DOUBT_CODES
from fossilray.core.errors import DoubtfulSlide, UnequalPixels
from fossilray.core.records import CatalogRow, Doubt
from fossilray.core.types import Level, Rect, SlideInfo
from fossilray.slides.catalog import find_slides
from fossilray.slides.doubts.before import check_slide
from fossilray.slides.doubts.scale import bounds_doubts, plausible_mpp
from fossilray.slides.doubts.strict import merge_doubts, refuse_doubts
from fossilray.slides.slide import open_slide
from fossilray.synthetic.archive import synthesise_archive

Edit = Callable[[str], str]


def mirax(folder: Path, edit: Edit = str, *, mpp: float = 0.25, size: int = 1536) -> Path:
    """A slide of discs whose Slidedat.ini is edited as text."""
    path = folder / "s.mrxs"
    write_slide(path, size=size, mpp=mpp)
    ini = folder / "s" / "Slidedat.ini"
    stated = ini.read_bytes().decode("utf-8-sig")
    edited = edit(stated)
    ini.write_bytes(edited.encode("utf-8-sig"))
    return path


def tiff(path: Path, image: np.ndarray | None = None, *, mpp: tuple[float, float] = (0.25, 0.25)) -> Path:
    """A tiled TIFF of one level."""
    tifffile.imwrite(
        path,
        discs(768) if image is None else image,
        tile=(256, 256),
        photometric="rgb",
        resolution=(10_000 / mpp[0], 10_000 / mpp[1]),
        resolutionunit="centimeter",
    )
    return path


def doubts_of(path: Path, *, catalog_mpp: float | None = None, mpp: float | None = None) -> dict[str, Doubt]:
    """Findings by code. mpp: slides.mpp_override."""
    with open_slide(path, catalog_mpp=catalog_mpp, mpp_override=mpp) as slide:
        found = check_slide(slide, mpp=slide.info.mpp)
    assert {doubt.code for doubt in found} <= DOUBT_CODES.keys()
    assert all(doubt.sentence for doubt in found)
    return {doubt.code: doubt for doubt in found}


def test_sound_slides_have_no_doubts(tmp_path: Path) -> None:
    for form in ("mrxs", "tiff"):
        synthesise_archive(tmp_path / form, slides=1, size_px=1024, form=form, seed=3)
    mirax(tmp_path / "discs")
    tiff(tmp_path / "t.tif")
    rows = find_slides(str(tmp_path)).rows
    assert len(rows) == 4
    assert [row.doubts for row in rows] == [()] * len(rows)
    assert {row.mpp_from for row in rows} == {"slide"}


@pytest.mark.parametrize(
    ("stated", "mpp"), [("0.25", 0.025), ("0.25", 2.5)], ids=["ten times too small", "ten times too large"]
)
def test_resolution_that_does_not_fit_the_objective_is_named_with_both(
    tmp_path: Path, stated: str, mpp: float
) -> None:
    path = mirax(
        tmp_path,
        lambda ini: ini.replace(f"_X = {stated}", f"_X = {mpp}").replace(f"_Y = {stated}", f"_Y = {mpp}"),
    )
    (row,) = find_slides(str(path)).rows
    assert row.doubts is not None
    (doubt,) = row.doubts
    assert (doubt.code, doubt.value) == ("mpp-implausible", mpp)
    assert f"{mpp} um per px with a 40x objective" in doubt.sentence
    assert "0.1 to 0.625" in doubt.sentence


@pytest.mark.parametrize(
    ("power", "mpp"),
    [
        (10, 1.0),
        (20, 0.5),
        (20, 0.499),
        (20, 0.2428),
        (20, 0.25),
        (20, 0.1725),
        (40, 0.25),
        (40, 0.1213),
        (63, 0.1),
        (100, 0.06),
    ],
)
def test_resolutions_of_real_scanners_fit_their_objectives(power: float, mpp: float) -> None:
    low, high = plausible_mpp(power)
    assert low <= mpp <= high


@pytest.mark.parametrize(
    ("mpp", "is_doubted"),
    [(0.05, True), (0.09, False), (0.25, False), (1.0, False), (1.5, True), (5.0, True)],
)
def test_resolution_without_an_objective_must_be_that_of_a_microscope(
    tmp_path: Path, mpp: float, is_doubted: bool
) -> None:
    found = doubts_of(tiff(tmp_path / "t.tif", mpp=(mpp, mpp)))
    assert set(found) == ({"mpp-implausible"} if is_doubted else set())


def test_scanned_area_larger_than_a_cover_glass_makes_the_resolution_implausible(tmp_path: Path) -> None:
    path = tmp_path / "t.tif"
    tifffile.imwrite(
        path, np.full((256, 70_000, 3), 220, np.uint8), tile=(256, 256), photometric="rgb",
        resolution=(10_000.0, 10_000.0), resolutionunit="centimeter",
    )  # fmt: skip
    found = doubts_of(path)
    assert "70 x 0.256 mm, more than a cover glass of 30 x 60" in found["mpp-implausible"].sentence


def test_scan_of_half_a_millimetre_makes_the_resolution_implausible(tmp_path: Path) -> None:
    wide = np.full((256, 4352, 3), 220, np.uint8)
    found = doubts_of(tiff(tmp_path / "t.tif", wide, mpp=(0.1, 0.1)))
    assert "0.435 x 0.0256 mm, less than the 0.5 of a small scan" in found["mpp-implausible"].sentence


def test_catalog_and_override_that_differ_from_the_slide_are_named(tmp_path: Path) -> None:
    path = mirax(tmp_path)
    assert not doubts_of(path, catalog_mpp=0.2501)
    found = doubts_of(path, catalog_mpp=0.5)
    assert set(found) == {"mpp-differs"}
    assert found["mpp-differs"].value == 0.5
    assert "the catalog states 0.5 um per px and the slide 0.25; 0.5 is used" in found["mpp-differs"].sentence
    assert "slides.mpp_override states 0.2 " in doubts_of(path, mpp=0.2)["mpp-differs"].sentence


def test_pixels_that_are_not_square_are_refused_and_never_averaged(tmp_path: Path) -> None:
    tall = mirax(tmp_path, lambda ini: ini.replace("PER_PIXEL_Y = 0.25", "PER_PIXEL_Y = 0.5"))
    wide = tiff(tmp_path / "wide.tif", mpp=(0.5, 0.25))
    for path, x, y in ((tall, 0.25, 0.5), (wide, 0.5, 0.25)):
        with pytest.raises(UnequalPixels) as caught:
            open_slide(path)
        message = str(caught.value)
        assert f"{path.name} states {x} um per px across and {y} down" in message
        assert f"vips resize {path.name}" in message
        assert "xres=2000,yres=2000" in message
        assert f"{x / 0.5:g} --vscale {y / 0.5:g}" in message
        assert "slides.mpp_override" in message
        (row,) = find_slides(str(path)).rows
        assert (row.mpp, row.mpp_from) == (None, None)
        assert row.doubts is not None
        assert [(doubt.code, doubt.value) for doubt in row.doubts] == [("mpp-unequal", x / y)]
        found = doubts_of(path, catalog_mpp=0.25)
        assert set(found) == {"mpp-unequal"}
        assert "0.25 is used for both" in found["mpp-unequal"].sentence


def test_pixels_that_are_square_within_two_per_cent_have_the_resolution_of_x(tmp_path: Path) -> None:
    path = mirax(tmp_path, lambda ini: ini.replace("PER_PIXEL_Y = 0.25", "PER_PIXEL_Y = 0.2545"))
    with open_slide(path) as slide:
        assert slide.info.mpp == 0.25
    assert not doubts_of(path)


@pytest.mark.parametrize("kind", ["SLIDE_TYPE_FLUORESCENCE", "SLIDE_TYPE_DARKFIELD", "SLIDE_TYPE_CONFOCAL"])
def test_slide_that_states_another_illumination_than_brightfield_is_doubted(
    tmp_path: Path, kind: str
) -> None:
    path = mirax(tmp_path, lambda ini: ini.replace("SLIDE_TYPE_BRIGHTFIELD", kind))
    found = doubts_of(path)
    assert set(found) == {"slide-type"}
    assert f"SLIDE_TYPE = {kind}" in found["slide-type"].sentence


BRIGHT = discs(768)
FILLED = np.concatenate([BRIGHT, np.full((768, 3072, 3), 255, np.uint8)], axis=1)
CELLS = cv2.blur(np.where(BRIGHT == CLEAR, 0, 220).astype(np.uint8), (81, 81))


@pytest.mark.parametrize(
    ("image", "grey", "words"),
    [
        (255 - BRIGHT, 33, "fluorescence, dark field or inverted colours"),
        (BRIGHT // 25, 9, "fluorescence, dark field or inverted colours"),
        (CELLS, 0, "fluorescence, dark field or inverted colours"),
        (np.where(FILLED == 255, 255, 255 - FILLED).astype(np.uint8), 255, "show no bright background"),
        (np.minimum(BRIGHT.astype(int) * 5 // 4, 255).astype(np.uint8), 255, "saturated white"),
        ((BRIGHT * np.array([1.1, 0.9, 0.3])).astype(np.uint8), 170, "strongly coloured, RGB 248, 199, 65"),
    ],
    ids=["inverted", "dark", "fluorescence on black", "inverted in a white frame", "overexposed", "yellow"],
)
def test_slide_without_a_clear_field_is_doubted(
    tmp_path: Path, image: np.ndarray, grey: float, words: str
) -> None:
    found = doubts_of(tiff(tmp_path / "t.tif", image))
    assert set(found) == {"no-clear-field"}
    assert found["no-clear-field"].value == pytest.approx(grey, abs=1.5)
    assert words in found["no-clear-field"].sentence


@pytest.mark.parametrize(
    "image",
    [
        BRIGHT,
        FILLED,
        np.where(FILLED == 255, 0, FILLED).astype(np.uint8),
        (BRIGHT * np.array([1.0, 0.95, 0.8])).astype(np.uint8),
        (BRIGHT * 0.7).astype(np.uint8),
        np.concatenate([discs(768), np.full((1024, 768, 3), (90, 60, 30), np.uint8)]),
    ],
    ids=["bright", "white fill", "black fill", "halogen light", "dim", "mostly dark debris"],
)
def test_bright_slide_is_not_doubted_for_its_light(tmp_path: Path, image: np.ndarray) -> None:
    assert not doubts_of(tiff(tmp_path / "t.tif", image))


@pytest.mark.parametrize(
    ("image", "options", "bits", "words"),
    [
        (
            BRIGHT.astype(np.uint16) * 257,
            {"photometric": "rgb"},
            16,
            "16 bits per colour, which are cut to 8",
        ),
        (BRIGHT[..., 0], {"photometric": "minisblack"}, 8, "1 sample per pixel (grey)"),
        (BRIGHT[..., 0], {"photometric": "miniswhite"}, 8, "1 sample per pixel (grey, white is zero)"),
    ],
    ids=["16 bits", "grey", "grey, inverted"],
)
def test_pixels_of_more_bits_or_fewer_colours_are_doubted(
    tmp_path: Path, image: np.ndarray, options: dict[str, str], bits: float, words: str
) -> None:
    path = tmp_path / "t.tif"
    tifffile.imwrite(
        path, image, tile=(256, 256), resolution=(40_000, 40_000), resolutionunit="centimeter", **options
    )
    found = doubts_of(path)["bit-depth"]
    assert found.value == bits
    assert words in found.sentence


def test_mirax_slide_that_states_sixteen_bits_is_doubted(tmp_path: Path) -> None:
    path = mirax(tmp_path, lambda ini: ini.replace("[GENERAL]", "[GENERAL]\r\nVIMSLIDE_SLIDE_BITDEPTH = 16"))
    assert doubts_of(path)["bit-depth"].value == 16


def write_pyramid(path: Path, *, marked: bool, in_sub_directories: bool = False) -> None:
    with tifffile.TiffWriter(path) as file:
        for level in range(4):
            file.write(
                np.ascontiguousarray(BRIGHT[:: 2**level, :: 2**level]),
                tile=(128, 128),
                photometric="rgb",
                resolution=(40_000 / 2**level,) * 2,
                resolutionunit="centimeter",
                subfiletype=1 if level and marked else 0,
                subifds=3 if in_sub_directories and not level else None,
            )


def test_levels_that_openslide_does_not_use_are_counted(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "sound.tif", marked=True)
    assert not doubts_of(tmp_path / "sound.tif")
    for name, kind in (("plain.tif", "NewSubfileType"), ("sub.tif", "SubIFDs")):
        write_pyramid(tmp_path / name, marked=name == "sub.tif", in_sub_directories=name == "sub.tif")
        found = doubts_of(tmp_path / name)
        assert set(found) == {"levels-missing"}
        assert found["levels-missing"].value == 3
        assert kind in found["levels-missing"].sentence


def test_pages_of_other_content_are_no_missing_levels(tmp_path: Path) -> None:
    path = tmp_path / "t.tif"
    with tifffile.TiffWriter(path) as file:
        for image in (BRIGHT, BRIGHT, BRIGHT[:256, :128], BRIGHT[::8, ::8]):
            tile = None if len(image) == 96 else (128, 128)
            file.write(
                np.ascontiguousarray(image),
                tile=tile,
                photometric="rgb",
                resolution=(40_000, 40_000),
                resolutionunit="centimeter",
            )
    assert set(doubts_of(path)) == {"planes-left-out"}, "two images of one size are planes"


def test_mirax_level_without_tiles_is_missing(tmp_path: Path) -> None:
    path = damaged_slides.write_mirax(tmp_path / "s.mrxs")
    assert not doubts_of(path)
    damaged_slides.leave_out_mirax_tiles(path, 2, keep=lambda tile: False)
    found = doubts_of(path)["levels-missing"]
    assert found.value == 1
    assert "no tile of level 2" in found.sentence


@pytest.mark.parametrize(
    ("bounds", "share"),
    [
        (("0", "0", "900", "700"), 0.9),
        (("-50", "0", "500", "500"), 0.45),
        (("900", "900", "10", "10"), 0.0),
        (("0", "0", "2", "2"), 8e-6),
        (("0", None, "500", "500"), None),
        (("0", "0", "nan", "500"), None),
    ],
    ids=["too large", "negative", "outside", "tiny", "incomplete", "no number"],
)
def test_scanned_area_that_does_not_fit_the_canvas_is_doubted(
    bounds: tuple[str | None, ...], share: float | None
) -> None:
    names = ("x", "y", "width", "height")
    stated = {f"openslide.bounds-{name}": text for name, text in zip(names, bounds, strict=True) if text}
    (doubt,) = bounds_doubts(canvas(stated))
    assert doubt.code == "bounds-implausible"
    assert doubt.value == (None if share is None else pytest.approx(share))


def test_scanned_area_on_the_canvas_is_not_doubted() -> None:
    fitting = {
        f"openslide.bounds-{name}": str(px)
        for name, px in zip(("x", "y", "width", "height"), (10, 20, 700, 480), strict=True)
    }
    assert not list(bounds_doubts(canvas(fitting)))
    assert not list(bounds_doubts(canvas({})))


def canvas(properties: dict[str, str]) -> SlideInfo:
    """Metadata of a slide of 1000 x 500 px."""
    level = Level(1000, 500, 1.0)
    return SlideInfo(
        "s.mrxs",
        "mirax",
        1000,
        500,
        0.25,
        (level,),
        Rect(0, 0, 1000, 500),
        (255, 255, 255),
        properties=properties,
    )


def test_strict_codes_refuse_a_slide_and_name_the_finding() -> None:
    found = (
        Doubt("slide-type", None, "it is fluorescence; leave it out"),
        Doubt("planes-left-out", 8.0, "eight"),
    )
    refuse_doubts("a.mrxs", found, ("bit-depth",))
    with pytest.raises(
        DoubtfulSlide, match=r"a\.mrxs: slide-type: it is fluorescence; leave it out \(refused by "
    ):
        refuse_doubts("a.mrxs", found, ("slide-type",))


def test_findings_that_only_a_catalog_shows_stay_with_the_slide() -> None:
    same, stale, new = (Doubt(code, None, code) for code in ("same-scan", "mpp-differs", "slide-type"))
    row = CatalogRow("a", "a.mrxs", doubts=(same, stale))
    assert merge_doubts(row, [new]) == (same, new)
