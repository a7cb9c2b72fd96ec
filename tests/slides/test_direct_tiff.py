"""TIFFs read without OpenSlide are OpenSlide's to the bit, and where they might not be it is asked."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.compare_readers import READERS, Region, assert_same, pixels_or_error, some_regions, texture
from support.jpeg_tiffs import JpegTiff, write_jpeg_tiff

from fossilray.slides.slide import open_slide
from fossilray.slides.tiff import layout as tiff_layout
from fossilray.slides.tiff.layout import read_tiff_layout
from fossilray.slides.tile_layout import StoredTiles
from fossilray.synthetic.writers.pixels import ArrayPixels
from fossilray.synthetic.writers.tiff import TiffOptions, write_pyramidal_tiff

REAL_SVS = Path(__file__).parents[3] / "shared" / "data" / "wsi" / "cmu-1-small-region.svs"
CORRUPT = {30: (0.6, 0xFF), 36: (0.0, 0x00), 44: (0.5, 0x55)}
"""Where in a tile twelve bytes are overwritten, as a share of its bytes, and by what."""
APERIO = "Aperio Image Library v11\r\n640x480 [0,0 640x480] (64x64) JPEG/RGB Q=85|AppMag = 40|MPP = 0.25"


def write(folder: Path, kind: JpegTiff, size: tuple[int, int] = (655, 531), seed: int = 0) -> Path:
    path = folder / "slide.tif"
    write_jpeg_tiff(path, texture(max(size), seed)[: size[1], : size[0]], kind, seed)
    return path


def regions_of(path: Path, count: int, seed: int = 0) -> list[Region]:
    with open_slide(path) as slide:
        return some_regions(slide, np.random.default_rng(seed), count)


def tiles_of(path: Path, level: int) -> StoredTiles:
    with open_slide(path) as slide:
        placed = read_tiff_layout(path, slide.info.levels).levels[level]
    assert placed is not None
    return placed.tiles


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    database=None,
)
@given(
    kind=st.builds(
        JpegTiff,
        tile_px=st.tuples(*[st.sampled_from([16, 48, 64, 128])] * 2),
        photometric=st.sampled_from(["ycbcr", "rgb"]),
        subsampling=st.sampled_from([0, 1, 2]),
        tables=st.sampled_from(["shared", "own"]),
        markers=st.sampled_from(["jfif", "none"]),
        is_big=st.booleans(),
        byte_order=st.sampled_from("<>"),
        halves=st.lists(st.floats(0.05, 0.9), max_size=2, unique=True).map(
            lambda some: tuple(sorted(some)[::-1])
        ),
        gaps=st.sampled_from([0.0, 0.3]),
        encoding=st.sampled_from([{}, {"progressive": True}, {"restart_marker_blocks": 2}]),
        # OpenSlide 4.0.1 opens no plain TIFF that is big-endian.
    ).filter(lambda kind: kind.is_big or kind.byte_order == "<"),
    size=st.tuples(st.integers(20, 500), st.integers(20, 500)),
    seed=st.integers(0, 2**16),
)
def test_any_tiff_is_read_as_openslide_reads_it(
    tmp_path_factory: pytest.TempPathFactory, kind: JpegTiff, size: tuple[int, int], seed: int
) -> None:
    path = write(tmp_path_factory.mktemp("any"), kind, size, seed)
    regions = regions_of(path, 6, seed)
    with open_slide(path) as slide:
        levels = [(level.width, level.height) for level in slide.info.levels]
    for number, level in enumerate(levels):
        # Which of two directories of one size OpenSlide means is not known.
        assert assert_same(path, number, regions) == (len(regions) if levels.count(level) == 1 else 0)


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("kind", ["generic", "aperio"])
def test_every_level_is_read_directly_at_any_fraction_of_a_pixel(
    tmp_path: Path, kind: str, level: int
) -> None:
    path = write(tmp_path, JpegTiff(description=APERIO if kind == "aperio" else None))
    with open_slide(path) as slide:
        assert slide.info.vendor == ("aperio" if kind == "aperio" else "generic-tiff")
        downsample = slide.info.levels[level].downsample
        assert level == 0 or downsample % 1
    # Places nearer than 1/512 to a whole pixel of the level are whole for cairo.
    near = [(round(step * downsample), round(2 * step * downsample), 150, 90) for step in range(1, 40, 3)]
    regions = regions_of(path, 40, level) + near
    assert assert_same(path, level, regions) == len(regions)


def test_our_own_slides_are_read_directly(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    write_pyramidal_tiff(path, ArrayPixels(image=texture(1001)[:, :777]), TiffOptions(levels=4, tile_px=64))
    for level in range(4):
        assert assert_same(path, level, regions_of(path, 20)) == 20


@pytest.mark.skipif(not REAL_SVS.is_file(), reason="the shared slide is not here")
def test_real_svs_with_colours_stored_as_rgb_is_read_directly() -> None:
    regions = regions_of(REAL_SVS, 40)
    assert assert_same(REAL_SVS, 0, [*regions, (0, 0, 2220, 2967)]) == 41


def test_windows_larger_than_openslides_blocks_are_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, JpegTiff())
    wide: list[Region] = [(-8003, -10, 4300, 40), (-9, -16_111, 40, 4400), (3, 5, 4200, 20)]
    for level in (0, 1):
        assert assert_same(path, level, wide) == 3


def test_gaps_of_a_plain_tiff_are_transparent(tmp_path: Path) -> None:
    path = write(tmp_path, JpegTiff(gaps=0.4))
    assert assert_same(path, 0, [(0, 0, 655, 531)]) == 1
    with open_slide(path) as slide:
        coverage = slide.read_with_alpha(0, 0, 0, 655, 531)[1]
    assert set(np.unique(coverage)) == {0, 255}


def test_both_readers_refuse_a_corrupt_tile(tmp_path: Path) -> None:
    path = write(tmp_path, JpegTiff(tables="shared"))
    tiles, content = tiles_of(path, 0), bytearray(path.read_bytes())
    for number, (at, byte) in CORRUPT.items():
        place = int(tiles.offset[number] + at * tiles.length[number])
        content[place : place + 12] = bytes([byte]) * 12
    path.write_bytes(content)
    for number in (30, 36, 44, 50):
        row, column = divmod(number, 11)
        ours, theirs = (
            pixels_or_error(path, kind, (column * 64 + 2, row * 64 + 2, 60, 60)) for kind in READERS
        )
        np.testing.assert_array_equal(ours, theirs)
        assert isinstance(ours, str) == (number in (30, 36))  # 44 has as many valid codes as before


def test_file_cut_short_is_what_openslide_makes_of_it(tmp_path: Path) -> None:
    path = write(tmp_path, JpegTiff(halves=(0.25,)))
    tiles, whole = tiles_of(path, 0), path.read_bytes()
    # The directory lies at the end; a tile that begins nearer to it than it is long is cut short.
    place = whole.index(np.array(tiles.offset[40:43], "<u4").tobytes())
    changed = np.array([len(whole) - 300], "<u4").tobytes()
    path.write_bytes(whole[:place] + changed + whole[place + 4 :])
    row, column = divmod(40, 11)
    ours, theirs = (pixels_or_error(path, kind, (column * 64 + 2, row * 64 + 2, 60, 60)) for kind in READERS)
    np.testing.assert_array_equal(ours, theirs)
    with open_slide(path) as slide:
        slide.read(0, 0, 0, 100, 100)
        assert slide.regions_read_directly == 1


@pytest.mark.parametrize("odd", ["grey", "larger", "smaller"])
def test_tile_that_is_no_picture_like_the_others_is_what_openslide_makes_of_it(
    tmp_path: Path, odd: str
) -> None:
    path = write(tmp_path, JpegTiff())
    tiles, content = tiles_of(path, 0), bytearray(path.read_bytes())
    side = {"grey": 64, "larger": 4000, "smaller": 48}[odd]
    file = io.BytesIO()
    Image.new("L" if odd == "grey" else "RGB", (side, side), 128 if odd == "grey" else (9, 90, 190)).save(
        file, "JPEG", quality=1
    )
    number = 50
    if odd == "larger":
        place = content.index(np.array(tiles.offset[number : number + 3], "<u4").tobytes())
        content[place : place + 4] = np.array([len(content)], "<u4").tobytes()
        place = content.index(np.array(tiles.length[number : number + 3], "<u4").tobytes())
        content[place : place + 4] = np.array([len(file.getvalue())], "<u4").tobytes()
        content += file.getvalue()
    else:
        start = int(tiles.offset[number])
        content[start : start + len(file.getvalue())] = file.getvalue()
        assert len(file.getvalue()) <= tiles.length[number]
    path.write_bytes(content)
    row, column = divmod(number, 11)
    ours, theirs = (pixels_or_error(path, kind, (column * 64 + 2, row * 64 + 2, 60, 60)) for kind in READERS)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "kind",
    [JpegTiff(halves=(0.5, 0.5)), JpegTiff(other_tags={266: [2]})],
    ids=["two levels of one size", "bits in reverse"],
)
def test_level_in_doubt_is_left_to_openslide(tmp_path: Path, kind: JpegTiff) -> None:
    path = write(tmp_path, kind)
    assert assert_same(path, 1, regions_of(path, 5)) == 0


def test_tiles_too_large_for_the_cache_are_left_to_openslide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, JpegTiff())
    monkeypatch.setattr(tiff_layout, "LARGEST_DIRECT_TILE_PX", 64 * 64 - 1)
    assert assert_same(path, 0, regions_of(path, 5)) == 0


def test_tiles_without_jpeg_are_left_to_openslide(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    where = {"tile": (64, 64), "resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, texture(300), photometric="rgb", compression="zlib", metadata=None, **where)
    assert assert_same(path, 0, regions_of(path, 5)) == 0


@pytest.mark.parametrize("cut", [0, 3, 40])
def test_what_is_no_whole_tiff_has_no_layout(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path, JpegTiff())
    with open_slide(path) as slide:
        levels = slide.info.levels
    os.truncate(path, cut)
    with pytest.raises(ValueError, match=r"TIFF|cut short"):
        read_tiff_layout(path, levels)
