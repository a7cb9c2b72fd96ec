"""MIRAX slides written by fossilray, read back by OpenSlide."""

from __future__ import annotations

import configparser
import struct
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.synthetic_pixels import BrokenPixels, waves

from fossilray.core.errors import ConfigError
from fossilray.synthetic.writers import mirax_files
from fossilray.synthetic.writers.mirax import MiraxLayout, MiraxOptions, write_mirax
from fossilray.synthetic.writers.pixels import ArrayPixels

TINY = MiraxOptions(
    photo_px=256,
    divisions_per_side=2,
    overlap_px=24,
    jitter_px=6,
    margin_photos=2,
    levels=5,
    data_files=2,
    jpeg_quality=95,
)
ALIGNED = MiraxOptions(
    photo_px=256, divisions_per_side=2, layout="aligned", levels=5, data_files=2, jpeg_quality=95
)


def read_rgba(path: Path, layout: MiraxLayout, width: int, height: int) -> NDArray[np.uint8]:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((layout.offset_x, layout.offset_y), 0, (width, height)))


class PartlyScanned(ArrayPixels):
    """Only what touches the upper left third was scanned."""

    def is_scanned(self, x: int, y: int, width: int, height: int) -> bool:
        return x < self.width // 3 and y < self.height // 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(40, 900),
    height=st.integers(40, 900),
    seed=st.integers(0, 5),
    layout=st.sampled_from(["overlapping", "aligned"]),
)
def test_level_0_shows_the_source_where_the_layout_says(
    tmp_path: Path, width: int, height: int, seed: int, layout: str
) -> None:
    image = waves(width, height)
    path = tmp_path / "slide.mrxs"
    options = MiraxOptions(
        photo_px=256,
        divisions_per_side=2,
        overlap_px=24,
        jitter_px=6,
        layout="aligned" if layout == "aligned" else "overlapping",
        levels=4,
        jpeg_quality=95,
        seed=seed,
    )
    placed = write_mirax(path, ArrayPixels(image=image), options)
    seen = read_rgba(path, placed, width, height)
    opaque = seen[..., 3] == 255
    difference = np.abs(seen[..., :3].astype(int) - image)
    # JPEG rings where the padding of the last photo begins, one block wide.
    assert difference[: height - 16, : width - 16][opaque[: height - 16, : width - 16]].max() <= 20
    assert difference[opaque].mean() < 3
    # Only the rim may be left out, by as much as the stage jitters.
    jitter_px = 0 if layout == "aligned" else 6
    assert opaque[jitter_px : height - jitter_px, jitter_px : width - jitter_px].all()


def test_photo_borders_are_invisible_at_level_0(tmp_path: Path) -> None:
    image = np.full((700, 800, 3), (226, 222, 219), dtype=np.uint8)
    image[::37, :, :] = (120, 110, 100)
    image[:, ::41, :] = (120, 110, 100)
    image = cv2.GaussianBlur(image, (0, 0), 3)
    path = tmp_path / "slide.mrxs"
    placed = write_mirax(path, ArrayPixels(image=image), TINY)
    seen = read_rgba(path, placed, 800, 700)
    inner = (slice(6, 694), slice(6, 794))
    assert np.abs(seen[..., :3].astype(int) - image)[inner].max() <= 10


@pytest.mark.parametrize("options", [TINY, ALIGNED], ids=["overlapping", "aligned"])
def test_openslide_says_what_the_layout_says(tmp_path: Path, options: MiraxOptions) -> None:
    path = tmp_path / "slide.mrxs"
    layout = write_mirax(path, ArrayPixels(image=waves(700, 620)), options)
    with openslide.OpenSlide(path) as slide:
        properties = slide.properties
        assert properties[openslide.PROPERTY_NAME_VENDOR] == "mirax"
        assert slide.dimensions == (layout.width, layout.height)
        assert slide.level_count == layout.levels == 5
        assert slide.level_downsamples == (1, 2, 4, 8, 16)
        bounds = [int(properties[f"openslide.bounds-{key}"]) for key in ("x", "y", "width", "height")]
        assert bounds == [layout.bounds_x, layout.bounds_y, layout.bounds_width, layout.bounds_height]
        assert layout.offset_x > 0
        assert layout.offset_y > 0
        assert float(properties[openslide.PROPERTY_NAME_MPP_X]) == 0.25
        assert float(properties[openslide.PROPERTY_NAME_MPP_Y]) == 0.25
        assert properties[openslide.PROPERTY_NAME_OBJECTIVE_POWER] == "40"
        assert properties[openslide.PROPERTY_NAME_BACKGROUND_COLOR] == "E2DEDB"
        assert "thumbnail" in slide.associated_images
    assert all(file.is_file() for file in layout.files)


def test_levels_reach_down_to_512_px_unless_told(tmp_path: Path) -> None:
    options = MiraxOptions(photo_px=64, divisions_per_side=2, overlap_px=4, jitter_px=2)
    path = tmp_path / "slide.mrxs"
    layout = write_mirax(path, ArrayPixels(image=waves(1300, 200)), options)
    with openslide.OpenSlide(path) as slide:
        assert max(slide.level_dimensions[-1]) <= 512 < max(slide.level_dimensions[-2])
        assert slide.level_count == layout.levels


def test_features_at_coarse_levels_stay_within_a_quarter_of_a_pixel(tmp_path: Path) -> None:
    """Measured on larger slides too: 0.08, 0.15, 0.6 and 2.0 level-0 px at most at levels 1 to 4."""
    pitch_px, sigma_px, side_px = 151, 13.0, 1300
    y, x = np.mgrid[0:side_px, 0:side_px] + 0.5
    centres = np.arange(pitch_px, side_px - pitch_px, pitch_px)
    profile_x = np.exp(-((x[0][:, None] - centres) ** 2) / (2 * sigma_px**2)).sum(axis=1)
    profile_y = np.exp(-((y[:, 0][:, None] - centres) ** 2) / (2 * sigma_px**2)).sum(axis=1)
    spots = 230 - 180 * np.outer(profile_y, profile_x)
    image = np.repeat(spots.round().astype(np.uint8)[..., None], 3, axis=2)
    path = tmp_path / "slide.mrxs"
    layout = write_mirax(path, ArrayPixels(image=image), TINY)
    with openslide.OpenSlide(path) as slide:
        for level in range(1, 5):
            scale = 2**level
            whole = slide.read_region((0, 0), level, slide.level_dimensions[level])
            darkness = 228 - np.asarray(whole)[..., 1].astype(float).clip(max=228)
            reach = round(60 / scale)
            for centre_x in centres:
                for centre_y in centres:
                    true_x = (centre_x + layout.offset_x) / scale
                    true_y = (centre_y + layout.offset_y) / scale
                    left, top = int(true_x) - reach, int(true_y) - reach
                    window = darkness[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
                    rows, columns = np.mgrid[0 : window.shape[0], 0 : window.shape[1]] + 0.5
                    found_x = left + (window * columns).sum() / window.sum()
                    found_y = top + (window * rows).sum() / window.sum()
                    assert np.hypot(found_x - true_x, found_y - true_y) < 0.25


def test_what_was_not_scanned_is_transparent_at_every_level(tmp_path: Path) -> None:
    path = tmp_path / "slide.mrxs"
    layout = write_mirax(path, PartlyScanned(image=waves(1500, 1500)), TINY)
    assert 0 < layout.photos < 36
    assert layout.bounds_width < 1500
    with openslide.OpenSlide(path) as slide:
        for level, scale in enumerate(slide.level_downsamples):
            whole = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))
            alpha = whole[..., 3]

            def at(x: int, y: int, alpha: NDArray[np.uint8] = alpha, scale: float = scale) -> int:
                return int(alpha[int((layout.offset_y + y) / scale), int((layout.offset_x + x) / scale)])

            assert at(100, 100) == at(450, 450) == 255
            assert at(1200, 1200) == at(100, 1200) == at(1200, 100) == at(-100, 100) == 0


def test_a_slide_on_which_nothing_was_scanned_still_opens(tmp_path: Path) -> None:
    class Empty(ArrayPixels):
        def is_scanned(self, x: int, y: int, width: int, height: int) -> bool:
            return False

    path = tmp_path / "slide.mrxs"
    layout = write_mirax(path, Empty(image=waves(300, 300)), TINY)
    assert (layout.photos, layout.bounds_width, layout.bounds_height) == (0, 0, 0)
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (layout.width, layout.height)


def test_coarse_tiles_lay_photos_edge_to_edge_with_their_overlaps(tmp_path: Path) -> None:
    image = waves(900, 900)
    path = tmp_path / "slide.mrxs"
    layout = write_mirax(path, ArrayPixels(image=image), TINY)
    level = 2  # two photos a side in a tile, each 64 px there
    positions = stored_positions(path)
    for first_column in (2, 4):
        tile = stored_tile(path, level=level, column=first_column // 2, row=1)
        for photo_row in range(2):
            for photo_column in range(2):
                x, y = positions[2 + photo_row, first_column + photo_column]
                x, y = x - layout.offset_x, y - layout.offset_y
                if not (0 <= x <= 900 - 256 and 0 <= y <= 900 - 256):
                    continue  # a photo of the margin
                photo = image[y : y + 256, x : x + 256]
                small = cv2.resize(photo, (64, 64), interpolation=cv2.INTER_AREA)
                part = tile[photo_row * 64 : photo_row * 64 + 64, photo_column * 64 :][:, :64]
                assert np.abs(part.astype(int) - small)[4:-4, 4:-4].mean() < 5


def test_photos_jitter_around_a_grid_and_always_overlap(tmp_path: Path) -> None:
    path = tmp_path / "slide.mrxs"
    write_mirax(path, ArrayPixels(image=waves(1500, 1500)), TINY)
    inside = stored_positions(path)[2:-2, 2:-2].astype(int)
    steps = np.diff(inside[:, :, 0], axis=1)
    assert steps.max() <= 256
    assert len(np.unique(steps)) > 5
    assert np.diff(inside[:, :, 1], axis=0).max() <= 256
    assert len(np.unique(inside[0, :, 1])) > 1


def test_tiles_are_spread_over_the_data_files(tmp_path: Path) -> None:
    path = tmp_path / "slide.mrxs"
    options = MiraxOptions(photo_px=256, divisions_per_side=2, overlap_px=24, jitter_px=6, data_files=3)
    layout = write_mirax(path, ArrayPixels(image=waves(700, 700)), options)
    names = [file.name for file in layout.files if file.suffix == ".dat" and file.name != "Index.dat"]
    assert names == ["Data0000.dat", "Data0001.dat", "Data0002.dat"]
    used = {number for _, _, _, number in stored_entries(path, level=0)}
    assert used == {0, 1, 2}


def test_a_data_file_that_grows_too_large_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirax_files, "_LARGEST_FILE_BYTES", 30_000)
    image = waves(700, 620)
    path = tmp_path / "slide.mrxs"
    layout = write_mirax(path, ArrayPixels(image=image), TINY)
    data_files = [file for file in layout.files if file.name.startswith("Data")]
    assert len(data_files) > 2
    assert all(file.stat().st_size <= 30_000 for file in data_files)
    seen = read_rgba(path, layout, 700, 620)
    assert np.abs(seen[6:-6, 6:-6, :3].astype(int) - image[6:-6, 6:-6]).mean() < 2


def test_an_index_of_many_pages_is_read_to_its_end(tmp_path: Path) -> None:
    image = waves(700, 700)
    path = tmp_path / "slide.mrxs"
    options = MiraxOptions(photo_px=32, divisions_per_side=2, overlap_px=4, jitter_px=2, jpeg_quality=95)
    layout = write_mirax(path, ArrayPixels(image=image), options)
    assert len(stored_entries(path, level=0)) == 4 * layout.photos > 2000
    seen = read_rgba(path, layout, 700, 700)
    assert (seen[2:-2, 2:-2, 3] == 255).all()
    assert np.abs(seen[2:-2, 2:-2, :3].astype(int) - image[2:-2, 2:-2]).mean() < 2


def test_equal_source_and_options_give_equal_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    source = ArrayPixels(image=waves(500, 400))
    other_seed = MiraxOptions(photo_px=256, divisions_per_side=2, overlap_px=24, jitter_px=6, seed=1)
    contents = []
    for name, options in [("a", TINY), ("b", TINY), ("c", other_seed)]:
        layout = write_mirax(tmp_path / name / "slide.mrxs", source, options)
        contents.append([file.read_bytes() for file in layout.files])
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_the_source_is_asked_for_each_photo_once(tmp_path: Path) -> None:
    class Counting(ArrayPixels):
        def region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
            asked.append((x, y, width, height))
            return super().region(x, y, width, height)

    asked: list[tuple[int, int, int, int]] = []
    layout = write_mirax(tmp_path / "slide.mrxs", Counting(image=waves(1200, 900)), TINY)
    assert len(asked) == layout.photos == 6 * 4
    assert {(width, height) for _, _, width, height in asked} == {(256, 256)}


def test_a_huge_slide_with_little_on_it_is_small(tmp_path: Path) -> None:
    class Huge:
        width, height = 100_000, 80_000

        def region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
            return np.full((height, width, 3), (x // 1000, y // 1000, 90), dtype=np.uint8)

        def is_scanned(self, x: int, y: int, width: int, height: int) -> bool:
            return y <= 40_000 < y + height and x % 20_000 < 1_000

    path = tmp_path / "huge.mrxs"
    layout = write_mirax(path, Huge(), MiraxOptions())
    assert sum(file.stat().st_size for file in layout.files) < 5_000_000
    with openslide.OpenSlide(path) as slide:
        assert slide.level_count == 9
        assert int(slide.properties["openslide.bounds-height"]) < 3_000
        thumbnail = np.asarray(slide.read_region((0, 0), 8, slide.level_dimensions[8]))
    assert 0 < (thumbnail[..., 3] > 0).mean() < 0.02


@pytest.mark.parametrize("name", ["6407_6-5 2030 mDC.mrxs", "a.b.mrxs", "prøve ‘3’ 50%.mrxs", ".hidden.mrxs"])
def test_slides_of_any_name_open(tmp_path: Path, name: str) -> None:
    write_mirax(tmp_path / name, ArrayPixels(image=waves(300, 300)), TINY)
    with openslide.OpenSlide(tmp_path / name) as slide:
        assert slide.level_count == 5


def test_a_name_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.mrxs"):
        write_mirax(tmp_path / "slide.tif", ArrayPixels(image=waves(300, 300)), TINY)


def test_a_write_that_fails_leaves_no_slide_behind(tmp_path: Path) -> None:
    path = tmp_path / "slide.mrxs"
    write_mirax(path, ArrayPixels(image=waves(300, 300)), TINY)
    with pytest.raises(RuntimeError, match="no light"):
        write_mirax(path, BrokenPixels(image=waves(300, 300)), TINY)
    assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"divisions_per_side": 3}, "power of two"),
        ({"photo_px": 1022}, "multiple of 8"),
        ({"overlap_px": 10, "jitter_px": 6}, "leave no gap"),
        ({"overlap_px": 1024}, "leave no gap"),
        ({"margin_photos": -1}, "margin_photos is -1"),
        ({"data_files": 0}, "data_files 0"),
        ({"mpp": 0.0}, "mpp 0.0"),
        ({"levels": 0}, "levels is 0"),
    ],
)
def test_options_that_no_scanner_could_have_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MiraxOptions(**changes)


# What follows reads the folder without OpenSlide, as far as the tests above need it.


def slidedat(path: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.read(path.with_suffix("") / "Slidedat.ini", encoding="utf-8-sig")
    return parsed


def stored_entries(path: Path, *, level: int) -> list[tuple[int, int, int, int]]:
    """Image index, offset, length and file number of every tile of a level."""
    index = (path.with_suffix("") / "Index.dat").read_bytes()

    def integer(place: int) -> int:
        return int.from_bytes(index[place : place + 4], "little")

    root = integer(5 + len(slidedat(path)["GENERAL"]["SLIDE_ID"]))
    page = integer(root + 4 * level)
    entries: list[tuple[int, int, int, int]] = []
    while page:
        count, following = integer(page), integer(page + 4)
        entries += struct.iter_unpack("<4i", index[page + 8 : page + 8 + 16 * count])
        page = following
    return entries


def stored_tile(path: Path, *, level: int, column: int, row: int) -> NDArray[np.uint8]:
    across = slidedat(path)["GENERAL"].getint("IMAGENUMBER_X")
    wanted = (row * across + column) << level
    for image_index, offset, length, number in stored_entries(path, level=level):
        if image_index == wanted:
            data = (path.with_suffix("") / f"Data{number:04d}.dat").read_bytes()
            return simplejpeg.decode_jpeg(data[offset : offset + length])
    raise AssertionError(f"no tile {column}, {row} at level {level}")


def stored_positions(path: Path) -> NDArray[np.int32]:
    """Rows x columns x 2, x and y of each photo."""
    general = slidedat(path)["GENERAL"]
    divisions = general.getint("CameraImageDivisionsPerSide")
    columns = general.getint("IMAGENUMBER_X") // divisions
    rows = general.getint("IMAGENUMBER_Y") // divisions
    last = sorted(path.with_suffix("").glob("Data*.dat"))[-1].read_bytes()
    records = list(struct.iter_unpack("<Bii", last[-9 * columns * rows :]))
    assert {flag for flag, _, _ in records} == {1}
    return np.array([(x, y) for _, x, y in records], dtype=np.int32).reshape(rows, columns, 2)
