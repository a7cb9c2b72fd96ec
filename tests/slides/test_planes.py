"""Focus planes are counted, and left-out ones are a doubt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from support.focus_levels import add_focus_levels
from support.focus_stacks import paint_stack, write_ndpi, write_svs
from support.focus_stacks import write_pages as write_stack
from support.slides_on_disk import discs, write_slide

from fossilray.core.errors import UnsupportedSlide
from fossilray.slides.catalog import find_slides
from fossilray.slides.planes import count_planes
from fossilray.slides.slide import open_slide

RESOLUTION = {"resolution": (40_000, 40_000), "resolutionunit": "centimeter"}


def write_pages(path: Path, planes: int, *, description: str | None = None) -> None:
    image = discs(1024)
    with tifffile.TiffWriter(path) as file:
        for plane in range(planes):
            file.write(
                image,
                tile=(256, 256),
                photometric="rgb",
                description=description if plane == 0 else None,
                metadata=None,
                **RESOLUTION,
            )
        file.write(
            image[::4, ::4], tile=(256, 256), photometric="rgb", subfiletype=1, metadata=None, **RESOLUTION
        )


def planes_and_doubts(folder: Path) -> dict[str, tuple[int | None, list[float | None]]]:
    return {
        row.slide_id: (
            row.planes,
            [doubt.value for doubt in row.doubts or () if doubt.code == "planes-left-out"],
        )
        for row in find_slides(str(folder)).rows
    }


def test_planes_of_every_format_are_counted_and_one_plane_is_no_doubt(tmp_path: Path) -> None:
    write_slide(tmp_path / "flat.mrxs", size=1024)
    write_slide(tmp_path / "stack.mrxs", size=1024)
    add_focus_levels(tmp_path / "stack.mrxs", 9)
    write_pages(tmp_path / "flat.tif", 1)
    write_pages(tmp_path / "stack.tif", 3)
    ome = '<OME><Image><Pixels SizeX="1024" SizeY="1024" SizeZ="5" SizeC="3" SizeT="1"/></Image></OME>'
    write_pages(tmp_path / "ome.tif", 5, description=ome)
    painted = paint_stack(256, planes=4, objects=1)
    write_ndpi(tmp_path / "stack.ndpi", painted, levels=1, depths_um=[-4, 0, 4, 8])
    write_ndpi(tmp_path / "flat.ndpi", replace(painted, planes=painted.planes[:1]), levels=1, depths_um=[0])
    assert planes_and_doubts(tmp_path) == {
        "flat": (1, []),
        "stack": (9, [8.0]),
        "flat.tif": (1, []),
        "stack.tif": (3, [2.0]),
        "ome.tif": (5, [4.0]),
        "stack.ndpi": (4, [3.0]),
        "flat.ndpi": (1, []),
    }


@pytest.mark.parametrize(
    ("properties", "planes"),
    [
        ({}, 1),
        ({"dicom.TotalPixelMatrixFocalPlanes": "7"}, 7),
        ({"zeiss.Information.Image.SizeZ": " 4 "}, 4),
        ({"mirax.HIERARCHICAL.HIER_0_NAME": "Microscope focus level"}, 1),
        (
            {"mirax.HIERARCHICAL.HIER_0_NAME": "Focus", "mirax.HIERARCHICAL.HIER_0_COUNT": "9" * 400},
            10_000,
        ),
        (
            {
                "mirax.HIERARCHICAL.HIER_0_NAME": "Microscope focus level",
                "mirax.HIERARCHICAL.HIER_0_COUNT": "26",
                "mirax.HIERARCHICAL.HIER_0_VAL_0": "ExtFocusLevel",
                "mirax.HIERARCHICAL.HIER_0_VAL_1": "ZStackLevel_(-12)",
            },
            25,
        ),
        ({"dicom.TotalPixelMatrixFocalPlanes": "-3"}, 1),
        ({"zeiss.Information.Image.SizeZ": "many"}, 1),
    ],
)
def test_statements_are_read_and_nonsense_is_one_plane(properties: dict[str, str], planes: int) -> None:
    assert count_planes(properties) == planes


def test_svs_whose_planes_follow_each_other_is_refused_as_unsupported(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "s.svs", paint_stack(512, planes=3, objects=1), order="by plane")
    with pytest.raises(UnsupportedSlide, match=r"has 3 focus planes.* convert it to OME-TIFF"):
        open_slide(path)


def test_one_plane_is_read_at_all_scales_where_openslide_lists_the_levels_of_all(tmp_path: Path) -> None:
    painted = paint_stack(512, planes=3, objects=4)
    with open_slide(write_stack(tmp_path / "s.tif", painted, levels=2)) as slide:
        assert [level.downsample for level in slide.info.levels] == [1, 2, 2, 2]
        assert slide.level_for(1.0) == 1
        coarse = slide.overview(1.0).rgb.astype(np.float64)
    fine = painted.planes.reshape(3, 256, 2, 256, 2, 3).mean(axis=(2, 4))
    assert [float(np.abs(coarse - plane).mean()) < 0.5 for plane in fine] == [True, False, False]
