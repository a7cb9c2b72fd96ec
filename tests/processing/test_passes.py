"""Cores cover the scanned area once, windows show them and map back exactly, background is left out."""

from __future__ import annotations

from dataclasses import astuple
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.tiff_pyramid import write_tiff_pyramid

from fossilray.core.config import DetectorConfig, PassConfig, TilingConfig
from fossilray.core.types import Boxes, Level, Rect, SlideInfo
from fossilray.processing.detection.foreground import find_foreground, foreground_units
from fossilray.processing.detection.passes import (
    LARGEST_WINDOW_PX,
    DetectionPass,
    Tile,
    plan_passes,
    read_tile,
    to_level0,
)
from fossilray.processing.detection.windows import WindowPlan, plan_windows, split_tile
from fossilray.slides.slide import open_slide
from fossilray.synthetic.writers.mirax import MiraxOptions, write_mirax

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


def blank_picture(width: int, height: int) -> NDArray[np.uint8]:
    """Background with a shading of 10 grey levels across and noise, as scanners leave it."""
    rng = np.random.default_rng(1)
    shade = np.linspace(-5, 5, width)[None, :, None]
    return np.clip(BACKGROUND + shade + rng.normal(0, 3, (height, width, 3)), 0, 255).astype(np.uint8)


def all_tiles(detection_pass: DetectionPass) -> tuple[Tile, ...]:
    return plan_windows(detection_pass, foreground_units(detection_pass, None)).tiles


def spots(rng: np.random.Generator, detection_pass: DetectionPass, count: int) -> NDArray[np.bool_]:
    """Content here and there: blocks of one to eight units."""
    content = np.zeros((detection_pass.rows, detection_pass.columns), np.bool_)
    for _ in range(count):
        row, column = rng.integers(0, content.shape)
        height, width = rng.integers(1, 9, 2)
        content[row : row + height, column : column + width] = True
    return content


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 60_000),
    height=st.integers(1, 60_000),
    corner=st.tuples(st.integers(0, 5000), st.integers(0, 5000)),
    mpp=st.sampled_from([0.1, 0.23, 0.25, 0.2508, 0.499, 1.3]),
    tile_px=st.sampled_from([256, 1024, 2048, 5000, None]),
    um_per_px=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    stride_px=st.sampled_from([1, 8, 24, 32, 64]),
    seed=st.integers(0, 2**32 - 1),
    count=st.sampled_from([0, 1, 5, 40, None]),
    multiple_px=st.sampled_from([1, 128, 256]),
)
def test_cores_cover_the_bounds_once_and_windows_show_what_they_must(
    *,
    width: int,
    height: int,
    corner: tuple[int, int],
    mpp: float,
    tile_px: int | None,
    um_per_px: float,
    stride_px: int,
    seed: int,
    count: int | None,
    multiple_px: int,
) -> None:
    bounds = Rect(corner[0], corner[1], corner[0] + width, corner[1] + height)
    info = info_of(corner[0] + width + 7, corner[1] + height + 7, mpp=mpp, bounds=bounds)
    (detection_pass,) = plan_passes(info, TilingConfig(tile_px=tile_px), one_pass(um_per_px), stride_px)
    assert detection_pass.um_per_px == pytest.approx(um_per_px, rel=0.51 / detection_pass.unit_level_px)
    assert 2 * detection_pass.reach_px * detection_pass.um_per_px >= detection_pass.largest_um
    whole = detection_pass.corners(
        Rect(
            0,
            0,
            detection_pass.columns * detection_pass.unit_px,
            detection_pass.rows * detection_pass.unit_px,
        )
    )
    assert whole[0] <= bounds.x_min
    assert whole[1] <= bounds.y_min
    assert whole[2] >= bounds.x_max - 1e-6
    assert whole[3] >= bounds.y_max - 1e-6
    rng = np.random.default_rng(seed)
    content = foreground_units(detection_pass, None) if count is None else spots(rng, detection_pass, count)
    plan = plan_windows(detection_pass, content, multiple_px=multiple_px)
    assert_cores_cover_once(detection_pass, plan)
    for tile in plan.tiles:
        assert_window_shows_enough(detection_pass, tile, content)
        sides = [tile.window.width, tile.window.height, tile.window.x_min, tile.window.y_min]
        assert all(side % stride_px == 0 for side in sides)
        assert all(side % multiple_px == 0 for side in sides[:2]) or multiple_px % detection_pass.unit_px
    assert content.sum() == sum(part_of(content, detection_pass, tile.core).sum() for tile in plan.tiles)
    shapes = [(tile.window.width, tile.window.height) for tile in plan.tiles]
    changes = sum(before != after for before, after in pairwise(shapes))
    assert changes == max(0, len(set(shapes)) - 1), "tiles of one shape stand apart"


def assert_cores_cover_once(detection_pass: DetectionPass, plan: WindowPlan) -> None:
    covered = np.zeros((detection_pass.rows, detection_pass.columns), int)
    for core in (*(tile.core for tile in plan.tiles), *plan.blank):
        assert max(core.width, core.height) <= detection_pass.core_px
        part_of(covered, detection_pass, core)[...] += 1
    assert (covered == 1).all()


def assert_window_shows_enough(detection_pass: DetectionPass, tile: Tile, content: NDArray[np.bool_]) -> None:
    """All content in the core, and of content near by what half an object reaches, each with context."""
    unit, context = detection_pass.unit_px, detection_pass.context_px
    rows, columns = np.nonzero(part_of(content, detection_pass, tile.core))
    left, right = (tile.core.x_min + side * unit for side in (columns.min(), columns.max() + 1))
    top, bottom = (tile.core.y_min + side * unit for side in (rows.min(), rows.max() + 1))
    window = tile.window
    assert window.x_min <= left - context
    assert window.y_min <= top - context
    assert window.x_max >= right + context
    assert window.y_max >= bottom + context
    reach, core = detection_pass.reach_px, tile.core
    # The units that half an object may reach, from the core and from its own foreground.
    x_min, x_max = max(core.x_min - reach, left - 2 * reach), min(core.x_max + reach, right + 2 * reach)
    y_min, y_max = max(core.y_min - reach, top - 2 * reach), min(core.y_max + reach, bottom + 2 * reach)
    rows, columns = np.arange(content.shape[0]) * unit, np.arange(content.shape[1]) * unit
    near = content[np.ix_((rows >= y_min) & (rows < y_max), (columns >= x_min) & (columns < x_max))]
    found_rows, found_columns = np.nonzero(near)
    if len(found_rows):
        y = rows[(rows >= y_min) & (rows < y_max)][found_rows]
        x = columns[(columns >= x_min) & (columns < x_max)][found_columns]
        assert window.x_min <= x.min() - context
        assert window.x_max >= x.max() + unit + context
        assert window.y_min <= y.min() - context
        assert window.y_max >= y.max() + unit + context


def part_of(units: NDArray[Any], detection_pass: DetectionPass, rect: Rect) -> NDArray[Any]:
    unit = detection_pass.unit_px
    return units[rect.y_min // unit : rect.y_max // unit, rect.x_min // unit : rect.x_max // unit]


def test_windows_fitted_to_content_hold_fewer_pixels() -> None:
    (detection_pass,) = plan_passes(info_of(60_000, 60_000), TilingConfig(), one_pass(1.0, 160.0), 32)
    rng = np.random.default_rng(0)
    everything = plan_windows(detection_pass, foreground_units(detection_pass, None)).megapixels
    megapixels = [
        plan_windows(detection_pass, spots(rng, detection_pass, count)).megapixels for count in (0, 30, 300)
    ]
    assert megapixels[0] == 0
    assert megapixels[1] < 0.1 * everything
    assert megapixels[2] < 0.6 * everything


def test_parts_of_a_window_that_cannot_be_read_cover_its_core_once_and_show_no_more() -> None:
    (detection_pass,) = plan_passes(info_of(20_000, 9_000), TilingConfig(), one_pass(1.0, 160.0), 32)
    waiting = list(all_tiles(detection_pass))
    covered = np.zeros((detection_pass.rows, detection_pass.columns), int)
    while waiting:
        tile = waiting.pop()
        parts = split_tile(detection_pass, tile)
        waiting += parts
        if not parts:
            part_of(covered, detection_pass, tile.core)[...] += 1
        for part in parts:
            assert part.window.x_min >= tile.window.x_min
            assert part.window.y_max <= tile.window.y_max
            assert part.window.width <= part.core.width + 2 * detection_pass.halo_px
    assert (covered == 1).all()


def test_a_pass_of_huge_objects_keeps_cores_as_large_as_its_halo() -> None:
    (detection_pass,) = plan_passes(info_of(60_000, 60_000), TilingConfig(), one_pass(1.0, 4000.0), 32)
    assert detection_pass.core_px >= detection_pass.reach_px


def test_a_huge_slide_is_planned_in_windows_of_the_size_that_is_quickest() -> None:
    configured = (PassConfig(um_per_px=1.0, largest_um=160.0), PassConfig(um_per_px=4.0, largest_um=1000.0))
    passes = plan_passes(info_of(100_000, 80_000), TilingConfig(), DetectorConfig(passes=configured), 32)
    assert [detection_pass.level for detection_pass in passes] == [2, 4]
    for detection_pass in passes:
        longest = max(tile.window.width for tile in all_tiles(detection_pass))
        assert LARGEST_WINDOW_PX - 2 * detection_pass.unit_px < longest <= LARGEST_WINDOW_PX
    fixed = plan_passes(
        info_of(100_000, 80_000), TilingConfig(tile_px=2048), DetectorConfig(passes=configured), 32
    )
    assert [len(all_tiles(detection_pass)) for detection_pass in fixed] == [49 * 40, 13 * 10]
    assert fixed[0].core_px == fixed[1].core_px == 512


def test_exported_networks_and_the_papers_scale_keep_the_papers_tile() -> None:
    for detector in (DetectorConfig(weights="a.onnx"), DetectorConfig(seen_at_px=128)):
        unset, stated = (
            plan_passes(info_of(50_000, 50_000), tiling, detector, 32)
            for tiling in (TilingConfig(), TilingConfig(tile_px=2048))
        )
        assert unset == stated


def test_empty_bounds_have_no_tiles() -> None:
    info = info_of(5000, 5000, bounds=Rect(100, 100, 100, 100))
    assert [
        len(all_tiles(detection_pass))
        for detection_pass in plan_passes(info, TilingConfig(), DetectorConfig(), 32)
    ] == [
        0,
        0,
    ]


def test_seen_at_px_shows_a_tile_at_the_papers_size() -> None:
    detector = DetectorConfig(seen_at_px=128)
    (detection_pass,) = plan_passes(info_of(100_000, 80_000), TilingConfig(tile_px=2048), detector, 32)
    assert (detection_pass.core_px, detection_pass.um_per_px, detection_pass.level) == (128, 4.0, 4)
    assert 2 * detection_pass.halo_px * detection_pass.um_per_px >= 250


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
    path = write_tiff_pyramid(tmp_path / "a.tif", rgb, mpp=mpp)
    found = []
    with open_slide(path) as slide:
        (detection_pass,) = plan_passes(slide.info, TilingConfig(tile_px=1024), one_pass(um_per_px), 32)
        for tile in all_tiles(detection_pass):
            window = read_tile(slide, detection_pass, tile)
            sides = tile.window.width, tile.window.height
            assert window.shape == (*sides[::-1], 3)
            _, _, parts, _ = cv2.connectedComponentsWithStats((window[..., 1] < 141).astype(np.uint8))
            x, y, width, height = parts[1:, :4].T
            inside = (x > 0) & (y > 0) & (x + width < sides[0]) & (y + height < sides[1])
            xyxy = np.stack([x, y, x + width, y + height], axis=1)[inside].astype(float)
            boxes = to_level0(detection_pass, tile, Boxes(xyxy, np.ones(len(xyxy), np.float32)))
            found.append(boxes.xyxy)
    for box in np.concatenate(found):
        assert np.abs(true - box).max(axis=1).min() <= detection_pass.scale


def test_the_same_pixels_are_seen_whatever_the_tile_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write_tiff_pyramid(tmp_path / "a.tif", rng.integers(0, 255, (1500, 1500, 3), np.uint8), mpp=0.23)
    with open_slide(path) as slide:
        seen = []
        for tile_px in (512, 1024, 2048):
            (detection_pass,) = plan_passes(slide.info, TilingConfig(tile_px=tile_px), one_pass(1.0), 32)
            lattice = np.zeros((2000, 2000, 3), np.uint8)
            for tile in all_tiles(detection_pass):
                pixels, core, window = read_tile(slide, detection_pass, tile), tile.core, tile.window
                lattice[core.y_min : core.y_max, core.x_min : core.x_max] = pixels[
                    core.y_min - window.y_min : core.y_max - window.y_min,
                    core.x_min - window.x_min : core.x_max - window.x_min,
                ]
            seen.append(lattice[:340, :340])
    assert np.array_equal(seen[0], seen[1])
    assert np.array_equal(seen[0], seen[2])


def content_of(path: Path, tiling: TilingConfig, *passes: PassConfig) -> list[NDArray[np.bool_]]:
    with open_slide(path) as slide:
        detector = DetectorConfig(passes=passes) if passes else one_pass(1.0)
        passes = plan_passes(slide.info, tiling, detector, 32)
        content = find_foreground(slide, tiling)
    return [foreground_units(detection_pass, content) for detection_pass in passes]


def test_small_pale_objects_are_foreground(tmp_path: Path) -> None:
    rgb = blank_picture(2048, 2048)
    cv2.circle(rgb, (350, 350), 5, (170, 160, 130), -1)
    cv2.circle(rgb, (1696, 736), 80, (60, 40, 20), -1)
    path = write_tiff_pyramid(tmp_path / "a.tif", rgb, mpp=0.5, levels=5)
    (content,) = content_of(path, TilingConfig())
    assert content[5, 5]
    assert content[10:13, 25:28].all()
    content[4:7, 4:7] = content[9:14, 24:30] = False
    assert not content.any()


def test_dust_out_of_focus_is_background_and_a_pale_object_in_it_is_not(tmp_path: Path) -> None:
    light = np.zeros((2048, 2048), np.float32)
    cv2.circle(light, (512, 512), 150, 6.0, -1)
    cv2.circle(light, (1536, 1536), 150, 6.0, -1)
    light = cv2.GaussianBlur(light, (0, 0), 80)
    cv2.circle(light, (1536, 1536), 14, 25.0, -1)
    rgb = np.clip(blank_picture(2048, 2048) - light[..., None], 0, 255).astype(np.uint8)
    (content,) = content_of(write_tiff_pyramid(tmp_path / "a.tif", rgb, mpp=0.5, levels=5), TilingConfig())
    assert content[24, 24]
    assert not content[:16, :16].any()


def test_a_coarse_pass_looks_only_where_something_large_shows(tmp_path: Path) -> None:
    rgb = blank_picture(2048, 2048)
    for x in range(200, 1000, 200):
        cv2.circle(rgb, (x, 300), 20, (90, 70, 40), -1)
    cv2.line(rgb, (1300, 1300), (1700, 1700), (150, 140, 120), 6)
    path = write_tiff_pyramid(tmp_path / "a.tif", rgb, mpp=0.5, levels=5)
    fine, coarse = content_of(
        path,
        TilingConfig(),
        PassConfig(um_per_px=1.0, largest_um=160.0),
        PassConfig(um_per_px=4.0, smallest_um=100.0, largest_um=1000.0),
    )
    assert fine[4, [3, 6, 9, 12]].all()
    assert not coarse[:4].any()
    assert coarse[5:7, 5:7].any()


def test_everything_is_foreground_when_configured(tmp_path: Path) -> None:
    path = write_tiff_pyramid(tmp_path / "a.tif", blank_picture(1024, 1024), mpp=0.5)
    (nothing,), (everything,) = (
        content_of(path, TilingConfig(blank_contrast=contrast)) for contrast in (6.0, 0.0)
    )
    assert not nothing.any()
    assert everything.all()


def test_inside_of_a_huge_object_is_content(tmp_path: Path) -> None:
    rgb = blank_picture(2048, 2048)
    rgb[300:1750, 300:1750] = (90, 60, 40)
    (content,) = content_of(write_tiff_pyramid(tmp_path / "a.tif", rgb, mpp=1.0, levels=4), TilingConfig())
    assert not content[:8, :8].any()
    assert content[10:54, 10:54].all()


@pytest.mark.parametrize("compression", ["zlib", None], ids=["undecodable", "black"])
def test_spoilt_overview_leaves_nothing_out(tmp_path: Path, compression: str | None) -> None:
    rgb = blank_picture(1024, 1024)
    path = write_tiff_pyramid(tmp_path / "a.tif", rgb, mpp=0.5, levels=5, compression=compression)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[4]
        spans = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    spoilt = bytearray(path.read_bytes())
    for offset, count in spans:
        spoilt[offset : offset + count] = bytes(count)
    path.write_bytes(spoilt)
    assert content_of(path, TilingConfig())[0].all()


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
    with open_slide(path) as slide:
        (detection_pass,) = plan_passes(slide.info, TilingConfig(), one_pass(1.0), 32)
        content = foreground_units(detection_pass, find_foreground(slide, TilingConfig()))
        assert content.any()
        assert not content.all()
        for row, column in np.argwhere(~content):
            unit = Rect(int(column), int(row), int(column) + 1, int(row) + 1)
            x_min, y_min, x_max, y_max = (
                round(edge)
                for edge in detection_pass.corners(
                    Rect(*(side * detection_pass.unit_px for side in astuple(unit)))
                )
            )
            _, alpha = slide.read_with_alpha(0, x_min, y_min, x_max - x_min, y_max - y_min)
            assert (alpha > 0).mean() < 0.01
