"""Pyramidal TIFF slides written by fossilray, read back by OpenSlide and by Pillow."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
from PIL import Image
from support.synthetic_pixels import BrokenPixels, waves

from fossilray.core.errors import ConfigError
from fossilray.synthetic.writers import tiff
from fossilray.synthetic.writers.pixels import ArrayPixels
from fossilray.synthetic.writers.tiff import TiffOptions, write_pyramidal_tiff

SHARP = TiffOptions(jpeg_quality=95, levels=4)


class LeftScanned(ArrayPixels):
    """Only what begins left of 1024 was scanned."""

    def is_scanned(self, x: int, y: int, width: int, height: int) -> bool:
        return x < 1024


@pytest.mark.parametrize("size", [(1501, 1111), (256, 256), (90, 1030), (257, 511)])
def test_openslide_shows_the_source_at_every_level(tmp_path: Path, size: tuple[int, int]) -> None:
    image = waves(*size, across=43, down=49)
    path = tmp_path / "slide.tif"
    write_pyramidal_tiff(path, ArrayPixels(image=image), SHARP)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties[openslide.PROPERTY_NAME_VENDOR] == "generic-tiff"
        assert slide.dimensions == size
        assert slide.level_count == 4
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.25)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_Y]) == pytest.approx(0.25)
        expected = image
        for level, (width, height) in enumerate(slide.level_dimensions):
            assert (width, height) == tuple(-(-extent // 2**level) for extent in size)
            seen = np.asarray(slide.read_region((0, 0), level, (width, height)))
            assert (seen[..., 3] == 255).all()
            assert np.abs(seen[..., :3].astype(int) - expected).mean() < 1.5 + level
            rim = ((0, height % 2), (0, width % 2), (0, 0))
            even = np.pad(expected, rim, mode="edge")
            halves = (even.shape[1] // 2, even.shape[0] // 2)
            expected = cv2.resize(even, halves, interpolation=cv2.INTER_AREA)


def test_what_was_not_scanned_is_transparent_and_takes_no_space(tmp_path: Path) -> None:
    image = waves(3000, 1100, across=43, down=49)
    whole, part = tmp_path / "whole.tif", tmp_path / "part.tif"
    write_pyramidal_tiff(whole, ArrayPixels(image=image), SHARP)
    write_pyramidal_tiff(part, LeftScanned(image=image), SHARP)
    assert part.stat().st_size < 0.45 * whole.stat().st_size
    with openslide.OpenSlide(part) as slide:
        alpha = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., 3]
        assert (alpha[:, :1024] == 255).all()
        assert (alpha[:, 1024:] == 0).all()
        assert int(slide.properties["openslide.bounds-width"]) == 1024
        coarse = np.asarray(slide.read_region((0, 0), 1, slide.level_dimensions[1]))[..., 3]
        assert (coarse[:, 512:] == 0).all()


def test_levels_reach_down_to_512_px_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    write_pyramidal_tiff(path, ArrayPixels(image=waves(2050, 300, across=43, down=49)), TiffOptions())
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((2050, 300), (1025, 150), (513, 75), (257, 38))


@pytest.mark.parametrize("largest_plain_px", [10**9, 0], ids=["plain", "big"])
def test_pillow_reads_it_too_as_plain_and_as_big_tiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest_plain_px: int
) -> None:
    monkeypatch.setattr(tiff, "_LARGEST_PLAIN_TIFF_PX", largest_plain_px)
    image = waves(700, 600, across=43, down=49)
    path = tmp_path / "slide.tif"
    write_pyramidal_tiff(path, ArrayPixels(image=image), SHARP)
    assert path.read_bytes()[2] == (42 if largest_plain_px else 43)
    with Image.open(path) as picture:
        assert picture.n_frames == 4
        assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - image).mean() < 2
        picture.seek(3)
        assert picture.size == (88, 75)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_count == 4
        seen = np.asarray(slide.read_region((0, 0), 0, (700, 600)))[..., :3]
        assert np.abs(seen.astype(int) - image).mean() < 2


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        write_pyramidal_tiff(tmp_path / name, ArrayPixels(image=waves(500, 400, across=43, down=49)), SHARP)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_other_resolutions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    write_pyramidal_tiff(path, ArrayPixels(image=waves(300, 300, across=43, down=49)), TiffOptions(mpp=0.499))
    with openslide.OpenSlide(path) as slide:
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.499, rel=1e-5)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no light"):
        write_pyramidal_tiff(
            tmp_path / "slide.tif", BrokenPixels(image=waves(300, 300, across=43, down=49)), SHARP
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"tile_px": 100}, {"mpp": 0.0}, {"levels": 0}])
def test_options_that_no_tiff_could_have_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        TiffOptions(**changes)
