"""A slide with lying tiles gives the objects of the sound one, with true pixels in every crop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from processing.test_worker import objects, run_one
from support.compare_readers import READERS, Reader
from support.damaged_slides import WRITERS, StoredTile, copy_slide, shows_disc, stored_tiles
from support.slides_on_disk import CLEAR, write_slide

from fossilray.core.records import SlideSummary
from fossilray.slides.slide import open_slide
from fossilray.store.arrays.group import open_array_group

WITHOUT = ("embedder.weights=none", "slides.max_lost_share=1")
Result = tuple[list[tuple[int, ...]], NDArray[np.uint8], SlideSummary]


def corrupt(tiles: list[StoredTile]) -> None:
    for tile in tiles:
        tile.corrupt()


def empty(tiles: list[StoredTile]) -> None:
    for tile in tiles:
        tile.empty()


def point_beyond(tiles: list[StoredTile]) -> None:
    for tile in tiles:
        tile.point_beyond()


def rotate(tiles: list[StoredTile]) -> None:
    """Each shows the next one's picture; all of one file, and each place is stated twice."""
    for tile in tiles[1:]:
        tile.point_at(tiles[0])


LIES: dict[str, Callable[[list[StoredTile]], None]] = {
    "no bytes": empty,
    "beyond the end": point_beyond,
    "damaged data": corrupt,
    "another's place": rotate,
}


@pytest.fixture(scope="module", params=WRITERS)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](
        tmp_path_factory.mktemp("sound") / f"s{request.param}", size=1536, objects=25
    )


@pytest.fixture(scope="module")
def whole(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return result_of(sound, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("lie", LIES)
def test_crops_over_finest_tiles_that_are_not_there_come_from_a_coarser_level(
    sound: Path, whole: Result, tmp_path: Path, lie: str, reader: Reader
) -> None:
    """Boxes come from levels 2 and 3, which are sound."""
    path = copy_slide(sound, tmp_path)
    tiles = [tile for tile in stored_tiles(path) if tile.level == 0 and shows_disc(tile)]
    tiles = [tile for tile in tiles if tile.file == tiles[0].file][::7]
    LIES[lie](tiles)
    boxes, crops, summary = result_of(path, tmp_path, f"slides.reader={reader}")
    assert boxes == whole[0]
    changed = (crops != whole[1]).any(axis=(1, 2, 3))
    assert summary.crops_coarser == changed.sum() > 0
    assert (summary.crops_failed, summary.tiles_failed) == (0, 0)
    assert not changed.all()
    # A coarser level shows the same discs, blurred at their edges.
    difference = np.abs(crops.astype(np.int16) - whole[1]).mean(axis=(1, 2, 3))
    assert difference.max() < 6
    (doubt,) = summary.doubts or ()
    assert doubt.code == "tiles-missing"
    assert doubt.value == len(tiles)
    assert f"crops from a coarser level: {summary.crops_coarser}" in doubt.sentence


@pytest.mark.parametrize("lie", LIES)
def test_tiles_of_the_detectors_level_that_are_not_there_are_counted(
    sound: Path, whole: Result, tmp_path: Path, lie: str
) -> None:
    path = copy_slide(sound, tmp_path)
    tiles = [tile for tile in stored_tiles(path) if tile.level == 2 and shows_disc(tile)]
    tiles = [tile for tile in tiles if tile.file == tiles[0].file][:2]
    LIES[lie](tiles)
    first, second = (result_of(path, tmp_path / reader, f"slides.reader={reader}") for reader in READERS)
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])
    summary = first[2]
    assert summary.tiles_failed > 0
    assert 0 < (summary.lost_share or 0) < 1
    assert set(first[0]) < set(whole[0]) | set(first[0])
    assert [doubt.code for doubt in summary.doubts or ()] == ["tiles-missing"]


@pytest.mark.parametrize("fill", [0, 0x405060, 0xFFFFFF])
@pytest.mark.parametrize("reader", READERS)
def test_the_fill_colour_of_a_file_makes_no_objects(tmp_path: Path, fill: int, reader: Reader) -> None:
    """Discs lie across the rim of the scan; beyond it is the clear field, whatever the file states."""
    path = tmp_path / "s.mrxs"
    write_slide(path, size=1536, objects=12)
    plain = result_of(path, tmp_path / "plain")
    slidedat = path.with_suffix("") / "Slidedat.ini"
    text = slidedat.read_text("utf-8-sig")
    start = text.index("IMAGE_FILL_COLOR_BGR = ")
    stated = text[start : text.index("\n", start)]
    slidedat.write_text(text.replace(stated.rstrip(), f"IMAGE_FILL_COLOR_BGR = {fill}"), "utf-8-sig")
    filled = result_of(path, tmp_path / "filled", f"slides.reader={reader}")
    assert filled[0] == plain[0]
    assert np.abs(filled[1].astype(np.int16) - plain[1]).max() <= 8
    with open_slide(path, reader=reader) as slide:
        bounds = slide.info.bounds
        assert np.abs(np.subtract(slide.background_rgb, CLEAR)).max() <= 1
        beyond = slide.read(2, bounds.x_min - 400, bounds.y_min - 400, 50, 50)
        assert (beyond == slide.background_rgb).all()


def result_of(path: Path, folder: Path, *settings: str) -> Result:
    """Boxes, crops and counts of a run over one slide."""
    store, outcome = run_one(path, folder, *WITHOUT, *settings)
    assert outcome.failure is None, outcome.failure
    table = objects(store)
    boxes = [
        (row["x_min"], row["y_min"], row["x_max"], row["y_max"])
        for row in table.select(["x_min", "y_min", "x_max", "y_max"]).to_pylist()
    ]
    crops = np.asarray(open_array_group(store, table["arrays"][0].as_py())["crops"][:])
    return boxes, crops, store.summaries()[0]
