"""What a few kB of a slide in an object store tell, beside what OpenSlide says of the whole slide."""

# ruff: noqa: F811 (fixtures are imported by the name they are asked for)

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from support.remote_slides import counted, put, upload
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.slides_on_disk import discs

from fossilray.core.config import StoreConfig
from fossilray.core.errors import NotASlide
from fossilray.core.types import Rect
from fossilray.slides.mirax.metadata import read_grid
from fossilray.slides.mirax.slidedat import parse_slidedat
from fossilray.slides.remote.metadata import SlideMetadata, read_metadata, read_scanned_area
from fossilray.slides.remote.slide_files import list_slide_files
from fossilray.slides.remote.source import open_source
from fossilray.slides.slide import open_slide
from fossilray.slides.tiff.metadata import read_tiff
from fossilray.synthetic.writers.mirax import MiraxOptions, write_mirax
from fossilray.synthetic.writers.pixels import ArrayPixels
from fossilray.synthetic.writers.tiff import TiffOptions, write_pyramidal_tiff

S3 = tuple[str, StoreConfig]
PHOTOS = MiraxOptions(photo_px=256, overlap_px=24, jitter_px=6, levels=4, data_files=2)


class HalfScanned(ArrayPixels):
    def is_scanned(self, x: int, y: int, width: int, height: int) -> bool:
        return x < self.width // 2


def metadata_of(url: str, config: StoreConfig) -> SlideMetadata:
    source = open_source(url, config)
    return read_metadata(source, list_slide_files(source, url), shown=url.rpartition("/")[2])


def assert_as_openslide(path: Path, metadata: SlideMetadata) -> None:
    with open_slide(path, mpp=99.0) as slide:
        info = slide.info
    assert metadata.vendor == info.vendor
    assert metadata.levels == info.levels
    assert metadata.mpp == (None if info.mpp == 99.0 else info.mpp)
    if metadata.bounds is not None:
        assert metadata.bounds == info.bounds


@pytest.mark.parametrize(
    "options",
    [
        replace(PHOTOS, divisions_per_side=1, margin_photos=0),
        replace(PHOTOS, divisions_per_side=2, margin_photos=3, levels=7),
        replace(PHOTOS, divisions_per_side=4, margin_photos=1, levels=1, mpp=0.1725),
        replace(PHOTOS, divisions_per_side=8, margin_photos=2, levels=6),
        replace(PHOTOS, divisions_per_side=2, layout="aligned"),
        replace(PHOTOS, divisions_per_side=4, layout="aligned", margin_photos=1, mpp=0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(500, 380), (1031, 777)])
def test_mirax_facts_are_those_of_openslide(
    tmp_path: Path, s3_run: S3, options: MiraxOptions, size: tuple[int, int]
) -> None:
    url, config = s3_run
    image = np.full((*size[::-1], 3), 200, np.uint8)
    write_mirax(tmp_path / "a b.mrxs", ArrayPixels(image=image), options)
    upload(tmp_path, url, config)
    metadata = metadata_of(f"{url}/a b.mrxs", config)
    assert_as_openslide(tmp_path / "a b.mrxs", metadata)
    assert metadata.bounds is None


@pytest.mark.parametrize("overlap", ["10.75", "39.5", "0.333333", "-3.25"])
def test_overlaps_of_a_fraction_of_a_pixel_are_rounded_as_openslide_rounds_them(
    tmp_path: Path, s3_run: S3, overlap: str
) -> None:
    url, config = s3_run
    path = tmp_path / "a.mrxs"
    options = replace(PHOTOS, divisions_per_side=2, margin_photos=3)
    write_mirax(path, ArrayPixels(image=discs(700)), options)
    slidedat = tmp_path / "a" / "Slidedat.ini"
    text = slidedat.read_bytes().decode()
    begin = text.index("[LAYER_0_LEVEL_0_SECTION]")
    for axis in "XY":
        at = text.index(f"OVERLAP_{axis} = ", begin) + len("OVERLAP_X = ")
        text = text[:at] + overlap + text[text.index("\r\n", at) :]
    slidedat.write_bytes(text.encode())
    upload(tmp_path, url, config)
    assert_as_openslide(path, metadata_of(f"{url}/a.mrxs", config))


def test_few_requests_and_few_bytes_tell_a_mirax_slide(
    tmp_path: Path, s3_run: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, config = s3_run
    write_mirax(tmp_path / "a.mrxs", ArrayPixels(image=discs(2000, 60)), PHOTOS)
    upload(tmp_path, url, config)
    with counted(monkeypatch) as asked:
        source = open_source(url, config)
        bundle = list_slide_files(source, f"{url}/a.mrxs")
        read_metadata(source, bundle, shown="a.mrxs")
        assert read_scanned_area(source, bundle)
    assert asked.requests <= 6
    assert asked.bytes < 20_000


def test_index_tells_roughly_where_photos_are(tmp_path: Path, s3_run: S3) -> None:
    url, config = s3_run
    options = replace(PHOTOS, divisions_per_side=2, margin_photos=4, levels=5)
    layout = write_mirax(tmp_path / "a.mrxs", HalfScanned(image=discs(3000)), options)
    upload(tmp_path, url, config)
    source = open_source(url, config)
    bundle = list_slide_files(source, f"{url}/a.mrxs")
    assert bundle.slidedat is not None
    cells = read_scanned_area(source, bundle)
    assert cells
    shown = np.zeros((layout.height, layout.width), bool)
    for cell in cells:
        shown[cell.y_min : cell.y_max, cell.x_min : cell.x_max] = True
    with open_slide(tmp_path / "a.mrxs") as slide:
        overview = slide.overview(4.0)
    grid = read_grid(bundle.slidedat)
    slack_px = max(cell.width for cell in cells) + grid.tile_px[0]
    for row, column in np.argwhere(overview.coverage > 0)[::7]:
        x, y = (
            int(overview.rect.x_min + column * overview.scale),
            int(overview.rect.y_min + row * overview.scale),
        )
        around = shown[max(0, y - 16) : y + 16, max(0, x - 16) : x + 16]
        assert around.any()
    rows, columns = np.nonzero(shown)
    assert abs(columns.min() - layout.bounds_x) <= slack_px
    assert abs(columns.max() - (layout.bounds_x + layout.bounds_width)) <= slack_px
    assert abs(rows.max() - (layout.bounds_y + layout.bounds_height)) <= slack_px
    assert shown.mean() < 0.6


@pytest.mark.parametrize("damage", ["short", "another slide", "circle", "far"])
def test_damaged_index_tells_nothing(tmp_path: Path, s3_run: S3, damage: str) -> None:
    url, config = s3_run
    write_mirax(tmp_path / "a.mrxs", ArrayPixels(image=discs(700)), PHOTOS)
    index = tmp_path / "a" / "Index.dat"
    content = bytearray(index.read_bytes())
    if damage == "short":
        del content[60:]
    elif damage == "another slide":
        content[10] ^= 1
    else:
        content[37:41] = struct.pack("<i", 37 if damage == "circle" else 2**31 - 5)
    index.write_bytes(bytes(content))
    upload(tmp_path, url, config)
    source = open_source(url, config)
    assert read_scanned_area(source, list_slide_files(source, f"{url}/a.mrxs")) is None


@pytest.mark.parametrize("mpp", [0.25, 0.4963])
def test_pyramidal_tiff_facts_are_those_of_openslide(tmp_path: Path, s3_run: S3, mpp: float) -> None:
    url, config = s3_run
    write_pyramidal_tiff(tmp_path / "a.tif", ArrayPixels(image=discs(1501)), TiffOptions(levels=4, mpp=mpp))
    upload(tmp_path, url, config)
    assert_as_openslide(tmp_path / "a.tif", metadata_of(f"{url}/a.tif", config))


APERIO = "Aperio Image Library v11.2.1 \r\n46000x32914 [0,0 1000x700] (240x240) JPEG/RGB Q=70|AppMag = 40|MPP = 0.2498"


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize(
    ("description", "stated"),
    [
        (APERIO, {}),
        (APERIO.partition("|MPP")[0], {}),
        (APERIO.partition("|MPP")[0], {"resolution": (20_000, 20_000), "resolutionunit": "centimeter"}),
        ("a scan", {"resolution": (101_600, 101_600), "resolutionunit": "inch"}),
        ("a print", {"resolution": (300, 300), "resolutionunit": "inch"}),
        ("a scan", {}),
    ],
)
def test_other_tiffs_are_told_as_openslide_tells_them(
    tmp_path: Path, s3_run: S3, description: str, stated: dict[str, object], bigtiff: bool
) -> None:
    url, config = s3_run
    path = tmp_path / "a.svs"
    image = discs(800)
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as writer:
        common = {"photometric": "rgb", "metadata": None}
        writer.write(image, tile=(256, 256), description=description, **common, **stated)
        # A thumbnail in one strip, as Aperio has them; then the levels.
        writer.write(image[::8, ::8], rowsperstrip=16, description=description, **common)
        # OpenSlide sorts the levels of a plain TIFF only.
        for step in (2, 4) if description.startswith("Aperio") else (4, 2):
            level = image[::step, ::step]
            writer.write(level, tile=(256, 256), description=description, subfiletype=1, **common)
    upload(tmp_path, url, config)
    assert_as_openslide(path, metadata_of(f"{url}/a.svs", config))


def test_tables_of_tiles_are_not_read(tmp_path: Path, s3_run: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    url, config = s3_run
    write_pyramidal_tiff(
        tmp_path / "a.tif", ArrayPixels(image=discs(1800)), TiffOptions(tile_px=16, levels=6)
    )
    upload(tmp_path, url, config)
    with counted(monkeypatch) as asked:
        assert metadata_of(f"{url}/a.tif", config).levels
    assert (tmp_path / "a.tif").stat().st_size > 200_000
    assert asked.bytes < 64_000
    assert asked.requests <= 16


def test_text_that_is_called_tiff_is_refused_as_on_a_disk(tmp_path: Path, s3_run: S3) -> None:
    url, config = s3_run
    put(f"{url}/a.tif", b"buy milk", config)
    with pytest.raises(NotASlide, match="in no format that OpenSlide reads"):
        metadata_of(f"{url}/a.tif", config)


@pytest.mark.parametrize("length", range(0, 400, 7))
def test_tiff_cut_short_or_garbled_tells_nothing(length: int) -> None:
    rng = np.random.default_rng(length)
    head = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", 9)
    content = head + rng.integers(0, 256, length, dtype=np.uint8).tobytes()
    reads: list[int] = []

    def read(start: int, stop: int) -> bytes:
        reads.append(stop - start)
        return content[start:stop]

    assert read_tiff(read) is None
    assert sum(reads) < 300_000


def test_directories_in_a_circle_end() -> None:
    content = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<HI", 0, 8)
    assert read_tiff(lambda start, stop: content[start:stop]) is None


def test_grid_places_tiles_edge_to_edge_within_a_photo(tmp_path: Path) -> None:
    options = replace(PHOTOS, divisions_per_side=2, layout="aligned", margin_photos=0)
    write_mirax(tmp_path / "a.mrxs", ArrayPixels(image=discs(512)), options)
    grid = read_grid(parse_slidedat((tmp_path / "a" / "Slidedat.ini").read_bytes()))
    assert grid.rect(0, 0, 1) == Rect(0, 0, 128, 128)
    assert grid.rect(2, 2, 2) == Rect(256, 256, 512, 512)
