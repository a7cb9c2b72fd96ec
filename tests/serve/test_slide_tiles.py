"""Tiles of a slide: the pyramid covers the scanned area, and its pixels are those of the slide."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow
from support.run_fixtures import a_summary

from fossilray.analysis.specimens.slide_files import AvailableFiles
from fossilray.core.errors import SlideError, UsageError
from fossilray.core.records import SlideSummary
from fossilray.serve.slide_tiles import TILE_PX, Pyramid, SlideTiles, pyramid_of

WIDTH, HEIGHT = 900, 700


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x % 256, y % 256, (x + y) // 8 % 256], axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory, pixels: NDArray[np.uint8]) -> SlideSummary:
    path = tmp_path_factory.mktemp("tiles") / "s.tif"
    per_cm = 1e4 / 0.25
    with tifffile.TiffWriter(path) as file:
        for step in (1, 2, 4):
            file.write(
                pixels[::step, ::step],
                tile=(256, 256),
                photometric="rgb",
                resolution=(per_cm / step, per_cm / step),
                resolutionunit="CENTIMETER",
                subfiletype=int(step > 1),
            )
    return replace(
        a_summary("s", attempt="aaaa"),
        path=str(path),
        width=WIDTH,
        height=HEIGHT,
        mpp=0.25,
        bounds_x=0,
        bounds_y=0,
        bounds_width=WIDTH,
        bounds_height=HEIGHT,
        scan_id=None,
    )


@pytest.fixture
def tiles() -> SlideTiles:
    return SlideTiles(AvailableFiles())


def test_the_finest_level_has_the_pixels_of_the_slide(
    summary: SlideSummary, tiles: SlideTiles, pixels: NDArray[np.uint8]
) -> None:
    pyramid = pyramid_of(summary)
    assert (pyramid.top, pyramid.tiles(pyramid.top)) == (10, (4, 3))
    whole = np.zeros_like(pixels)
    for column in range(4):
        for row in range(3):
            tile = decode(tiles.tile(summary, pyramid.top, column, row))
            top, left = row * TILE_PX, column * TILE_PX
            whole[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    assert np.abs(whole.astype(int) - pixels).mean() < 6
    tiles.close()


@pytest.mark.parametrize("level", range(11))
def test_every_level_covers_the_scanned_area(summary: SlideSummary, tiles: SlideTiles, level: int) -> None:
    pyramid = pyramid_of(summary)
    columns, rows = pyramid.tiles(level)
    widths = [decode(tiles.tile(summary, level, column, 0)).shape[1] for column in range(columns)]
    heights = [decode(tiles.tile(summary, level, 0, row)).shape[0] for row in range(rows)]
    step = pyramid.downsample(level)
    assert (sum(widths), sum(heights)) == (-(-WIDTH // step), -(-HEIGHT // step))
    tiles.close()


def test_tiles_beside_the_pyramid_are_refused_by_name(summary: SlideSummary, tiles: SlideTiles) -> None:
    for level, column, row in ((11, 0, 0), (-1, 0, 0), (10, 4, 0), (10, 0, 3)):
        with pytest.raises(UsageError, match=r"s has the levels 0 to 10|has 4 x 3 tiles"):
            tiles.tile(summary, level, column, row)


def test_a_slide_that_is_gone_or_another_one_is_named(summary: SlideSummary, tiles: SlideTiles) -> None:
    with pytest.raises(SlideError, match=r"s cannot be shown: .*gone.tif"):
        tiles.tile(replace(summary, path=str(Path(summary.path).with_name("gone.tif"))), 0, 0, 0)
    with pytest.raises(SlideError, match="is another scan than the run was made of"):
        tiles.tile(replace(summary, width=WIDTH + 1), 0, 0, 0)


def test_only_so_many_slides_stay_open(summary: SlideSummary) -> None:
    tiles = SlideTiles(AvailableFiles(), most_open=2)
    for attempt in ("aaaa", "bbbb", "cccc", "aaaa"):
        tiles.tile(replace(summary, attempt=attempt), 0, 0, 0)
    assert len(tiles._open) == 2
    tiles.close()
    assert not tiles._open


def test_a_pyramid_of_one_pixel_has_one_level() -> None:
    assert (Pyramid(1, 1).top, Pyramid(1, 1).tiles(0)) == (0, (1, 1))


def decode(jpeg: bytes) -> NDArray[np.uint8]:
    return np.asarray(Pillow.open(io.BytesIO(jpeg)).convert("RGB"))
