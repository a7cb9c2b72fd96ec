"""Stored tiles that are missing or damaged are unreadable, whatever OpenSlide would decode in their place."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.compare_readers import READERS, Reader, texture
from support.damaged_slides import WRITERS, StoredTile, copy_slide, leave_out, stored_tiles
from support.jpeg_tiffs import JpegTiff, write_jpeg_tiff

from fossilray.core.errors import UnreadableRegion, UnsupportedOrientation
from fossilray.slides.doubts.tiles import tile_doubts
from fossilray.slides.mirax.layout import read_mirax_layout
from fossilray.slides.slide import Slide, check_files, open_slide
from fossilray.slides.tiff.layout import read_tiff_layout
from fossilray.slides.tile_layout import LevelLayout

APERIO = "Aperio Image Library v12.0.15\r\n655x531 [0,0 655x531] (64x64) JPEG/RGB Q=85|AppMag = 20|MPP = 0.25"


def corrupt(tile: StoredTile, _other: StoredTile) -> None:
    tile.corrupt()


def empty(tile: StoredTile, _other: StoredTile) -> None:
    tile.empty()


def zero(tile: StoredTile, _other: StoredTile) -> None:
    tile.zero()


def point_beyond(tile: StoredTile, _other: StoredTile) -> None:
    tile.point_beyond()


LIES: dict[str, tuple[Callable[[StoredTile, StoredTile], None], str]] = {
    "no bytes": (empty, r"1 of \d+ \(.*%\), namely 1 of 0 bytes"),
    "beyond the end": (point_beyond, r"namely 1 beyond the end of their file"),
    "damaged data": (corrupt, r"namely 1 with damaged data"),
    "zeros": (zero, r"namely 1 with damaged data"),
    "inside another": (StoredTile.point_into, r"namely 1 with damaged data"),
    "another's place": (StoredTile.point_at, r"namely 1 with damaged data"),
}


@pytest.fixture(scope="module", params=WRITERS)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](
        tmp_path_factory.mktemp("sound") / f"s{request.param}", size=1536, objects=40
    )


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("level", [0, 1])
def test_a_tile_that_is_not_there_is_unreadable_and_all_others_are_read(
    sound: Path, tmp_path: Path, lie: str, level: int
) -> None:
    """Tiles are those with most bytes, which show discs; two far from each other."""
    path = copy_slide(sound, tmp_path)
    tile, other = two_full_tiles(path, level)
    damage, sentence = LIES[lie]
    damage(tile, other)
    layout = layout_of(sound, level)
    bad, copied = number_of(layout, tile), number_of(layout, other)
    for reader in READERS:
        with open_slide(sound, reader=reader) as whole, open_slide(path, reader=reader) as less:
            compared = 0
            for piece, stored in enumerate(layout.pieces.tile.tolist()):
                region = inside(layout, piece)
                if lie == "another's place" and stored == copied:
                    continue  # which of the two it shows is not known, unless it is blank
                if stored == bad:
                    with pytest.raises(UnreadableRegion, match="copy the slide again"):
                        less.read(level, *region)
                elif not meets(layout, region, [bad, copied]):
                    compared += 1
                    np.testing.assert_array_equal(less.read(level, *region), whole.read(level, *region))
            assert compared > 0
            assert not list(tile_doubts(whole))
            (doubt,) = tile_doubts(less)
        assert doubt.code == "tiles-missing"
        assert doubt.value == 1
        assert re.search(sentence, doubt.sentence), doubt.sentence


@pytest.mark.parametrize("reader", READERS)
def test_overviews_show_a_damaged_tile_as_unreadable(sound: Path, tmp_path: Path, reader: Reader) -> None:
    path = copy_slide(sound, tmp_path)
    tile, _ = two_full_tiles(path, 0)
    tile.corrupt()
    with open_slide(path, reader=reader) as slide:
        overview = slide.overview(0.25)
        assert 0 < (~overview.readable).sum() <= (2 * tile.side) ** 2
        assert (overview.rgb[~overview.readable] == 128).all()


def test_a_tile_left_out_of_a_sparse_tiff_is_not_a_fault(tmp_path: Path) -> None:
    path = WRITERS[".tif"](tmp_path / "s.tif", size=1024, objects=9)
    leave_out(path, lambda tile: tile.level == 0 and tile.x < 256)
    with open_slide(path) as slide:
        assert not list(tile_doubts(slide))
        assert not slide.read_with_alpha(0, 10, 10, 50, 50)[1].any()


@pytest.mark.parametrize("reader", READERS)
def test_gaps_of_an_aperio_slide_are_unreadable(tmp_path: Path, reader: Reader) -> None:
    """OpenSlide fills them from a coarser level."""
    path = tmp_path / "s.svs"
    write_jpeg_tiff(path, texture(655)[:531], JpegTiff(gaps=0.1, description=APERIO))
    with open_slide(path, reader=reader) as slide:
        (doubt,) = tile_doubts(slide)
        errors = [error_of(slide, 64 * column, 64 * row, 64, 64) for row in range(8) for column in range(10)]
    assert 3 <= sum("of 0 bytes" in error for error in errors) == sum(map(bool, errors)) <= 16
    assert "of 0 bytes" in doubt.sentence


def test_a_cell_that_is_listed_at_two_places_is_unreadable(tmp_path: Path) -> None:
    path = WRITERS[".mrxs"](tmp_path / "s.mrxs", size=1024, objects=9)
    tile, other = two_full_tiles(path, 1)
    layout = layout_of(path, 1)
    region = inside(layout, int(np.flatnonzero(layout.pieces.tile == number_of(layout, tile))[0]))
    index = bytearray(tile.index.read_bytes())
    index[other.offset_at - 4 : other.offset_at] = index[tile.offset_at - 4 : tile.offset_at]
    tile.index.write_bytes(index)
    for reader in READERS:
        with open_slide(path, reader=reader) as slide:
            (doubt,) = tile_doubts(slide)
            assert "namely 2 listed twice" in doubt.sentence
            with pytest.raises(UnreadableRegion, match="listed twice"):
                slide.read(1, *region)


def test_blank_tiles_that_are_stored_once_are_read(tmp_path: Path) -> None:
    """Writers may store one blank tile for many places."""
    path = WRITERS[".tif"](tmp_path / "s.tif", size=1024, objects=4)
    whole = tmp_path / "whole"
    copy_slide(path, whole)
    blank = [tile for tile in stored_tiles(path) if tile.level == 0]
    least = min(tile.length for tile in blank)
    blank = [tile for tile in blank if tile.length == least]
    for tile in blank[1:]:
        tile.point_at(blank[0])
    assert len(blank) > 5
    for reader in READERS:
        with open_slide(path, reader=reader) as less, open_slide(whole / "s.tif", reader=reader) as sound:
            np.testing.assert_array_equal(less.read(0, 0, 0, 1024, 1024), sound.read(0, 0, 0, 1024, 1024))
            assert not list(tile_doubts(less))


def test_padding_of_all_tiles_by_a_writer_is_no_damage(tmp_path: Path) -> None:
    """libjpeg warns of bytes before the end marker; in a single tile they are a sign of damage."""
    path = tmp_path / "s.tif"
    write_jpeg_tiff(path, texture(300), JpegTiff(halves=(), ending=bytes(5) + b"\xff\xd9"))
    write_jpeg_tiff(tmp_path / "plain.tif", texture(300), JpegTiff(halves=()))
    for reader in READERS:
        with open_slide(path, reader=reader) as padded, open_slide(tmp_path / "plain.tif") as plain:
            np.testing.assert_array_equal(padded.read(0, 0, 0, 300, 300), plain.read(0, 0, 0, 300, 300))
            assert not list(tile_doubts(padded))


@pytest.mark.parametrize("value", [2, 6, 8])
@pytest.mark.parametrize("description", [None, APERIO], ids=["tiff", "svs"])
def test_a_rotated_or_mirrored_tiff_is_refused_with_a_remedy(
    tmp_path: Path, value: int, description: str | None
) -> None:
    path = tmp_path / "s 1.tif"
    write_jpeg_tiff(path, texture(655)[:531], JpegTiff(description=description, other_tags={274: [value]}))
    for check in (check_files, open_slide):
        with pytest.raises(UnsupportedOrientation, match=rf"tag 274 is {value}.*vips autorot 's 1\.tif'"):
            check(path)


@pytest.mark.parametrize("value", [0, 1, 9])
def test_an_upright_tiff_is_read(tmp_path: Path, value: int) -> None:
    path = tmp_path / "s.tif"
    write_jpeg_tiff(path, texture(300), JpegTiff(other_tags={274: [value]}))
    with open_slide(path) as slide:
        slide.read(0, 0, 0, 100, 100)


def error_of(slide: Slide, *region: int) -> str:
    try:
        slide.read(0, *region)
    except UnreadableRegion as error:
        return str(error)
    return ""


def two_full_tiles(path: Path, level: int) -> tuple[StoredTile, StoredTile]:
    """The tile with most bytes, and the farthest from it in the same file."""
    tiles = [tile for tile in stored_tiles(path) if tile.level == level]
    fullest = max(tiles, key=lambda tile: tile.length)
    beside = [tile for tile in tiles if tile.file == fullest.file]
    return fullest, max(beside, key=lambda tile: abs(tile.x - fullest.x) + abs(tile.y - fullest.y))


def layout_of(path: Path, number: int) -> LevelLayout:
    with open_slide(path) as slide:
        levels = slide.info.levels
    layout = read_mirax_layout(path) if path.suffix == ".mrxs" else read_tiff_layout(path, levels)
    level = layout.levels[number]
    assert level is not None
    return level


def number_of(layout: LevelLayout, tile: StoredTile) -> int:
    files = {f"Data{number:04d}.dat": number for number in range(99)}
    file = files.get(tile.file.name, 0)
    (number,) = np.flatnonzero(
        (layout.tiles.length == tile.length)
        & (layout.tiles.file == file)
        & (layout.tiles.offset == tile.offset)
    )
    return int(number)


def inside(layout: LevelLayout, piece: int) -> tuple[int, int, int, int]:
    """The middle half of a piece: x and y in level-0 px, width and height in px of the level."""
    pieces = layout.pieces
    width, height = pieces.width // 2, pieces.height // 2
    x, y = (float(corner[piece]) for corner in (pieces.left, pieces.top))
    return (
        int((x + width // 2) * layout.downsample),
        int((y + height // 2) * layout.downsample),
        width,
        height,
    )


def meets(layout: LevelLayout, region: tuple[int, int, int, int], bad: list[int]) -> bool:
    """Whether a region meets one of these tiles; photos overlap, and their coarser tiles are known to within 30 px."""
    pieces, (x, y, width, height) = layout.pieces, region
    x_min, y_min = (x - 30) / layout.downsample, (y - 30) / layout.downsample
    x_max, y_max = x / layout.downsample + width, y / layout.downsample + height
    is_met = (pieces.left < x_max + 30) & (pieces.left + pieces.width > x_min)
    is_met &= (pieces.top < y_max + 30) & (pieces.top + pieces.height > y_min)
    return bool((is_met & np.isin(pieces.tile, bad)).any())
