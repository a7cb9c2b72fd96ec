"""Resolutions in the descriptions of TIFFs are read; a value that is not used is named with the reason."""

# ruff: noqa: F811 (fixtures are imported by the name under which tests take them)

from __future__ import annotations

from pathlib import Path

import pytest
import tifffile
from support.grey_slides import GREY
from support.remote_slides import upload
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)

from fossilray.core.config import StoreConfig
from fossilray.core.errors import MissingResolution
from fossilray.slides.catalog import find_slides
from fossilray.slides.doubts.before import check_slide
from fossilray.slides.slide import open_slide

S3 = tuple[str, StoreConfig]
NONE, INCH, CENTIMETER = 1, 2, 3
OME = '<?xml version="1.0"?><OME xmlns="x"><Image ID="Image:0"><Pixels ID="Pixels:0" SizeX="400" {}><Channel/></Pixels>'


def write(path: Path, description: str, *, resolution: float = 1, unit: int = NONE) -> Path:
    tifffile.imwrite(
        path,
        GREY,
        tile=(128, 128),
        photometric="rgb",
        description=description.encode(),
        metadata=None,
        resolution=(resolution, resolution),
        resolutionunit=unit,
    )
    return path


def ome(size: str, unit: str | None = None) -> str:
    units = "" if unit is None else f'PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"'
    return OME.format(f'PhysicalSizeX="{size}" PhysicalSizeY="{size}" {units}')


READ = {
    "OME in um": (ome("0.25", "\u00b5m"), 1, NONE),
    "OME with the Greek letter": (ome("0.25", "\u03bcm"), 1, NONE),
    "OME with an entity": (ome("0.25", "&#181;m"), 1, NONE),
    "OME without a unit": (ome("0.25"), 1, NONE),
    "OME in nm": (ome("250", "nm"), 1, NONE),
    "OME in mm": (ome("0.00025", "mm"), 1, NONE),
    "OME with another namespace": (ome("0.25").replace("<Pixels", "<ome:Pixels"), 1, NONE),
    "OME of one axis": (OME.format("PhysicalSizeX='0.25'"), 1, NONE),
    "OME beside a printer's value": (ome("0.25"), 72, INCH),
    "ImageJ escaped": ("ImageJ=1.54f\nimages=1\nunit=\\u00B5m\n", 4, NONE),
    "ImageJ micron": ("ImageJ=1.53t\nunit=micron\nspacing=0.3\n", 4, NONE),
    "ImageJ um": ("ImageJ=1.53t\nunit=um\n", 4, NONE),
    "ImageJ in nm": ("ImageJ=1.53t\nunit=nm\n", 0.004, NONE),
    "ImageJ in mm": ("ImageJ=1.53t\nunit=mm\n", 4000, NONE),
    "ImageJ where the tag of the unit is absent": ("ImageJ=1.53t\nunit=micron\n", 4, INCH),
    "tags": ("", 40_000, CENTIMETER),
    "tags in inches": ("", 101_600, INCH),
}


@pytest.mark.parametrize("kind", READ)
def test_resolution_is_read_and_comes_from_the_slide(tmp_path: Path, kind: str) -> None:
    description, resolution, unit = READ[kind]
    with open_slide(write(tmp_path / "a.tif", description, resolution=resolution, unit=unit)) as slide:
        assert slide.info.mpp == pytest.approx(0.25, rel=1e-3)
        assert slide.info.mpp_from == "slide"
        assert not [doubt for doubt in check_slide(slide, mpp=slide.info.mpp) if doubt.code.startswith("mpp")]


def test_the_same_resolutions_are_read_in_an_object_store(tmp_path: Path, s3_run: S3) -> None:
    url, config = s3_run
    for number, (description, resolution, unit) in enumerate(READ.values()):
        write(tmp_path / f"{number:02}.tif", description, resolution=resolution, unit=unit)
    upload(tmp_path, url, config)
    rows = find_slides(url, access=config).rows
    assert [row.mpp for row in rows] == pytest.approx([0.25] * len(READ), rel=1e-3)
    assert {row.vendor for row in rows} == {"generic-tiff"}


UNUSED = {
    "0.0025 um": (
        "",
        4_000_000,
        CENTIMETER,
        0.0025,
        r"states 0\.0025 um per px \(4,000,000 px per centimeter\)",
    ),
    "a printer's": ("", 72, INCH, 352.778, r"352\.778 um per px \(72 px per inch\)"),
    "no unit": ("", 4, NONE, None, "states 4 px without a unit"),
    "OME in px": (ome("0.25", "pixel"), 1, NONE, None, r"PhysicalSizeX 0\.25 pixel.*no length"),
    "OME of zero": (ome("2500"), 1, NONE, 2500, "PhysicalSizeX 2500 .*which no microscope has"),
    "ImageJ in px": ("ImageJ=1.53t\nunit=pixel\n", 4, NONE, None, "4 px per pixel, which is no length"),
    "ImageJ in inches": ("ImageJ=1.53t\nunit=inch\n", 4, NONE, 6350, "4 px per inch, 6350 um"),
}


@pytest.mark.parametrize("kind", UNUSED)
def test_a_value_that_is_not_used_is_named_with_the_reason(tmp_path: Path, kind: str) -> None:
    description, resolution, unit, value, words = UNUSED[kind]
    path = write(tmp_path / "a.tif", description, resolution=resolution, unit=unit)
    with pytest.raises(MissingResolution, match=rf"{words}.*set slides\.mpp or add") as error:
        open_slide(path)
    assert "states no um" not in str(error.value)
    (row,) = find_slides(str(path)).rows
    assert row.mpp is None
    (doubt,) = (doubt for doubt in row.doubts or () if doubt.code == "mpp-implausible")
    assert doubt.value == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize("description", ["", "ImageJ=1.53t\nimages=1\n", OME.format(""), "made with <care>"])
def test_a_slide_without_any_value_states_no_resolution(tmp_path: Path, description: str) -> None:
    path = write(tmp_path / "a.tif", description)
    with pytest.raises(MissingResolution, match=r"a\.tif states no um per pixel; set"):
        open_slide(path)
    (row,) = find_slides(str(path)).rows
    assert not [doubt for doubt in row.doubts or () if doubt.code.startswith("mpp")]


def test_a_description_and_tags_that_differ_are_a_doubt(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", ome("0.5"), resolution=40_000, unit=CENTIMETER)
    with open_slide(path) as slide:
        assert slide.info.mpp == 0.5
        (doubt,) = (doubt for doubt in check_slide(slide, mpp=0.5) if doubt.code == "mpp-differs")
    assert "0.5 um per px in its description and 0.25 in its tags" in doubt.sentence


def test_long_and_odd_descriptions_are_read_in_no_time(tmp_path: Path) -> None:
    for description in (
        "<Pixels " * 40_000,
        "<OME " + "Pixels PhysicalSizeX=" * 20_000,
        "ImageJ=" + "\nunit" * 50_000,
    ):
        with pytest.raises(MissingResolution):
            open_slide(write(tmp_path / "a.tif", description))
