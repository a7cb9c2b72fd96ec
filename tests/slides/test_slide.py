"""Slides are read right: bounds, alpha, resolution, damage, companions, threads."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tifffile
from numpy.typing import NDArray

from fossilray.core.errors import (
    MissingCompanion,
    MissingResolution,
    NotASlide,
    SlideMissing,
    UnreadableRegion,
)
from fossilray.slides.slide import check_files, open_slide
from fossilray.synthetic.writers.mirax import MiraxLayout, MiraxOptions, write_mirax
from fossilray.synthetic.writers.pixels import ArrayPixels

SVS = Path(__file__).parents[3] / "shared" / "data" / "wsi" / "cmu-1-small-region.svs"
BACKGROUND = (226, 222, 219)


def picture(width: int = 1200, height: int = 900) -> NDArray[np.uint8]:
    """A smooth ramp with dark discs, so that JPEG changes little and places can be told apart."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([120 + 100 * x / width, 120 + 100 * y / height, np.full(x.shape, 180.0)], axis=-1)
    for centre_x, centre_y in ((200, 200), (700, 450), (1000, 800)):
        rgb[(x - centre_x) ** 2 + (y - centre_y) ** 2 < 40**2] = 40
    return rgb.astype(np.uint8)


@pytest.fixture(scope="module")
def mirax(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MiraxLayout]:
    path = tmp_path_factory.mktemp("mirax") / "A slide.mrxs"
    options = MiraxOptions(
        photo_px=256, divisions_per_side=2, overlap_px=24, jitter_px=4, levels=4, jpeg_quality=95
    )
    return path, write_mirax(path, ArrayPixels(image=picture()), options)


def copy_of(mirax: tuple[Path, MiraxLayout], folder: Path) -> Path:
    path = folder / mirax[0].name
    shutil.copy(mirax[0], path)
    shutil.copytree(mirax[0].with_suffix(""), path.with_suffix(""))
    return path


def write_tiff(path: Path, rgb: NDArray[np.uint8], **options: object) -> Path:
    tifffile.imwrite(path, rgb, tile=(128, 128), photometric="rgb", **options)
    return path


def test_mirax_is_read_inside_its_bounds(mirax: tuple[Path, MiraxLayout]) -> None:
    path, layout = mirax
    with open_slide(path) as slide:
        bounds = slide.info.bounds
        assert (bounds.x_min, bounds.y_min) == (layout.bounds_x, layout.bounds_y) != (0, 0)
        assert (bounds.width, bounds.height) == (layout.bounds_width, layout.bounds_height)
        assert slide.info.mpp == pytest.approx(0.25)
        assert (slide.info.vendor, slide.info.background_rgb) == ("mirax", BACKGROUND)
        pixels = slide.read(0, layout.offset_x + 100, layout.offset_y + 100, 800, 600)
    difference = np.abs(pixels.astype(int) - picture()[100:700, 100:900])
    assert np.median(difference) <= 2


def test_transparent_pixels_become_background(mirax: tuple[Path, MiraxLayout]) -> None:
    with open_slide(mirax[0]) as slide:
        pixels, alpha = slide.read_with_alpha(0, -50, -50, 100, 100)
        assert (pixels == BACKGROUND).all()
        assert not alpha.any()
        _, alpha = slide.read_with_alpha(0, mirax[1].offset_x + 300, mirax[1].offset_y + 300, 64, 64)
        assert (alpha == 255).all()


def test_partly_transparent_pixels_are_mixed_without_darkening(mirax: tuple[Path, MiraxLayout]) -> None:
    with open_slide(mirax[0]) as slide:
        bounds = slide.info.bounds
        pixels, alpha = slide.read_with_alpha(2, bounds.x_min - 200, bounds.y_min - 200, 400, 300)
    assert {0, 255} <= set(np.unique(alpha).tolist())
    assert pixels.min(axis=-1)[alpha < 250].min() > 100


def test_level_for_takes_the_coarsest_that_suffices(mirax: tuple[Path, MiraxLayout]) -> None:
    with open_slide(mirax[0]) as slide:
        assert [slide.level_for(um) for um in (0.1, 0.25, 0.49, 0.5, 0.96, 1.0, 1.9, 50.0)] == [
            0, 0, 1, 1, 2, 2, 2, 3
        ]  # fmt: skip


def test_thumbnail_shows_the_bounds(mirax: tuple[Path, MiraxLayout]) -> None:
    path, layout = mirax
    with open_slide(path) as slide:
        image, rect = slide.thumbnail(150)
        bounds = slide.info.bounds
    assert max(image.shape[:2]) == 150
    assert (rect.x_min, rect.y_min) == (bounds.x_min, bounds.y_min)
    assert 0 <= rect.x_max - bounds.x_max <= 16
    assert 0 <= rect.y_max - bounds.y_max <= 16
    scale = rect.width / image.shape[1]
    row, column = (
        round((at - start) / scale)
        for at, start in ((layout.offset_y + 450, rect.y_min), (layout.offset_x + 700, rect.x_min))
    )
    assert image[row, column].max() < 60


def test_truncated_data_file_loses_regions_but_not_the_slide(
    mirax: tuple[Path, MiraxLayout], tmp_path: Path
) -> None:
    path = copy_of(mirax, tmp_path)
    data = path.with_suffix("") / "Data0000.dat"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    check_files(path)
    with open_slide(path) as slide:
        bounds = slide.info.bounds
        with pytest.raises(UnreadableRegion, match=r"level 0 cannot be decoded at"):
            slide.read(0, bounds.x_min, bounds.y_min, bounds.width, bounds.height)
        kept = slide.read(0, mirax[1].offset_x + 680, mirax[1].offset_y + 430, 40, 40)
        assert kept.max() < 60
        assert slide.thumbnail(64)[0].shape[1] == 64


def test_slide_too_short_to_be_opened_says_so(mirax: tuple[Path, MiraxLayout], tmp_path: Path) -> None:
    path = copy_of(mirax, tmp_path)
    data = path.with_suffix("") / "Data0003.dat"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(MissingCompanion, match="cut short"):
        open_slide(path)


@pytest.fixture
def corrupt_tiff(tmp_path: Path) -> Path:
    """1024 px a side in JPEG tiles of 128, the one at (512, 512) overwritten by zeros."""
    rng = np.random.default_rng(0)
    tiles = [
        simplejpeg.encode_jpeg(rng.integers(0, 255, (128, 128, 3), np.uint8), colorspace="RGB")
        for _ in range(64)
    ]
    tiles[4 * 8 + 4] = bytes(1000)
    path = tmp_path / "corrupt.tif"
    tifffile.imwrite(
        path,
        iter(tiles),
        shape=(1024, 1024, 3),
        dtype=np.uint8,
        tile=(128, 128),
        photometric="rgb",
        compression="zlib",
        resolution=(40_000, 40_000),
        resolutionunit="centimeter",
    )
    # The tiles are JPEG already; only the tag has to say so.
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(7)
    return path


def test_corrupt_tile_is_unreadable_and_the_rest_is_not(corrupt_tiff: Path) -> None:
    with open_slide(corrupt_tiff) as slide:
        assert slide.info.mpp == pytest.approx(0.25)
        for _ in range(3):
            with pytest.raises(UnreadableRegion):
                slide.read(0, 500, 500, 100, 100)
            assert slide.read(0, 0, 0, 256, 256).std() > 10
        assert not slide.overview(0.25).readable.all()


def test_threads_are_not_disturbed_by_anothers_corrupt_tile(corrupt_tiff: Path) -> None:
    with open_slide(corrupt_tiff) as slide:
        whole = [slide.read(0, x, 0, 128, 128) for x in range(0, 1024, 128)]

        def read(number: int) -> bool:
            if number % 3 == 0:
                with pytest.raises(UnreadableRegion):
                    slide.read(0, 520, 520, 64, 64)
                return True
            x = number % 8
            return np.array_equal(slide.read(0, x * 128, 0, 128, 128), whole[x])

        with ThreadPoolExecutor(6) as threads:
            assert all(threads.map(read, range(120)))


def test_closed_slide_refuses_to_be_read(corrupt_tiff: Path) -> None:
    slide = open_slide(corrupt_tiff)
    slide.close()
    with pytest.raises(ValueError, match="closed"):
        slide.read(0, 0, 0, 10, 10)


def test_resolution_comes_from_override_then_slide_then_gap_filler(tmp_path: Path) -> None:
    rgb = np.full((256, 256, 3), 200, np.uint8)
    silent = write_tiff(tmp_path / "silent.tif", rgb)
    printer = write_tiff(tmp_path / "printer.tif", rgb, resolution=(72, 72), resolutionunit="inch")
    stating = write_tiff(
        tmp_path / "stating.tif", rgb, resolution=(20_000, 20_000), resolutionunit="centimeter"
    )
    for path in (silent, printer):
        with pytest.raises(MissingResolution, match=r"slides\.mpp"):
            open_slide(path)
        with open_slide(path, mpp=0.3) as slide:
            assert slide.info.mpp == 0.3
    with open_slide(stating, mpp=0.3) as slide:
        assert slide.info.mpp == pytest.approx(0.5)
    with open_slide(stating, mpp=0.3, mpp_override=0.23) as slide:
        assert slide.info.mpp == 0.23


def test_files_that_are_no_slides_are_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "note.mrxs").write_text("buy milk")
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.tif").write_text("not a TIFF")
    for name, words in (
        ("note.mrxs", "no MIRAX slide"),
        ("empty.tif", "0 bytes"),
        ("text.tif", "no format that OpenSlide reads"),
    ):
        with pytest.raises(NotASlide, match=words):
            open_slide(tmp_path / name)
    with pytest.raises(SlideMissing, match="check the path"):
        open_slide(tmp_path / "absent.svs")


@pytest.mark.parametrize("name", ["Slidedat.ini", "Index.dat", "Data0002.dat"])
@pytest.mark.parametrize("fate", ["missing", "empty"])
def test_absent_mirax_file_is_named(
    mirax: tuple[Path, MiraxLayout], tmp_path: Path, name: str, fate: str
) -> None:
    path = copy_of(mirax, tmp_path)
    file = path.with_suffix("") / name
    file.unlink()
    if fate == "empty":
        file.touch()
    with pytest.raises(MissingCompanion, match=f"A slide/{name}.*copy"):
        open_slide(path)


def test_mirax_without_its_folder_is_told(mirax: tuple[Path, MiraxLayout], tmp_path: Path) -> None:
    shutil.copy(mirax[0], tmp_path)
    with pytest.raises(MissingCompanion, match="lacks its folder"):
        open_slide(tmp_path / mirax[0].name)


@pytest.mark.parametrize(
    "content",
    ["", "[GENERAL]", "\0\0garbage", "[HIERARCHICAL]\nINDEXFILE = ../../x\n[DATAFILE]\nFILE_COUNT = 0"],
)
def test_garbage_in_slidedat_is_a_missing_companion(
    mirax: tuple[Path, MiraxLayout], tmp_path: Path, content: str
) -> None:
    path = copy_of(mirax, tmp_path)
    (path.with_suffix("") / "Slidedat.ini").write_text(content)
    with pytest.raises(MissingCompanion, match=r"Slidedat\.ini"):
        open_slide(path)


@pytest.mark.skipif(not SVS.exists(), reason="the shared test slide is not here")
def test_real_aperio_slide_is_read() -> None:
    with open_slide(SVS) as slide:
        assert slide.info.vendor == "aperio"
        assert slide.info.mpp == pytest.approx(0.499)
        assert slide.info.bounds.width == slide.info.width == 2220
        assert slide.read(0, 1000, 1000, 300, 200).shape == (200, 300, 3)
