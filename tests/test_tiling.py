"""Sweeps cover the scanned area once, windows map back exactly, blank tiles are told from others."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fossilray.config import DetectorConfig, PassConfig, TilingConfig
from fossilray.records import Boxes, Level, Rect, SlideInfo
from fossilray.slide import Slide, open_slide
from fossilray.synthetic.mirax import MiraxOptions, write_mirax
from fossilray.tiling import find_blank, plan_sweeps, read_tile, to_level0

BACKGROUND = (226, 222, 219)


def info_of(
    width: int, height: int, *, mpp: float = 0.25, bounds: Rect | None = None, levels: int = 8
) -> SlideInfo:
    pyramid = tuple(Level(-(-width // 2**k), -(-height // 2**k), float(2**k)) for k in range(levels))
    return SlideInfo(
        "a.tif", "generic-tiff", width, height, mpp, pyramid, bounds or Rect(0, 0, width, height), BACKGROUND
    )


def one_pass(um_per_px: float, largest_um: float = 60.0) -> DetectorConfig:
    return DetectorConfig(passes=(PassConfig(um_per_px=um_per_px, largest_um=largest_um),))


def write_slide(
    path: Path, rgb: NDArray[np.uint8], *, mpp: float, levels: int = 4, compression: str | None = None
) -> Path:
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            tiff.write(
                rgb,
                tile=(128, 128),
                photometric="rgb",
                compression=compression,
                subfiletype=1 if level else 0,
                resolution=(10_000 / mpp, 10_000 / mpp),
                resolutionunit="centimeter",
            )
            rgb = cv2.resize(rgb, (rgb.shape[1] // 2, rgb.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return path


def blank_picture(width: int, height: int) -> NDArray[np.uint8]:
    """Background with a shading of 10 grey levels across and noise, as scanners leave it."""
    rng = np.random.default_rng(1)
    shade = np.linspace(-5, 5, width)[None, :, None]
    return np.clip(BACKGROUND + shade + rng.normal(0, 3, (height, width, 3)), 0, 255).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 60_000),
    height=st.integers(1, 60_000),
    corner=st.tuples(st.integers(0, 5000), st.integers(0, 5000)),
    mpp=st.sampled_from([0.1, 0.23, 0.25, 0.2508, 0.499, 1.3]),
    tile_px=st.sampled_from([256, 1024, 2048, 5000]),
    um_per_px=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    stride_px=st.sampled_from([1, 8, 32, 64]),
    points=st.lists(st.tuples(st.floats(0, 0.999999), st.floats(0, 0.999999)), min_size=1, max_size=10),
)
def test_cores_cover_the_bounds_once(
    *,
    width: int,
    height: int,
    corner: tuple[int, int],
    mpp: float,
    tile_px: int,
    um_per_px: float,
    stride_px: int,
    points: list[tuple[float, float]],
) -> None:
    bounds = Rect(corner[0], corner[1], corner[0] + width, corner[1] + height)
    info = info_of(corner[0] + width + 7, corner[1] + height + 7, mpp=mpp, bounds=bounds)
    (sweep,) = plan_sweeps(info, TilingConfig(tile_px=tile_px), one_pass(um_per_px), stride_px)
    assert sweep.core_px % stride_px == sweep.halo_px % stride_px == 0
    assert sweep.um_per_px == pytest.approx(um_per_px, rel=0.51 / sweep.unit_level_px)
    assert 2 * sweep.halo_px * sweep.um_per_px >= sweep.largest_um
    first, last = sweep.core_corners(sweep.tile(0)), sweep.core_corners(sweep.tile(len(sweep) - 1))
    assert first[0] <= bounds.x_min
    assert first[1] <= bounds.y_min
    assert last[0] < bounds.x_max <= last[2] + 1e-6
    assert last[1] < bounds.y_max <= last[3] + 1e-6
    side = sweep.core_px * sweep.scale
    for across, down in points:
        x, y = bounds.x_min + across * width, bounds.y_min + down * height
        column, row = int((x - first[0]) // side), int((y - first[1]) // side)
        tile = sweep.tile(row * sweep.columns + column)
        x_min, y_min, x_max, y_max = sweep.core_corners(tile)
        assert x_min - 1e-6 <= x <= x_max + 1e-6
        assert y_min - 1e-6 <= y <= y_max + 1e-6


def test_a_huge_slide_is_planned_without_listing_its_tiles() -> None:
    passes = (PassConfig(um_per_px=1.0, largest_um=160.0), PassConfig(um_per_px=4.0, largest_um=1000.0))
    sweeps = plan_sweeps(info_of(100_000, 80_000), TilingConfig(), DetectorConfig(passes=passes), 32)
    assert [len(sweep) for sweep in sweeps] == [49 * 40, 13 * 10]
    assert [sweep.level for sweep in sweeps] == [2, 4]
    assert sweeps[0].core_px == sweeps[1].core_px == 512


def test_empty_bounds_have_no_tiles() -> None:
    info = info_of(5000, 5000, bounds=Rect(100, 100, 100, 100))
    assert [len(sweep) for sweep in plan_sweeps(info, TilingConfig(), DetectorConfig(), 32)] == [0, 0]


def test_seen_at_px_shows_a_tile_at_the_papers_size() -> None:
    detector = DetectorConfig(seen_at_px=128)
    (sweep,) = plan_sweeps(info_of(100_000, 80_000), TilingConfig(tile_px=2048), detector, 32)
    assert (sweep.core_px, sweep.um_per_px, sweep.level) == (128, 4.0, 4)
    assert 2 * sweep.halo_px * sweep.um_per_px >= 250


@pytest.mark.parametrize(
    ("mpp", "um_per_px"), [(0.25, 1.0), (0.23, 1.0), (0.499, 1.0), (0.1, 1.0), (0.25, 0.7), (1.3, 1.0)]
)
def test_what_is_seen_in_a_window_maps_back_to_where_it_is(
    tmp_path: Path, mpp: float, um_per_px: float
) -> None:
    rgb = np.full((1800, 2000, 3), BACKGROUND, np.uint8)
    true = np.array([[96, 160, 224, 256], [1216, 992, 1344, 1184], [800, 1600, 960, 1760]])
    for x_min, y_min, x_max, y_max in true:
        rgb[y_min:y_max, x_min:x_max] = 60
    path = write_slide(tmp_path / "a.tif", rgb, mpp=mpp)
    found = []
    with open_slide(path) as slide:
        (sweep,) = plan_sweeps(slide.info, TilingConfig(tile_px=1024), one_pass(um_per_px), 32)
        for tile in sweep:
            window = read_tile(slide, sweep, tile)
            assert window.shape == (sweep.window_px, sweep.window_px, 3)
            _, _, parts, _ = cv2.connectedComponentsWithStats((window[..., 1] < 141).astype(np.uint8))
            x, y, width, height = parts[1:, :4].T
            inside = (x > 0) & (y > 0) & (x + width < sweep.window_px) & (y + height < sweep.window_px)
            xyxy = np.stack([x, y, x + width, y + height], axis=1)[inside].astype(float)
            boxes = to_level0(sweep, tile, Boxes(xyxy, np.ones(len(xyxy), np.float32)))
            found.append(boxes.xyxy)
    for box in np.concatenate(found):
        assert np.abs(true - box).max(axis=1).min() <= sweep.scale


def test_the_same_pixels_are_seen_whatever_the_tile_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write_slide(tmp_path / "a.tif", rng.integers(0, 255, (1500, 1500, 3), np.uint8), mpp=0.23)
    with open_slide(path) as slide:
        seen = []
        for tile_px in (512, 1024, 2048):
            (sweep,) = plan_sweeps(slide.info, TilingConfig(tile_px=tile_px), one_pass(1.0), 32)
            lattice = np.zeros((2000, 2000, 3), np.uint8)
            for tile in sweep:
                window = read_tile(slide, sweep, tile)
                core = window[sweep.halo_px : -sweep.halo_px, sweep.halo_px : -sweep.halo_px]
                lattice[tile.y_px : tile.y_px + len(core), tile.x_px : tile.x_px + len(core)] = core
            seen.append(lattice[:340, :340])
    assert np.array_equal(seen[0], seen[1])
    assert np.array_equal(seen[0], seen[2])


def blank_tiles_of(path: Path, tiling: TilingConfig) -> NDArray[np.bool_]:
    with open_slide(path) as slide:
        (sweep,) = plan_sweeps(slide.info, tiling, one_pass(1.0), 32)
        (blank,) = find_blank(slide, tiling, (sweep,))
    return blank.reshape(sweep.rows, sweep.columns)


def test_blank_tiles_are_told_from_ones_with_small_pale_objects(tmp_path: Path) -> None:
    rgb = blank_picture(2048, 2048)
    cv2.circle(rgb, (350, 350), 5, (170, 160, 130), -1)
    cv2.circle(rgb, (1700, 750), 80, (60, 40, 20), -1)
    path = write_slide(tmp_path / "a.tif", rgb, mpp=0.5, levels=5)
    blank = blank_tiles_of(path, TilingConfig(tile_px=512))
    assert np.argwhere(~blank).tolist() == [[0, 0], [1, 3]]


def test_nothing_is_blank_when_told_to_read_every_tile(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif", blank_picture(1024, 1024), mpp=0.5)
    assert blank_tiles_of(path, TilingConfig(tile_px=512)).all()
    assert not blank_tiles_of(path, TilingConfig(tile_px=512, blank_contrast=0)).any()


def test_inside_of_an_object_larger_than_a_tile_is_not_blank(tmp_path: Path) -> None:
    rgb = blank_picture(2048, 2048)
    rgb[300:1750, 300:1750] = (90, 60, 40)
    path = write_slide(tmp_path / "a.tif", rgb, mpp=1.0, levels=4)
    blank = blank_tiles_of(path, TilingConfig(tile_px=256))
    assert blank[0, 0]
    assert not blank[1:7, 1:7].any()


@pytest.mark.parametrize("compression", ["zlib", None], ids=["undecodable", "black"])
def test_spoilt_overview_leaves_no_tile_blank(tmp_path: Path, compression: str | None) -> None:
    rgb = blank_picture(1024, 1024)
    path = write_slide(tmp_path / "a.tif", rgb, mpp=0.5, levels=5, compression=compression)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[4]
        spans = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    content = bytearray(path.read_bytes())
    for offset, count in spans:
        content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    assert not blank_tiles_of(path, TilingConfig(tile_px=512)).any()


def test_unscanned_area_is_blank(tmp_path: Path) -> None:
    class HalfScanned:
        width, height = 2048, 1024

        def region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
            picture = np.full((height, width, 3), BACKGROUND, np.uint8)
            at_y, at_x = np.mgrid[y : y + height, x : x + width]
            picture[(at_x // 100 + at_y // 100) % 2 == 0] = 40
            return picture

        def is_scanned(self, x: int, y: int, width: int, height: int) -> bool:
            return x + width <= 700 or x >= 1500

    path = tmp_path / "a.mrxs"
    write_mirax(path, HalfScanned(), MiraxOptions(photo_px=256, divisions_per_side=2, levels=6))
    blank = blank_tiles_of(path, TilingConfig(tile_px=256))
    assert blank.any()
    assert not blank.all()
    with open_slide(path) as slide:
        assert_blank_means_unscanned(slide, blank)


def assert_blank_means_unscanned(slide: Slide, blank: NDArray[np.bool_]) -> None:
    (sweep,) = plan_sweeps(slide.info, TilingConfig(tile_px=256), one_pass(1.0), 32)
    for tile in sweep:
        if blank.flat[tile.index]:
            x_min, y_min, x_max, y_max = (round(edge) for edge in sweep.core_corners(tile))
            _, alpha = slide.read_with_alpha(0, x_min, y_min, x_max - x_min, y_max - y_min)
            assert (alpha > 0).mean() < 0.01
