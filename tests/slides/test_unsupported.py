"""Unsupported slides, damaged files and files under a wrong name have different errors and remedies."""

# ruff: noqa: F811 (fixtures are imported by the name under which tests take them)

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from support.grey_slides import GREY, write_grey_slide, write_grey_tiff
from support.remote_slides import upload
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)

from fossilray.core.config import StoreConfig
from fossilray.core.errors import MissingCompanion, MissingResolution, NotASlide, SlideError, UnsupportedSlide
from fossilray.slides.catalog import find_slides
from fossilray.slides.refusals import explain_failure
from fossilray.slides.slide import open_slide

S3 = tuple[str, StoreConfig]
COMPRESSION = 259
AGAIN = "copy it again"


def tiff_of(compression: int) -> Callable[[Path], None]:
    """A writer of a TIFF that states this compression."""

    def write(path: Path) -> None:
        write_grey_tiff(path)
        with tifffile.TiffFile(path) as tiff:
            at = tiff.pages.first.tags[COMPRESSION].valueoffset
        content = bytearray(path.read_bytes())
        content[at : at + 2] = struct.pack("<H", compression)
        path.write_bytes(content)

    return write


def image_of(dtype: str) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, GREY.astype(dtype), tile=(128, 128), photometric="rgb")


def ndpi_of(compression: int) -> Callable[[Path], None]:
    """A writer of a TIFF with Hamamatsu's tags and this compression."""

    def write(path: Path) -> None:
        # tifffile reads a file with this ending in another way.
        plain = path.with_suffix(".tif")
        hamamatsu = [(65420, "I", 1, 1, True), (65421, "f", 1, 20.0, True)]
        tifffile.imwrite(plain, GREY, photometric="rgb", rowsperstrip=300, extratags=hamamatsu)
        with tifffile.TiffFile(plain) as tiff:
            at = tiff.pages.first.tags[COMPRESSION].valueoffset
        content = bytearray(plain.read_bytes())
        content[at : at + 2] = struct.pack("<H", compression)
        path.write_bytes(content)
        plain.unlink()

    return write


def in_strips(path: Path) -> None:
    tifffile.imwrite(path, GREY, photometric="rgb")


def starting_with(start: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(start.ljust(300, b"x"))  # type: ignore[return-value]


def slidedat_with(old: str, new: str, *, first: int = 0) -> Callable[[Path], None]:
    """A writer of a MIRAX slide whose Slidedat.ini is changed from the `first` occurrence on."""

    def write(path: Path) -> None:
        write_grey_slide(path)
        slidedat = path.with_suffix("") / "Slidedat.ini"
        parts = slidedat.read_text(encoding="utf-8-sig").split(old)
        assert len(parts) > first + 1
        head = old.join(parts[: first + 1])
        slidedat.write_text(head + new + new.join(parts[first + 1 :]), encoding="utf-8-sig")

    return write


def cut_short(path: Path) -> None:
    write_grey_tiff(path)
    path.write_bytes(path.read_bytes()[:-200])


def without_directories(path: Path) -> None:
    path.write_bytes(b"II*\0" + struct.pack("<I", 5000) + bytes(100))


TRUTH: dict[str, tuple[str, Callable[[Path], None], type[SlideError], str]] = {
    "WebP": (
        "a.tif",
        tiff_of(50001),
        UnsupportedSlide,
        r"WebP \(TIFF compression 50001\).*vips tiffsave a\.tif",
    ),
    "JPEG 2000": ("a.tif", tiff_of(33005), UnsupportedSlide, "JPEG 2000 of Aperio.*pip install imagecodecs"),
    "JPEG XR": ("a.tif", tiff_of(34934), UnsupportedSlide, r"JPEG XR.*t\.imread\('.*a\.tif'"),
    "LERC": ("a.svs", tiff_of(34887), UnsupportedSlide, "LERC.*imagecodecs"),
    "JPEG XL": ("a.tif", tiff_of(50002), UnsupportedSlide, "JPEG XL.*imagecodecs"),
    "old JPEG": ("a.tif", tiff_of(6), UnsupportedSlide, "old JPEG"),
    "strips": ("a b.svs", in_strips, UnsupportedSlide, r"in strips, not in tiles.*vips tiffsave 'a b\.svs'"),
    "32 bits": ("a.tif", image_of("uint32"), UnsupportedSlide, "32-bit samples.*8 bits per colour"),
    "float": ("a.tif", image_of("float16"), UnsupportedSlide, "floating-point samples.*8 bits per colour"),
    "MIRAX JPEG XR": (
        "a.mrxs",
        slidedat_with("IMAGE_FORMAT = JPEG", "IMAGE_FORMAT = JPEGXR"),
        UnsupportedSlide,
        "JPEG XR.*SlideConverter",
    ),
    "MIRAX 1.8": (
        "a.mrxs",
        slidedat_with("IMAGE_CONCAT_FACTOR = 1", "IMAGE_CONCAT_FACTOR = 0"),
        UnsupportedSlide,
        r"layout of MIRAX 1\.8.*on level 1,.*SlideConverter",
    ),
    "NDPI in JPEG XR": ("a.ndpi", ndpi_of(22610), UnsupportedSlide, "JPEG XR of NDPI.*imagecodecs"),
    "iSyntax": (
        "a.isyntax",
        starting_with(b"<DataObject"),
        UnsupportedSlide,
        "Philips iSyntax.*export it as TIFF",
    ),
    "ND2": ("a.nd2", starting_with(b"\xda\xce\xbe\x0a"), UnsupportedSlide, "Nikon ND2.*bfconvert"),
    "unknown compression": ("a.tif", tiff_of(4711), NotASlide, f"4711.*damaged, {AGAIN}"),
    "no directory": ("a.tif", without_directories, NotASlide, f"damaged.*{AGAIN}"),
    "cut short": ("a.tif", cut_short, MissingCompanion, "cut short.*copy the slide again"),
    "zeros": ("a.svs", starting_with(bytes(300)), NotASlide, f"zero bytes.*{AGAIN}"),
    "MIRAX garbled format": (
        "a.mrxs",
        slidedat_with("IMAGE_FORMAT = JPEG", "IMAGE_FORMAT = J%EG"),
        NotASlide,
        AGAIN,
    ),
    "MIRAX negative": (
        "a.mrxs",
        slidedat_with("IMAGE_CONCAT_FACTOR = 1", "IMAGE_CONCAT_FACTOR = -1"),
        NotASlide,
        AGAIN,
    ),
    "JPEG under another name": (
        "a.svs",
        starting_with(b"\xff\xd8\xff\xe0"),
        NotASlide,
        "is a JPEG image.*ending",
    ),
    "ZIP": ("a.ndpi", starting_with(b"PK\x03\x04"), NotASlide, "is a ZIP archive, no slide; unpack it"),
    "HTML": ("a.svs", starting_with(b"<!DOCTYPE html>"), NotASlide, "is an HTML page.*download it again"),
    "text": ("a.tif", starting_with(b"buy milk"), NotASlide, "no format that OpenSlide reads"),
}
"""By kind of input: name, writer, class of the error, and what its message holds."""
IN_STORE_LATER = ("cut short", "unknown compression", "no directory", "MIRAX garbled format", "text")
"""What the first kilobytes do not show: found when the slide is processed."""


@pytest.mark.parametrize("kind", TRUTH)
def test_each_kind_has_its_class_and_its_remedy(tmp_path: Path, kind: str) -> None:
    name, write, error, words = TRUTH[kind]
    write(tmp_path / name)
    with pytest.raises(SlideError, match=words) as refused:
        open_slide(tmp_path / name)
    assert type(refused.value) is error
    assert not refused.value.transient
    assert str(refused.value).startswith(Path(name).stem)


def test_slides_in_an_object_store_have_the_same_class_and_sentence(tmp_path: Path, s3_run: S3) -> None:
    url, config = s3_run
    for kind, (name, write, *_) in TRUTH.items():
        folder = tmp_path / kind.replace(" ", "-")
        folder.mkdir()
        write(folder / name)
    upload(tmp_path, url, config)
    here = {file.slide_id: file for file in find_slides(str(tmp_path)).refused}
    there = {file.slide_id: file for file in find_slides(url, access=config).refused}
    assert {identity.partition("__")[0].replace("-", " ") for identity in here.keys() - there} <= set(
        IN_STORE_LATER
    )
    for identity, file in there.items():
        assert file.error == here[identity].error
        if file.error == "UnsupportedSlide":
            assert file.reason == here[identity].reason
    assert sum(file.error == "UnsupportedSlide" for file in there.values()) == 12


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("JPEG XR compression is not supported", "tiles in JPEG XR.*ZEN.*bfconvert"),
        ("Pixel type Gray16 is not supported", "type Gray16.*ZEN"),
        ("Nonzero subblock channel 2", "several channels.*export"),
        ("Unsupported transfer syntax 1.2.840.10008.1.2.4.80", r"transfer syntax 1\.2.*gdcmconv --raw"),
        ("Slides with dissimilar main images are not supported", "main images"),
        ("Unsupported JPEG data precision 12", "data precision 12.*8 bits"),
    ],
)
def test_messages_of_openslide_about_sound_slides_are_recognised(message: str, words: str) -> None:
    error = explain_failure("a.czi", message)
    assert isinstance(error, UnsupportedSlide)
    assert error.args[0].startswith("a.czi")
    with pytest.raises(UnsupportedSlide, match=words):
        raise error


def test_compressions_that_are_named_are_those_that_openslide_refuses(tmp_path: Path) -> None:
    read = (1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50000)
    for number in (*read, 6, 9, 34712, 34887, 34925, 34933, 34934, 50001, 50002, 52546):
        path = tmp_path / f"{number}.tif"
        tiff_of(number)(path)
        with suppress(NotASlide, MissingResolution):
            if number in read:
                open_slide(path).close()
            else:
                with pytest.raises(UnsupportedSlide):
                    open_slide(path)


def test_sixteen_bits_and_separate_colours_are_read(tmp_path: Path) -> None:
    image_of("uint16")(tmp_path / "a.tif")
    planes = np.moveaxis(GREY, -1, 0)
    tifffile.imwrite(tmp_path / "b.tif", planes, tile=(128, 128), photometric="rgb", planarconfig="separate")
    for name in ("a.tif", "b.tif"):
        with open_slide(tmp_path / name, mpp=0.25) as slide:
            assert slide.read(0, 0, 0, 8, 8).shape == (8, 8, 3)


def test_mirax_slide_that_lacks_a_file_is_still_a_missing_companion(tmp_path: Path) -> None:
    write_grey_slide(tmp_path / "a.mrxs")
    (tmp_path / "a" / "Index.dat").unlink()
    with pytest.raises(MissingCompanion, match=r"a/Index\.dat"):
        open_slide(tmp_path / "a.mrxs")
