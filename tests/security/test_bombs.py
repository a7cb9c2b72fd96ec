"""Files that claim more than memory should be given for, and damaged ones: a sentence each, in little memory.

Every slide is opened in a process of its own, so that a crash of OpenSlide's C code would be seen and would not
end the tests.
"""

from __future__ import annotations

import io
import math
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from support.slide_subprocess import Seen, look_at
from support.slides_on_disk import discs, write_slide

from fossilray.core.errors import MissingCompanion, StoreError, TooLarge, UsageError
from fossilray.core.images import read_image
from fossilray.slides.mirax.slidedat import parse_slidedat
from fossilray.slides.slide import open_slide
from fossilray.store.arrays.jpeg_codec import decode_crop
from fossilray.synthetic.writers.pixels import ArrayPixels
from fossilray.synthetic.writers.tiff import TiffOptions, write_pyramidal_tiff

MOST_MB = 1500.0
INDEX_START = 37
"""Version and id stand before the numbers of Index.dat."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MIRAX slide."""
    path = tmp_path_factory.mktemp("sound") / "sound.mrxs"
    write_slide(path, size=512, objects=2)
    return path


def copy_of(sound: Path, folder: Path, **changes: str | int | float) -> Path:
    """A copy with other values in Slidedat.ini; a key stands for itself in every group that has it."""
    path = folder / "slide.mrxs"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(sound, path)
    shutil.copytree(sound.with_suffix(""), path.with_suffix(""))
    ini = path.with_suffix("") / "Slidedat.ini"
    text = ini.read_bytes().decode("utf-8-sig")
    for key, value in changes.items():
        text, found = re.subn(rf"(?m)^{key} = .*?\r$", f"{key} = {value}\r", text)
        assert found, key
    ini.write_bytes(text.encode())
    return path


def check_refused(seen: Seen, error: str, message: str) -> None:
    assert (seen.signal, seen.error) == (0, error), seen
    assert re.search(message, seen.message), seen.message
    assert "\n" not in seen.message
    assert seen.peak_mb < MOST_MB


def patched_header(jpeg: bytes, width: int, height: int) -> bytes:
    """The JPEG, claiming to be of that size."""
    position = 2
    while jpeg[position + 1] not in (0xC0, 0xC1, 0xC2):
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return jpeg[: position + 5] + struct.pack(">HH", height, width) + jpeg[position + 9 :]


def jpeg(side: int = 256, *, progressive: bool = False) -> bytes:
    out = io.BytesIO()
    Pillow.fromarray(np.full((side, side, 3), 200, np.uint8)).save(out, "JPEG", progressive=progressive)
    return out.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def test_a_sound_slide_is_read_in_the_child_as_anywhere(sound: Path) -> None:
    (seen,) = look_at(sound)
    assert (seen.error, seen.read, seen.unreadable, seen.signal) == ("", 6, 0, 0)


def test_claims_of_slidedat_that_would_end_or_hang_openslide_are_refused(sound: Path, tmp_path: Path) -> None:
    bare = {"NONHIER_COUNT": 1}  # without its positions, OpenSlide would compute some for each photo
    cases: list[tuple[dict[str, str | int | float], str, str]] = [
        ({"IMAGENUMBER_X": 10**9, "IMAGENUMBER_Y": 10**9}, "TooLarge", "photos"),
        ({"IMAGENUMBER_X": 10**9, **bare}, "TooLarge", "photos"),
        ({"IMAGENUMBER_X": 65536, "IMAGENUMBER_Y": 65536, **bare}, "TooLarge", "photos"),
        ({"IMAGENUMBER_X": 4400, "IMAGENUMBER_Y": 4400, **bare}, "TooLarge", "gigapixels"),
        ({"IMAGENUMBER_X": 2**31 - 1, "IMAGENUMBER_Y": 2**31 - 1, **bare}, "TooLarge", "photos"),
        ({"IMAGENUMBER_X": -6}, "MissingCompanion", "IMAGENUMBER_X is '-6'"),
        ({"IMAGENUMBER_Y": 0}, "MissingCompanion", "IMAGENUMBER_Y is '0'"),
        ({"IMAGENUMBER_Y": "6e9"}, "MissingCompanion", "IMAGENUMBER_Y is '6e9'"),
        ({"CameraImageDivisionsPerSide": 0}, "MissingCompanion", "DivisionsPerSide is '0'"),
        ({"CameraImageDivisionsPerSide": -1, **bare}, "MissingCompanion", "DivisionsPerSide is '-1'"),
        ({"CameraImageDivisionsPerSide": 7, **bare}, "MissingCompanion", "in 7 divisions a side"),
        ({"HIER_0_COUNT": 5000}, "MissingCompanion", "5000 levels"),
        ({"HIER_0_COUNT": 2**31 - 1}, "MissingCompanion", "2147483647 levels"),
        ({"HIER_0_COUNT": -1}, "MissingCompanion", "HIER_0_COUNT is '-1'"),
        ({"FILE_COUNT": 10**9}, "MissingCompanion", "FILE_1"),
        ({"FILE_COUNT": -1}, "NotASlide", "datafile_count"),
        ({"DIGITIZER_WIDTH": 65500, "DIGITIZER_HEIGHT": 65500}, "TooLarge", "photos of 65500 x 65500 px"),
        ({"DIGITIZER_WIDTH": 2**31 - 1}, "TooLarge", "photos of 2147483647 x 256 px"),
        ({"DIGITIZER_HEIGHT": -256}, "MissingCompanion", "DIGITIZER_HEIGHT is '-256'"),
        ({"OVERLAP_X": "nan"}, "MissingCompanion", "OVERLAP_X of level 0 is 'nan'"),
        ({"OVERLAP_Y": "-1e308"}, "MissingCompanion", "OVERLAP_Y of level 0 is '-1e308'"),
    ]
    slides = [copy_of(sound, tmp_path / str(number), **changes) for number, (changes, *_) in enumerate(cases)]
    for (_, error, message), seen in zip(cases, look_at(*slides), strict=True):
        check_refused(seen, error, message)


def test_slidedat_is_read_as_openslide_reads_it() -> None:
    """Elsewhere small values could be shown to the check, and large ones to OpenSlide."""
    ini = parse_slidedat(
        b"\xef\xbb\xbf# all of it\r\n[GENERAL]\r\nIMAGENUMBER_X = 6\r\nNAME = a\r\n IMAGENUMBER_X =9 \r\n"
        b"imagenumber_x=1\n\xc2\xa0IMAGENUMBER_X=2\n;IMAGENUMBER_X=3\n[OTHER]\nIMAGENUMBER_X=4\n[GENERAL]\nY=5"
    )
    assert ini["GENERAL"]["IMAGENUMBER_X"].strip() == "9"
    assert ini["GENERAL"]["Y"] == "5"
    with pytest.raises(ValueError, match="zero bytes"):
        parse_slidedat(b"[GENERAL]\nIMAGENUMBER_X\0 = 5\n")


def test_file_names_of_slidedat_stay_in_their_folder(sound: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("../sound/Data0000.dat", "/etc/passwd", "..", "a\\b", "sub/file")):
        path = copy_of(sound, tmp_path / str(number), INDEXFILE=re.escape(name) if "\\" in name else name)
        with pytest.raises(MissingCompanion, match="no file of its folder"):
            open_slide(path)


def test_an_index_with_any_number_wrong_gives_a_sentence_or_pixels(sound: Path, tmp_path: Path) -> None:
    content = (sound.with_suffix("") / "Index.dat").read_bytes()
    count = (len(content) - INDEX_START) // 4
    slides = []
    for word in range(count):
        # Backwards, below zero, beyond the file, and to the position itself: a page that follows itself.
        for value in {INDEX_START, -1, -(2**29), 2**31 - 1, INDEX_START + 4 * word}:
            path = copy_of(sound, tmp_path / f"{word} {value}")
            position = INDEX_START + 4 * word
            changed = content[:position] + struct.pack("<i", value) + content[position + 4 :]
            (path.with_suffix("") / "Index.dat").write_bytes(changed)
            slides.append(path)
    for path, seen in zip(slides, look_at(*slides), strict=True):
        assert not seen.signal, (path, seen)
        assert seen.error in ("", "NotASlide", "MissingCompanion"), (path, seen)
        assert seen.peak_mb < MOST_MB


def with_tiles(slide: Path, tile: bytes) -> Path:
    """Every tile of every level replaced by one run of bytes."""
    folder = slide.with_suffix("")
    data, index = folder / "Data0000.dat", folder / "Index.dat"
    start = data.stat().st_size
    data.write_bytes(data.read_bytes() + tile)
    raw = index.read_bytes()
    words = np.frombuffer(raw[INDEX_START:], "<i4").copy()

    def at(offset: int) -> int:
        return (offset - INDEX_START) // 4

    for level in range(3):
        page = int(words[at(int(words[at(int(words[0])) + level])) + 1])
        while page:
            entries, following = (int(word) for word in words[at(page) : at(page) + 2])
            for entry in range(entries):
                position = at(page) + 2 + 4 * entry
                words[position + 1 : position + 3] = start, len(tile)
            page = following
    index.write_bytes(raw[:INDEX_START] + words.tobytes())
    return slide


def test_photos_that_claim_another_size_than_slidedat_are_unreadable_regions(
    sound: Path, tmp_path: Path
) -> None:
    bitmap = io.BytesIO()
    Pillow.fromarray(np.zeros((256, 256, 3), np.uint8)).save(bitmap, "BMP")
    huge_bitmap = bitmap.getvalue()[:18] + struct.pack("<ii", 10**5, 10**5) + bitmap.getvalue()[26:]
    tiles = {
        "baseline": ("JPEG", patched_header(jpeg(), 65500, 65500)),
        "progressive": ("JPEG", patched_header(jpeg(progressive=True), 65500, 65500)),
        "png": ("PNG", png_claiming(10**6, 10**6)),
        "bitmap": ("BMP24", huge_bitmap),
    }
    slides = [
        with_tiles(copy_of(sound, tmp_path / name, IMAGE_FORMAT=form), tile)
        for name, (form, tile) in tiles.items()
    ]
    for seen in look_at(*slides):
        assert (seen.error, seen.read, seen.unreadable, seen.signal) == ("", 0, 6, 0), seen
        assert seen.peak_mb < MOST_MB


def tiff(
    path: Path,
    *,
    width: int,
    height: int,
    tile: int,
    compression: int = 7,
    tiles: int = 1,
    data: bytes | None = None,
) -> Path:
    """A TIFF of one directory with the given claims; all its tiles are one run of bytes."""
    data = jpeg() if data is None else data
    entries = 13
    after = 8 + 2 + 12 * entries + 4
    offsets, counts, pixels = after + 14, after + 14 + 4 * tiles, after + 14 + 8 * tiles
    alone = tiles == 1
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, after + 8),
        (259, 3, 1, compression),
        (262, 3, 1, 6 if compression == 7 else 2),
        (277, 3, 1, 3),
        (282, 5, 1, after),
        (283, 5, 1, after),
        (296, 3, 1, 3),
        (322, 4, 1, tile),
        (323, 4, 1, tile),
        (324, 4, tiles, pixels if alone else offsets),
        (325, 4, tiles, len(data) if alone else counts),
    ]
    path.write_bytes(
        b"II*\0"
        + struct.pack("<IH", 8, entries)
        + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        + struct.pack("<I", 0)
        + struct.pack("<IIHHH", 40_000, 1, 8, 8, 8)
        + np.full(tiles, pixels, "<u4").tobytes()
        + np.full(tiles, len(data), "<u4").tobytes()
        + data
    )
    return path


def test_tiffs_that_claim_too_much_are_refused(tmp_path: Path) -> None:
    side = 10**6
    everywhere = math.ceil(side / 4096) ** 2
    cases = {
        tiff(tmp_path / "whole.tif", width=side, height=side, tile=4096, tiles=everywhere): (
            "TooLarge",
            "1000000 x 1000000 px, 1,000.0 gigapixels",
        ),
        tiff(tmp_path / "tile.tif", width=side, height=side, tile=side - side % 16): (
            "TooLarge",
            "tiles of 1000000 x 1000000 px",
        ),
        tiff(tmp_path / "raw.tif", width=65536, height=65536, tile=65536, compression=1): (
            "TooLarge",
            "tiles of 65536 x 65536 px",
        ),
        tiff(
            tmp_path / "deflated.tif",
            width=30_000,
            height=30_000,
            tile=30_000,
            compression=8,
            data=zlib.compress(bytes(10**7)),
        ): ("TooLarge", "tiles of 30000 x 30000 px"),
        tiff(tmp_path / "few.tif", width=side, height=side, tile=256): ("NotASlide", "Invalid TIFF"),
        tiff(tmp_path / "zero.tif", width=0, height=0, tile=256): ("NotASlide", "Invalid TIFF"),
    }
    for (error, message), seen in zip(cases.values(), look_at(*cases), strict=True):
        check_refused(seen, error, message)


def test_a_tiff_tile_that_claims_another_size_is_an_unreadable_region(tmp_path: Path) -> None:
    slides = [
        tiff(
            tmp_path / f"{progressive}.tif",
            width=256,
            height=256,
            tile=256,
            data=patched_header(jpeg(progressive=progressive), 65500, 65500),
        )
        for progressive in (False, True)
    ]
    for seen in look_at(*slides):
        assert (seen.error, seen.read, seen.unreadable, seen.signal) == ("", 0, 2, 0), seen
        assert seen.peak_mb < MOST_MB


def test_a_tiff_with_a_wrong_number_of_tiles_is_refused(tmp_path: Path) -> None:
    path = tiff(tmp_path / "count.tif", width=256, height=256, tile=256)
    content = path.read_bytes()
    slides = []
    for number, count in enumerate((10**9, 2**32 - 1)):
        position = content.index(struct.pack("<HH", 324, 4))
        slides.append(tmp_path / f"{number}.tif")
        slides[-1].write_bytes(content[: position + 4] + struct.pack("<I", count) + content[position + 8 :])
    for seen in look_at(*slides):
        assert seen.error in ("NotASlide", "MissingCompanion"), seen
        assert not seen.signal
        assert seen.peak_mb < MOST_MB


def test_a_slide_above_the_limit_is_refused_with_the_setting_to_raise(sound: Path) -> None:
    with pytest.raises(TooLarge, match=r"slides\.max_gigapixels \(0\.001\); raise that"):
        open_slide(sound, max_gigapixels=0.001)
    with open_slide(sound, max_gigapixels=0.01) as slide:
        assert slide.info.width


def test_pixels_claimed_to_be_millimetres_wide_are_refused(tmp_path: Path) -> None:
    """Tiling is by the millimetre: 100 million pixels of 19 um would be 3.6 m2 of glass."""
    path = tmp_path / "wide.tif"
    tifffile.imwrite(path, np.zeros((256, 256, 3), np.uint8), tile=(256, 256), photometric="rgb")
    with pytest.raises(TooLarge, match=r"claims 5,120 x 5,120 mm at 20000 um per pixel.*mpp_override"):
        open_slide(path, mpp=20_000.0)


def test_a_stored_crop_that_claims_65500_px_a_side_is_refused_unread() -> None:
    bomb = patched_header(jpeg(224), 65500, 65500)
    with pytest.raises(StoreError, match=r"65500 x 65500 px, its array states 224 x 224"):
        decode_crop(bomb, height=224, width=224)
    with pytest.raises(StoreError, match="not a readable JPEG"):
        decode_crop(jpeg(224)[:100], height=224, width=224)
    assert decode_crop(jpeg(224), height=224, width=224).shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bomb.png", png_claiming(9000, 9000)),
        ("larger.png", png_claiming(10**6, 10**6)),
        ("bomb.jpg", patched_header(jpeg(), 65500, 65500)),
        ("cut.png", png_claiming(224, 224)[:60]),
        ("text.png", b"no image"),
    ],
)
def test_a_labelled_image_that_is_a_bomb_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UsageError, match=rf"{name} .*it (claims|cannot be decoded|is not in a known image format)"
    ):
        read_image(tmp_path / name, name=name)


def test_flipped_and_cut_slides_give_pixels_or_a_sentence(sound: Path, tmp_path: Path) -> None:
    """A hundred and twenty variants; a signal here would be a slide that kills workers, and is reported by name."""
    rng = np.random.default_rng(7)
    plain = tmp_path / "plain.tif"
    write_pyramidal_tiff(plain, ArrayPixels(image=discs(512, 2)), TiffOptions())
    slides = []
    for number in range(120):
        if number % 2:
            path = tmp_path / f"{number}.tif"
            path.write_bytes(damaged(plain.read_bytes(), rng))
        else:
            path = copy_of(sound, tmp_path / str(number))
            parts = sorted(path.with_suffix("").iterdir())
            victim = parts[rng.integers(len(parts))]
            victim.write_bytes(damaged(victim.read_bytes(), rng))
        slides.append(path)
    known = {"", "NotASlide", "UnsupportedSlide", "MissingCompanion", "TooLarge"}
    for path, seen in zip(slides, look_at(*slides), strict=True):
        assert not seen.signal, (path, seen)
        assert seen.error in known, (path, seen)
        assert seen.peak_mb < MOST_MB, (path, seen)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, some of them in the first kilobyte where headers are; one time in four cut short."""
    changed = bytearray(content)
    for position in [*rng.integers(0, min(1000, len(content)), 3), *rng.integers(0, len(content), 12)]:
        changed[position] = rng.integers(256)
    return bytes(changed[: rng.integers(1, len(content))] if rng.random() < 0.25 else changed)


@pytest.mark.parametrize("claimed", [2**31, 2**32 - 1])
def test_tiff_whose_tile_claims_more_bytes_than_the_file_is_refused(tmp_path: Path, claimed: int) -> None:
    path = tmp_path / "slide.tif"
    write_pyramidal_tiff(path, ArrayPixels(image=discs(1024, 2)), TiffOptions())
    with tifffile.TiffFile(path) as tiff:
        counts = tiff.pages[0].tags["TileByteCounts"]
        width = {4: "I", 16: "Q"}[counts.dtype]
    with path.open("r+b") as file:
        file.seek(counts.valueoffset)
        file.write(struct.pack(f"<{width}", claimed))
    (seen,) = look_at(path)
    check_refused(seen, "NotASlide", f"claims a tile of {claimed:,} bytes")
