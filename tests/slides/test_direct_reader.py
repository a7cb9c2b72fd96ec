"""Pixels read without OpenSlide are OpenSlide's to the bit, and where they might not be it is asked."""

from __future__ import annotations

import re
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.compare_readers import READERS, assert_same, pixels_or_error, some_regions, texture

from fossilray.core.config import load_config
from fossilray.core.errors import UnreadableRegion
from fossilray.slides.direct import reader
from fossilray.slides.direct.compositing import compose_window
from fossilray.slides.direct.tile_cache import TileCache
from fossilray.slides.mirax.layout import read_mirax_layout
from fossilray.slides.slide import open_slide
from fossilray.synthetic.writers.mirax import write_mirax
from fossilray.synthetic.writers.mirax_plan import MiraxOptions
from fossilray.synthetic.writers.pixels import ArrayPixels

SMALL = {"photo_px": 256, "divisions_per_side": 2, "overlap_px": 24, "jitter_px": 7, "margin_photos": 1}


def write(folder: Path, side: int = 900, **options: object) -> Path:
    path = folder / "slide.mrxs"
    write_mirax(path, ArrayPixels(image=texture(side)), MiraxOptions(**options))  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("overlapping"), levels=5, **SMALL)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    database=None,
)
@given(
    data=st.data(),
    divisions=st.sampled_from([1, 2, 4]),
    tile_px=st.sampled_from([32, 48, 64, 96]),
    levels=st.integers(1, 5),
    layout=st.sampled_from(["overlapping", "overlapping", "aligned"]),
    margin=st.integers(0, 2),
    side=st.integers(60, 700),
    seed=st.integers(0, 2**16),
)
def test_any_layout_is_read_as_openslide_reads_it(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    divisions: int,
    tile_px: int,
    levels: int,
    layout: str,
    margin: int,
    side: int,
    seed: int,
) -> None:
    overlap = data.draw(st.integers(0, tile_px * divisions // 3))
    path = write(
        tmp_path_factory.mktemp("any"),
        side,
        photo_px=tile_px * divisions,
        divisions_per_side=divisions,
        overlap_px=overlap,
        jitter_px=data.draw(st.integers(0, overlap // 2)),
        levels=levels,
        layout=layout,
        margin_photos=margin,
        seed=seed,
    )
    rng = np.random.default_rng(seed)
    with open_slide(path) as slide:
        regions = [some_regions(slide, rng, 6) for _ in slide.info.levels]
    for level, some in enumerate(regions):
        read = assert_same(path, level, some)
        # Tiles of many photos are cut into many pieces; those below 16 px are left to OpenSlide.
        pieces = max(1, 2**level // divisions) if layout == "overlapping" else 1
        assert read == (len(some) if tile_px // pieces >= 16 else 0)


@pytest.mark.parametrize("level", range(5))
def test_every_level_with_overlaps_and_jitter_is_read_directly(overlapping: Path, level: int) -> None:
    with open_slide(overlapping) as slide:
        regions = some_regions(slide, np.random.default_rng(level), 25)
        bounds = slide.info.bounds
    regions.append((bounds.x_min - 3, bounds.y_min - 5, 1100 >> level, 1100 >> level))
    assert assert_same(overlapping, level, regions) == len(regions)


def test_windows_larger_than_openslides_blocks_are_the_same(tmp_path: Path) -> None:
    path = write(
        tmp_path, 300, layout="aligned", photo_px=128, divisions_per_side=2, margin_photos=1, levels=2
    )
    assert assert_same(path, 0, [(-4000, -10, 4300, 400), (-7, -4030, 300, 4200)]) == 2
    assert assert_same(path, 1, [(-8003, 1, 4200, 90), (3, -8111, 90, 4400)]) == 2


def test_nominal_places_count_where_none_are_stored(overlapping: Path, tmp_path: Path) -> None:
    path = copied(overlapping, tmp_path)
    edit_slidedat(path, "NONHIER_COUNT = 2", "NONHIER_COUNT = 1")
    # OpenSlide rounds such places as they come.
    edit_slidedat(path, r"OVERLAP_X = (\d+)\.\d+", r"OVERLAP_X = \1.37")
    rng = np.random.default_rng(1)
    with open_slide(path) as slide:
        regions = some_regions(slide, rng, 20)
    for level in range(3):
        assert assert_same(path, level, regions) == 20


def test_packed_places_are_read(overlapping: Path, tmp_path: Path) -> None:
    path = copied(overlapping, tmp_path)
    pack_positions(path)
    edit_slidedat(path, "= VIMSLIDE_POSITION_BUFFER", "= StitchingIntensityLayer")
    with open_slide(path) as slide:
        regions = some_regions(slide, np.random.default_rng(2), 20)
    for level in (0, 2):
        assert assert_same(path, level, regions) == 20


def test_level_that_differs_is_left_to_openslide(overlapping: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_grey_level_off(*what: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        rgb, alpha = compose_window(*what)
        return rgb ^ 1, alpha

    monkeypatch.setattr(reader, "compose_window", one_grey_level_off)
    assert assert_same(overlapping, 0, [(300, 300, 90, 90)]) == 0
    assert assert_same(overlapping, 1, [(300, 300, 90, 90)]) == 0


def test_both_readers_refuse_a_corrupt_tile(overlapping: Path, tmp_path: Path) -> None:
    path = copied(overlapping, tmp_path)
    level = read_mirax_layout(path).levels[0]
    assert level is not None
    tiles, folder = level.tiles, path.with_suffix("")
    for number, (at, byte) in {30: (0.6, 0xFF), 36: (0.0, 0x00), 44: (0.5, 0x55)}.items():
        file = folder / f"Data{tiles.file[number]:04d}.dat"
        content = bytearray(file.read_bytes())
        place = int(tiles.offset[number] + at * tiles.length[number])
        content[place : place + 12] = bytes([byte]) * 12
        file.write_bytes(content)
    for number in (30, 36, 44, 50):
        corner = int(level.pieces.left[number]) + 20, int(level.pieces.top[number]) + 20
        ours, theirs = (pixels_or_error(path, kind, (*corner, 60, 60)) for kind in READERS)
        np.testing.assert_array_equal(ours, theirs)
        assert isinstance(ours, str) or number not in (30, 36)


def test_unusual_slides_are_left_to_openslide(overlapping: Path, tmp_path: Path) -> None:
    path = copied(overlapping, tmp_path)
    edit_slidedat(path, "IMAGE_FORMAT = JPEG", "IMAGE_FORMAT = PNG")
    with pytest.raises(ValueError, match="JPEG"):
        read_mirax_layout(path)
    with open_slide(path) as slide, pytest.raises(UnreadableRegion):
        slide.read(0, *(slide.info.bounds.x_min + 5,) * 2, 50, 50)


def test_level_with_two_tiles_in_a_cell_is_left_to_openslide(overlapping: Path, tmp_path: Path) -> None:
    path = copied(overlapping, tmp_path)
    level = read_mirax_layout(path).levels[1]
    assert level is not None
    file = path.with_suffix("") / "Index.dat"
    index = bytearray(file.read_bytes())
    # An entry is cell, offset, bytes, file; the offsets of two neighbours tell where theirs are.
    first, second = (index.find(np.array(level.tiles.offset[at], "<i4").tobytes()) - 4 for at in (8, 9))
    index[second : second + 4] = index[first : first + 4]
    file.write_bytes(index)
    with open_slide(path) as slide:
        regions = some_regions(slide, np.random.default_rng(4), 8)
    assert assert_same(path, 1, regions) == 0
    assert assert_same(path, 2, regions) == 8


def test_threads_share_a_slide(overlapping: Path) -> None:
    with open_slide(overlapping) as slide, ThreadPoolExecutor(6) as pool:
        regions = [
            (number % 3, *region)
            for number, region in enumerate(some_regions(slide, np.random.default_rng(3), 60))
        ]
        together = list(pool.map(lambda region: slide.read(*region), regions))
        assert slide.regions_read_directly == 60
    with open_slide(overlapping, reader="openslide") as slide:
        for region, pixels in zip(regions, together, strict=True):
            np.testing.assert_array_equal(pixels, slide.read(*region))


def test_closed_slide_refuses_to_be_read_directly(overlapping: Path) -> None:
    with open_slide(overlapping) as slide:
        slide.read(0, 300, 300, 10, 10)
    with pytest.raises(ValueError, match="closed"):
        slide.read(0, 300, 300, 10, 10)


def test_cache_keeps_what_was_used_last_within_its_bytes() -> None:
    cache = TileCache(3 * 12)
    decoded: list[int] = []

    def get(number: int) -> None:
        def decode() -> NDArray[np.uint8]:
            decoded.append(number)
            return np.zeros((2, 2, 3), np.uint8)

        cache.get((0, number), decode)

    for number in (1, 2, 3, 1, 4, 1, 2):
        get(number)
    assert decoded == [1, 2, 3, 4, 2]


def test_reader_is_no_part_of_what_a_resumed_run_must_share() -> None:
    ours, theirs = (load_config(None, [f"slides.reader={kind}"]) for kind in READERS)
    assert ours.what_changes_results() == theirs.what_changes_results()


def copied(slide: Path, folder: Path) -> Path:
    shutil.copytree(slide.parent, folder / "copy")
    return folder / "copy" / slide.name


def edit_slidedat(path: Path, pattern: str, replacement: str) -> None:
    file = path.with_suffix("") / "Slidedat.ini"
    text, count = re.subn(pattern, replacement, file.read_bytes().decode("utf-8-sig"))
    assert count
    file.write_bytes(text.encode("utf-8-sig"))


def pack_positions(path: Path) -> None:
    """Put a compressed copy of the position buffer, the second record, at the end of the first data file."""
    folder = path.with_suffix("")
    index = bytearray((folder / "Index.dat").read_bytes())
    offset, length, number = np.frombuffer(index, "<i4", 3, len(index) - 12).tolist()
    places = (folder / f"Data{number:04d}.dat").read_bytes()[offset : offset + length]
    packed, first = zlib.compress(places), folder / "Data0000.dat"
    index[-12:] = np.array([first.stat().st_size, len(packed), 0], "<i4").tobytes()
    with first.open("ab") as file:
        file.write(packed)
    (folder / "Index.dat").write_bytes(index)
