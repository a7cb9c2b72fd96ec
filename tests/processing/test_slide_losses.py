"""A slide of which little was read is never committed: loss is computed per pass, by area of foreground."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from support.damaged_slides import (
    WRITERS,
    StoredTile,
    copy_slide,
    leave_out,
    leave_out_mirax_tiles,
    shows_disc,
    stored_tiles,
)
from support.processed_slides import objects, run_one
from support.slides_on_disk import discs

from fossilray.core.records import SlideSummary
from fossilray.slides.slide import open_slide
from fossilray.store import RunStore
from fossilray.synthetic.writers.pixels import ArrayPixels
from fossilray.synthetic.writers.tiff import TiffOptions, write_pyramidal_tiff

OBJECTS = 30


@pytest.fixture(scope="module", params=WRITERS)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 2048 px, MIRAX or TIFF: the passes read levels 2 and 3."""
    return WRITERS[request.param](tmp_path_factory.mktemp("sound") / f"s{request.param}", objects=OBJECTS)


@pytest.fixture(scope="module")
def mirax(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[".mrxs"](tmp_path_factory.mktemp("sound") / "s.mrxs", objects=OBJECTS)


def run(slide: Path, folder: Path, *settings: str) -> RunStore | str:
    """The run with the slide committed, or class and message of its failure."""
    store, outcome = run_one(slide, folder, "embedder.weights=none", *settings)
    if outcome.failure is not None:
        assert not store.committed()
        return f"{outcome.failure.error}: {outcome.failure.message}"
    return store


def summary_of(result: RunStore | str) -> SlideSummary:
    assert isinstance(result, RunStore), result
    return result.summaries()[0]


def damaged(sound: Path, folder: Path, damage: Callable[[StoredTile], None], *levels: int) -> Path:
    slide = copy_slide(sound, folder)
    for tile in stored_tiles(slide):
        if tile.level in levels:
            damage(tile)
    return slide


def test_a_sound_slide_loses_nothing(sound: Path, tmp_path: Path) -> None:
    summary = summary_of(run(sound, tmp_path))
    assert summary.lost_share == 0
    assert summary.pass_um_per_px == pytest.approx((1.0, 3.0), rel=0.05)
    assert summary.pass_lost_mm2 == (0, 0)
    assert 0 < summary.pass_foreground_mm2[0] <= summary.content_mm2 <= summary.scanned_mm2


@pytest.mark.parametrize("damage", [StoredTile.zero, StoredTile.empty])
@pytest.mark.parametrize(
    "levels", [(0, 1, 2), (3,), (3, 4), (0, 1, 2, 3, 4)], ids=["fine", "coarse", "all coarse", "all"]
)
def test_a_slide_whose_levels_are_unreadable_for_a_pass_fails(
    sound: Path, tmp_path: Path, damage: Callable[[StoredTile], None], levels: tuple[int, ...]
) -> None:
    """Half of what both passes are to see is no measure: the fine one may be all of that half."""
    failure = run(damaged(sound, tmp_path, damage, *levels), tmp_path)
    assert isinstance(failure, str), "it was committed"
    assert failure.startswith("TooManyUnreadableTiles")


@pytest.mark.parametrize("damage", [StoredTile.zero, StoredTile.empty])
def test_crops_that_all_come_from_a_coarser_level_fail_the_slide(
    sound: Path, tmp_path: Path, damage: Callable[[StoredTile], None]
) -> None:
    slide = damaged(sound, tmp_path, damage, 0)
    failure = run(slide, tmp_path)
    assert isinstance(failure, str), "it was committed"
    assert "would come from a coarser level" in failure
    whole = summary_of(run(slide, tmp_path / "again", "slides.max_lost_share=1"))
    # A crop at a scan's edge may lie in no tile that is damaged.
    assert whole.crops_coarser + whole.crops_failed >= whole.objects - 1 > 0


def test_one_unreadable_tile_costs_its_surroundings_and_is_counted_by_area(
    sound: Path, tmp_path: Path
) -> None:
    slide = copy_slide(sound, tmp_path)
    corner = min((tile for tile in stored_tiles(slide) if tile.level == 2), key=lambda tile: tile.x + tile.y)
    corner.zero()
    summary = summary_of(run(slide, tmp_path))
    assert summary.tiles_failed > 0
    assert 0 < summary.lost_share == summary.pass_lost_mm2[0] / summary.pass_foreground_mm2[0] < 0.5
    assert summary.lost_share == summary.finest_lost_share
    assert summary.pass_lost_mm2[1] == 0
    failure = run(slide, tmp_path / "strict", f"slides.max_lost_share={summary.lost_share - 0.01}")
    assert isinstance(failure, str)
    assert f"{summary.lost_share:.1%} of the foreground" in failure


def test_a_tile_is_lost_where_its_core_is_unreadable_and_not_where_its_halo_is(
    sound: Path, tmp_path: Path
) -> None:
    """The smallest tiles have cores of 64 px at 1 um per px, and halos of 144 px."""
    whole = run(sound, tmp_path / "whole")
    slide = copy_slide(sound, tmp_path)
    with open_slide(slide) as opened:
        info = opened.info
    damage = min((tile for tile in stored_tiles(slide) if tile.level == 2), key=lambda tile: tile.x + tile.y)
    damage.zero()
    part = run(slide, tmp_path / "part")
    core_px = 64 / info.mpp
    side_mm = (damage.side + core_px) * info.mpp / 1000
    lost_mm2 = summary_of(part).pass_lost_mm2[0]
    assert 0 < lost_mm2 <= side_mm**2
    assert isinstance(whole, RunStore)
    assert isinstance(part, RunStore)
    found = {(row["x_min"], row["y_min"]) for row in objects(part).to_pylist()}
    far = [
        row
        for row in objects(whole).to_pylist()
        if row["x_min"] > damage.x + damage.side + core_px or row["y_min"] > damage.y + damage.side + core_px
    ]
    assert len(far) > OBJECTS / 3
    assert {(row["x_min"], row["y_min"]) for row in far} <= found


def test_loss_counts_what_holds_foreground_whatever_the_tiles_around_it_hold(tmp_path: Path) -> None:
    """All objects lie in one corner, which cannot be read; the rest is background and can be read.

    Foreground that can be read is at most the row and the column of units (32 um) that border on the corner.
    """
    image = discs(1024, 12)
    picture = np.full((4096, 4096, 3), image[0, 0], np.uint8)
    picture[:1024, :1024] = image
    slide = tmp_path / "corner.tif"
    write_pyramidal_tiff(slide, ArrayPixels(image=picture), TiffOptions(tile_px=128, levels=5))
    for tile in stored_tiles(slide):
        if tile.level == 2 and max(tile.x, tile.y) < 1024:
            tile.zero()
    failure = run(slide, tmp_path)
    assert isinstance(failure, str), "it was committed"
    numbers = re.search(r"at 1 um per px .*\(([\d.]+) of ([\d.]+) mm2\) cannot be read", failure)
    assert numbers is not None, failure
    lost_mm2, foreground_mm2 = map(float, numbers.groups())
    assert lost_mm2 <= 0.256**2
    assert foreground_mm2 - lost_mm2 <= (0.256 + 0.032) ** 2 - 0.256**2
    assert lost_mm2 > 0.8 * foreground_mm2


def test_a_slide_without_any_tile_fails_with_or_without_an_overview(sound: Path, tmp_path: Path) -> None:
    slide = damaged(sound, tmp_path, StoredTile.empty, *range(9))
    for contrast in (6, 0):
        failure = run(slide, tmp_path / str(contrast), f"tiling.blank_contrast={contrast}")
        assert isinstance(failure, str), "it was committed"
        assert failure.startswith("TooManyUnreadableTiles")


@pytest.mark.parametrize("contrast", [6, 0])
def test_tiles_that_one_level_lacks_are_lost_and_not_blank(
    sound: Path, tmp_path: Path, contrast: int
) -> None:
    """OpenSlide shows a tile that is not listed as glass that was never scanned."""
    slide = damaged(sound, tmp_path, StoredTile.empty, 2)
    failure = run(slide, tmp_path, f"tiling.blank_contrast={contrast}")
    assert isinstance(failure, str), "it was committed"
    assert "100.0% of the foreground" in failure


def test_an_overview_without_tiles_does_not_make_the_slide_blank(tmp_path: Path) -> None:
    """Passes read level 2 alone; the overview comes from level 4."""
    slide = WRITERS[".tif"](tmp_path / "s.tif", objects=OBJECTS)
    fine = "detector.passes=[{um_per_px: 1.0, largest_um: 160}]"
    whole = summary_of(run(slide, tmp_path / "whole", fine))
    for tile in stored_tiles(slide):
        if tile.level > 2:
            tile.empty()
    found = summary_of(run(slide, tmp_path / "found", fine))
    assert found.objects == whole.objects > 0
    assert found.lost_share == 0


@pytest.mark.parametrize("level", [0, 2, 3])
def test_tiles_left_out_of_the_index_are_known_from_other_levels(
    mirax: Path, tmp_path: Path, level: int
) -> None:
    slide = copy_slide(mirax, tmp_path)
    leave_out_mirax_tiles(slide, level, keep=lambda tile: False)
    failure = run(slide, tmp_path)
    assert isinstance(failure, str), "it was committed"
    assert failure.startswith("TooManyUnreadableTiles")


SOME_LEVELS = [(1, 2), (2, 3, 4), (0, 1, 2, 3, 4)]
ALL_LEVELS = [levels for count in range(1, 6) for levels in combinations(range(5), count)]


def area_lost(listed: list[StoredTile], *, level: int) -> float:
    """Of the area that any level lists, the share that this level does not."""
    by_any, by_level = np.zeros((2, 32, 32), np.bool_)  # of 64 px; coarse tiles reach beyond the picture
    for tile in listed:
        for area in (by_any, by_level) if tile.level == level else (by_any,):
            area[tile.y // 64 : (tile.y + tile.side) // 64, tile.x // 64 : (tile.x + tile.side) // 64] = True
    return 1 - float(by_level.sum() / by_any.sum()) if by_any.any() else 1.0


def discs_lost(sound: list[StoredTile], lost: Collection[tuple[int, int, int]], *, level: int) -> float:
    shown = [(tile.level, tile.x, tile.y) for tile in sound if tile.level == level and shows_disc(tile)]
    return sum(position in lost for position in shown) / len(shown)


def losses_without_tiles(
    sound: Path, folder: Path, levels: tuple[int, ...], *, seed: int
) -> tuple[float, float, float]:
    """Lost share of the finest pass as stated, and the least and most that is true, some tiles not being listed.

    Where the overview is whole its objects count, elsewhere all area does.
    """
    rng = np.random.default_rng(seed)
    tiles = stored_tiles(sound)
    share = rng.uniform(0.2, 0.8)
    lost = {(tile.level, tile.x, tile.y) for tile in tiles if tile.level in levels and rng.random() < share}
    slide = copy_slide(sound, folder)
    leave_out(slide, lambda tile: (tile.level, tile.x, tile.y) in lost)
    left = [tile for tile in tiles if (tile.level, tile.x, tile.y) not in lost]
    truths = area_lost(left, level=2), discs_lost(tiles, lost, level=2)
    result = run(slide, folder, "slides.max_lost_share=1")
    if isinstance(result, str):
        assert "100.0% of the foreground" in result or "none of its stored tiles" in result, result
        return 1.0, min(truths), max(truths)
    return summary_of(result).finest_lost_share, min(truths), max(truths)


@pytest.mark.parametrize("levels", SOME_LEVELS)
def test_tiles_missing_from_several_levels_are_counted_by_area(
    sound: Path, tmp_path: Path, levels: tuple[int, ...]
) -> None:
    """What any level as fine as the overview's still lists is expected of the pass, whatever the others lost."""
    stated, least, most = losses_without_tiles(sound, tmp_path, levels, seed=4)
    assert least - 0.12 < stated < most + 0.12


@pytest.mark.slow
@pytest.mark.parametrize("levels", ALL_LEVELS)
@pytest.mark.parametrize("seed", range(3))
def test_tiles_missing_from_any_combination_of_levels_are_counted_by_area(
    sound: Path, tmp_path: Path, levels: tuple[int, ...], seed: int
) -> None:
    stated, least, most = losses_without_tiles(sound, tmp_path, levels, seed=seed)
    assert stated > least - 0.15, "more was lost than is stated"
    if 0 not in levels or sound.suffix == ".tif":  # OpenSlide shows no level of a photo that level 0 lost
        assert stated < most + 0.15


def test_photos_that_level_0_lost_belong_to_the_scanned_area(mirax: Path, tmp_path: Path) -> None:
    slide = copy_slide(mirax, tmp_path)
    with open_slide(mirax) as whole:
        bounds = whole.info.bounds
    leave_out_mirax_tiles(slide, 0, keep=lambda tile: tile.y < 1400)
    with open_slide(slide) as less:
        assert abs(less.info.bounds.height - bounds.height) < 64
    summary = summary_of(run(slide, tmp_path, "slides.max_lost_share=0.95"))
    assert 0.2 < summary.finest_lost_share < 0.9


def test_a_crop_whose_tile_its_level_lacks_comes_from_a_coarser_one(mirax: Path, tmp_path: Path) -> None:
    """Every second column of the finest tiles is gone; the photos' other tiles keep them in all other levels."""
    whole = summary_of(run(mirax, tmp_path / "whole"))
    slide = copy_slide(mirax, tmp_path)
    leave_out_mirax_tiles(slide, 0, keep=lambda tile: tile.x // 256 % 2 == 0)
    result = run(slide, tmp_path / "less", "slides.max_lost_share=1")
    assert summary_of(result).objects == whole.objects
    assert summary_of(result).crops_coarser > whole.objects / 3
    assert isinstance(result, RunStore)
    opacity = min(objects(result)["opacity"].to_pylist())
    assert opacity > 0.1, "no crop shows clear field"


def test_boxes_end_with_the_scanned_area(tmp_path: Path) -> None:
    """Discs lie across the edge of the scan; the detector sees more of the canvas than was scanned."""
    from support.slides_on_disk import write_slide

    slide = tmp_path / "edge.mrxs"
    write_slide(slide, size=1536, objects=8)
    with open_slide(slide) as opened:
        bounds = opened.info.bounds
    store = run(slide, tmp_path)
    summary = summary_of(store)
    assert isinstance(store, RunStore)
    table = objects(store)
    for row in table.to_pylist():
        assert bounds.x_min <= row["x_min"] < row["x_max"] <= bounds.x_max
        assert bounds.y_min <= row["y_min"] < row["y_max"] <= bounds.y_max
    assert summary.boxes_outside == 0
    assert summary.content_mm2 <= summary.scanned_mm2 * (1 + 1e-9)
