"""Fields of view: images that are read as slides, their resolution, and which images of a folder are taken."""

# ruff: noqa: F811 (fixtures are imported by the name they are asked for)

from __future__ import annotations

import io
import json
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageOps
from support.remote_slides import upload
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.slides_on_disk import discs, write_slide

from fossilray.core.config import StoreConfig, load_config
from fossilray.core.errors import MissingResolution, NotASlide, TooLarge, UnsupportedSlide
from fossilray.core.records import WorkItem
from fossilray.processing.worker import SlideWorker
from fossilray.slides.catalog import fill_in_mpp, find_slides, read_catalog_file, write_catalog
from fossilray.slides.fields.image_header import HEADER_BYTES, read_header
from fossilray.slides.slide import open_slide
from fossilray.store import RunStore
from fossilray.store.run.run_record import describe_run

IMAGE = discs(1280)[:1000]
MPP = 0.25


def write_field(path: Path, image: np.ndarray = IMAGE, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(image).save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("b.TIFF", {"compression": "tiff_lzw"}),
        ("a.jpg", {"quality": 95}),
        ("b.JPEG", {"quality": 95, "progressive": True}),
    ],
)
def test_an_image_is_read_as_a_slide_of_one_level_and_its_halvings(
    name: str, options: dict[str, object], tmp_path: Path
) -> None:
    path = write_field(tmp_path / name, **options)
    with open_slide(path, mpp=MPP) as slide:
        info = slide.info
        assert (info.vendor, info.width, info.height, info.mpp_from) == ("field", 1280, 1000, "config")
        assert [level.downsample for level in info.levels] == [1, 2, 4]
        tolerance = 40 if "jp" in name.lower() else 0
        read = slide.read(0, 0, 0, 1280, 1000).astype(int)
        assert np.abs(read - IMAGE).max() <= tolerance
        half = cv2.resize(IMAGE, (640, 500), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(slide.read(1, 0, 0, 640, 500) - half).max() <= max(tolerance, 1)
        between = (half[10:30, 20:40] + half[10:30, 21:41]) / 2
        assert np.abs(slide.read(1, 41, 20, 20, 20) - between).max() <= max(tolerance, 2)
        beyond, coverage = slide.read_with_alpha(0, -4, -4, 8, 8)
        assert coverage[:4].max() == 0
        assert coverage[4:, 4:].min() == 255
        assert np.abs(beyond[0, 0].astype(int) - IMAGE[0, 0]).max() <= 4, "the clear field, not white"
        assert slide.level_for(1.0) == 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_an_image_is_turned_as_viewers_show_it(orientation: int, suffix: str, tmp_path: Path) -> None:
    image = IMAGE[:300, :200].copy()
    image[:60, :30] = (200, 0, 0)
    exif = Pillow.Exif()
    exif[0x112] = orientation
    options = {"tiffinfo": {274: orientation}} if suffix == "tif" else {"exif": exif}
    path = write_field(tmp_path / f"a.{suffix}", image, **options)
    with Pillow.open(path) as file:
        shown = np.asarray(ImageOps.exif_transpose(file).convert("RGB")).astype(int)
    with open_slide(path, mpp=MPP) as slide:
        assert (slide.info.height, slide.info.width) == shown.shape[:2]
        assert np.abs(slide.read(0, 0, 0, slide.info.width, slide.info.height) - shown).max() <= 30


def test_grey_palette_transparent_and_deep_images_are_read_and_doubted(tmp_path: Path) -> None:
    grey = IMAGE[..., 1]
    deep = grey.astype(np.uint16) * 257
    Pillow.fromarray(grey).save(tmp_path / "grey.png")
    Pillow.fromarray(IMAGE).quantize(16).save(tmp_path / "palette.png")
    Pillow.fromarray(deep).save(tmp_path / "deep.png")
    Pillow.fromarray(deep).save(tmp_path / "deep.tif")
    cv2.imwrite(str(tmp_path / "colour.png"), np.stack([deep] * 3, axis=2))
    Pillow.fromarray(np.dstack([IMAGE, np.full(grey.shape, 255, np.uint8)])).save(tmp_path / "rgba.png")
    (tmp_path / "fields.json").write_text('{"mpp": 0.25}')
    rows = find_slides(str(tmp_path)).rows
    doubts = {row.slide_id: [doubt.code for doubt in row.doubts or ()] for row in rows}
    assert doubts.pop("rgba.png") == []
    assert doubts == {key: ["bit-depth"] for key in doubts}
    for row in rows:
        with open_slide(row.path) as slide:
            read = slide.read(0, 0, 0, 1280, 1000).astype(int)
        expected = IMAGE if row.slide_id in ("rgba.png", "palette.png") else np.stack([grey] * 3, axis=2)
        assert np.abs(read - expected).max() <= (12 if row.slide_id == "palette.png" else 0), row.slide_id


def test_transparent_pixels_are_not_scanned(tmp_path: Path) -> None:
    alpha = np.full(IMAGE.shape[:2], 255, np.uint8)
    alpha[:100] = 0
    Pillow.fromarray(np.dstack([IMAGE, alpha])).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp=MPP) as slide:
        pixels, coverage = slide.read_with_alpha(0, 0, 0, 200, 200)
        assert (coverage[:100] == 0).all()
        assert (coverage[100:] == 255).all()
        assert np.abs(pixels[0, 0].astype(int) - (226, 222, 219)).max() <= 1


def _flipped(content: bytes, at: float) -> bytes:
    place = int(len(content) * at)
    return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_an_image_that_is_cut_short_or_corrupt_is_damaged(suffix: str, tmp_path: Path) -> None:
    whole = write_field(tmp_path / f"whole.{suffix}").read_bytes()
    damaged = tmp_path / f"a.{suffix}"
    for share in (0.2, 0.6, 0.98):
        damaged.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(NotASlide, match=rf"a\.{suffix}.*(copy it again|damaged)"):
            open_slide(damaged, mpp=MPP)
    if suffix == "png":
        damaged.write_bytes(_flipped(whole, 0.5))
        with pytest.raises(NotASlide, match="checksum"):
            open_slide(damaged, mpp=MPP)
    if suffix == "jpg":
        middle = len(whole) // 2
        damaged.write_bytes(whole[:middle] + b"\xff\xc9" + whole[middle + 2 :])
        with pytest.raises(NotASlide, match=r"copy it again"):
            open_slide(damaged, mpp=MPP)


def test_an_image_that_claims_too_much_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    png = bytearray(write_field(tmp_path / "whole.png").read_bytes())
    png[16:24] = struct.pack(">II", 60_000, 60_000)
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(TooLarge, match=r"60000 x 60000 px.*vips tiffsave a\.png"):
        open_slide(tmp_path / "a.png", mpp=MPP)
    Pillow.new("CMYK", (400, 300)).save(tmp_path / "inks.jpg")
    Pillow.fromarray(np.zeros((300, 400), np.float32)).save(tmp_path / "float.tif")
    for name, words in (("inks.jpg", "CMYK"), ("float.tif", "floating-point")):
        with pytest.raises(UnsupportedSlide, match=words):
            open_slide(tmp_path / name, mpp=MPP)


def test_a_tiff_of_several_pages_is_read_by_its_first_and_doubted(tmp_path: Path) -> None:
    pages = [Pillow.fromarray(IMAGE) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    (row,) = find_slides(str(tmp_path)).rows
    assert (row.planes, [doubt.code for doubt in row.doubts or ()]) == (3, ["planes-left-out"])


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_the_header_of_an_image_is_read_from_its_first_bytes(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1600, 3)).astype(np.uint8)
    content = write_field(tmp_path / f"a.{suffix}", noise).read_bytes()
    start = content[:HEADER_BYTES]
    assert len(start) < len(content)
    header = read_header(f"a.{suffix}", start, lambda begin, end: start[begin:end])
    assert (header.width, header.height, header.bits) == (1600, 1200, 8)


@pytest.mark.parametrize(("dpi", "mpp"), [(72, None), (96, None), (300, None), (254_000, 0.1)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_the_resolution_of_printers_is_not_believed(
    dpi: int, mpp: float | None, suffix: str, tmp_path: Path
) -> None:
    path = write_field(tmp_path / f"a.{suffix}", dpi=(dpi, dpi))
    (row,) = find_slides(str(tmp_path)).rows
    assert row.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-3))
    if mpp is None:
        assert [doubt.code for doubt in row.doubts or ()] == ["mpp-implausible"]
        (filled,) = fill_in_mpp(find_slides(str(tmp_path)), MPP).rows
        assert (filled.mpp, filled.mpp_from, filled.doubts) == (MPP, "config", ()), "as when it is processed"
        with pytest.raises(MissingResolution, match=r"no microscope has.*--mpp.*fields\.json"):
            open_slide(path)


def test_the_resolution_comes_from_the_catalog_then_the_sidecar_then_the_image(tmp_path: Path) -> None:
    path = write_field(tmp_path / "a.png", dpi=(254_000, 254_000))

    def chosen(**given: float) -> tuple[float, str]:
        with open_slide(path, **given) as slide:  # type: ignore[arg-type]
            return round(slide.info.mpp, 3), slide.info.mpp_from

    assert chosen() == (0.1, "slide")
    (tmp_path / "fields.json").write_text('{"mpp": 0.2}')
    assert chosen(mpp=0.9) == (0.2, "sidecar")
    (tmp_path / "a.json").write_text('{"exposure": 3}')
    assert chosen() == (0.2, "sidecar"), "a file of the camera's"
    (tmp_path / "a.json").write_text('{"mpp": 0.3, "exposure": 3}')
    assert chosen() == (0.3, "sidecar")
    assert chosen(catalog_mpp=0.3) == (0.3, "sidecar")
    (tmp_path / "a.png.json").write_text('{"mpp": 0.35}', "utf-8-sig")
    assert chosen() == (0.35, "sidecar"), "of this image, not of an a.jpg beside it"
    assert chosen(catalog_mpp=0.4) == (0.4, "catalog")
    assert chosen(catalog_mpp=0.4, mpp_override=0.5) == (0.5, "config")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"mpp": "0,12"}', "no number with a decimal point"),
        ('{"mpp": 120}', r"not between 0.01 and 20.*is it in nm"),
        ('{"um": 0.12}', "no key mpp"),
        ("mpp: 0.12", "no JSON"),
        ('{"mpp": NaN}', "no JSON"),
    ],
)
def test_a_sidecar_that_cannot_be_used_refuses_its_images_by_name(
    content: str, words: str, tmp_path: Path
) -> None:
    write_field(tmp_path / "a.png")
    (tmp_path / "fields.json").write_text(content)
    found = find_slides(str(tmp_path))
    assert not found.rows
    assert [(one.slide_id, one.error) for one in found.refused] == [("a.png", "MissingResolution")]
    with pytest.raises(MissingResolution, match=words):
        open_slide(tmp_path / "a.png", mpp=MPP)


def test_images_beside_slides_are_taken_only_where_a_sidecar_or_the_user_names_them(tmp_path: Path) -> None:
    write_slide(tmp_path / "a.mrxs", objects=1)
    write_field(tmp_path / "a.jpg")
    write_field(tmp_path / "labels" / "b.tif")
    write_field(tmp_path / "6407_6-5" / "2030.5m" / "1.png")
    (tmp_path / "6407_6-5" / "2030.5m" / "fields.json").write_text('{"mpp": 0.12}')
    found = find_slides(str(tmp_path))
    assert [row.slide_id for row in found.rows] == ["6407_6-5__2030.5m__1.png", "a"]
    assert (found.rows[0].mpp, found.rows[0].mpp_from, found.rows[0].well) == (0.12, "sidecar", "6407/6-5")
    (note,) = found.notes
    assert "1 .jpg, 1 .tif passed over: images beside slides" in note
    for target in (tmp_path / "a.jpg", tmp_path / "*.jpg"):
        assert [row.slide_id for row in find_slides(str(target)).rows] == ["a.jpg"]
    (tmp_path / "list.csv").write_text("slide_id,path,mpp\nx,a.jpg,0.2\n")
    assert [row.mpp for row in find_slides(str(tmp_path / "list.csv")).rows] == [0.2]


def test_a_folder_of_images_is_listed_whole_but_for_what_fossilray_wrote(tmp_path: Path) -> None:
    write_field(tmp_path / "a.jpg")
    shutil.copy(tmp_path / "a.jpg", tmp_path / "copy.jpg")
    write_field(tmp_path / "run" / "pictures" / "a.jpg")
    (tmp_path / "run" / "run.json").write_text('{"schema_version": 6}')
    (tmp_path / "run" / "objects").mkdir()
    (tmp_path / "._a.jpg").write_bytes(b"\0\5\26\7")
    found = find_slides(str(tmp_path))
    assert [row.slide_id for row in found.rows] == ["a.jpg", "copy.jpg"]
    assert [[doubt.code for doubt in row.doubts or ()] for row in found.rows] == [["same-scan"]] * 2
    assert not found.refused
    write_catalog(found, tmp_path / "fields.csv")
    assert [row.mpp for row in read_catalog_file(tmp_path / "fields.csv").rows] == [None, None]


def test_fields_in_s3_are_found_and_processed_as_on_a_disk(
    tmp_path: Path, s3_run: tuple[str, StoreConfig]
) -> None:
    folder = tmp_path / "slides"
    write_field(folder / "a.jpg", quality=95)
    write_field(folder / "b.tif")
    write_field(folder / "c" / "d.png")
    (folder / "fields.json").write_text(json.dumps({"mpp": MPP}))
    (folder / "c" / "d.json").write_text(json.dumps({"mpp": 0.3}))
    url, access = s3_run
    upload(folder, url, access)
    here, there = find_slides(str(folder)), find_slides(url, access=access)
    facts = [
        [(row.slide_id, row.vendor, row.width, row.mpp, row.mpp_from, row.levels) for row in found.rows]
        for found in (here, there)
    ]
    assert facts[0] == facts[1]
    assert len(facts[0]) == 3
    config = load_config(None, ["detector.kind=classical", "embedder.weights=none"])
    config = config.model_copy(update={"slides": config.slides.model_copy(update={"access": access})})
    objects = []
    for number, found in enumerate((here, there)):
        store = RunStore.open(str(tmp_path / f"run-{number}"))
        store.create_or_check(describe_run(config, {}))
        store.freeze_catalog(found.rows)
        worker = SlideWorker(str(tmp_path / f"run-{number}"), config)
        worker.prepare()
        summaries = [worker.process(WorkItem.of_slide(row)).summary for row in found.rows]
        worker.close()
        objects.append([(one.objects, one.mpp_from, one.scan_id) for one in summaries if one is not None])
    assert objects[0] == objects[1]
    assert [one[0] for one in objects[0]] == [4, 4, 4]
    assert {one[1] for one in objects[0]} == {"sidecar"}


def test_an_image_under_the_name_of_a_slide_is_refused_by_what_it_is(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(IMAGE).save(buffer, "JPEG")
    (tmp_path / "a.svs").write_bytes(buffer.getvalue())
    with pytest.raises(NotASlide, match="a JPEG image"):
        open_slide(tmp_path / "a.svs", mpp=MPP)
