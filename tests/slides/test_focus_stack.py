"""Focus planes of TIFFs: every plane of every format is read, tile by tile, with OpenSlide's pixels."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from support.focus_stacks import (
    FocusStack,
    Page,
    halved,
    paint_stack,
    write_ndpi,
    write_ome,
    write_pages,
    write_svs,
)

from fossilray.core.errors import UnreadableRegion
from fossilray.slides.focus.plane_slides import open_planes
from fossilray.slides.focus.stack import FocusStack as Stack
from fossilray.slides.focus.stack import open_stack
from fossilray.slides.slide import open_slide

DEPTHS_UM = (-8.0, -4.0, 0.0, 4.0)
Write = Callable[[Path, FocusStack], Path]
FORMATS: dict[str, Write] = {
    "pages.tif": partial(write_pages, levels=2),
    "deflate.tif": partial(write_pages, levels=2, compression="deflate"),
    "jpeg.tif": partial(write_pages, levels=2, compression="jpeg"),
    "unmarked.tif": partial(write_pages, levels=2, reduced=False),
    "stack.ome.tif": partial(write_ome, levels=2),
    "stack.svs": partial(write_svs, levels=2),
    "stack.ndpi": partial(write_ndpi, levels=2, depths_um=DEPTHS_UM),
}
LOSSY = ("jpeg.tif", "stack.svs", "stack.ndpi")


@pytest.fixture(scope="module")
def painted() -> FocusStack:
    return paint_stack(768, planes=4, objects=9)


def opened(path: Path) -> Stack:
    stack = open_stack(path)
    assert stack is not None
    return stack


@pytest.mark.parametrize("name", FORMATS)
def test_every_plane_is_read_at_every_level(tmp_path: Path, painted: FocusStack, name: str) -> None:
    stack = opened(FORMATS[name](tmp_path / name, painted))
    assert stack.planes == 4
    assert [level.downsample for level in stack.levels] == [1, 2]
    assert stack.reference == (2 if name == "stack.ndpi" else 0)
    for plane in range(stack.planes):
        for level in range(2):
            side = 768 // 2**level
            shown, alpha = stack.read(plane, level, 0, 0, side, side)
            assert alpha.min() == 255
            expected = halved(painted.planes[plane], level).astype(int)
            error = np.abs(shown - expected)
            assert error.mean() < 2.5 if name in LOSSY else error.max() == 0


@pytest.mark.parametrize("name", FORMATS)
def test_plane_that_openslide_reads_has_the_same_pixels(
    tmp_path: Path, painted: FocusStack, name: str
) -> None:
    path = FORMATS[name](tmp_path / name, painted)
    stack = opened(path)
    with openslide.OpenSlide(str(path)) as slide:
        for x, y in ((0, 0), (37, 211), (600, 650)):
            shown, alpha = stack.read(stack.reference, 0, x, y, 300, 200)
            theirs = np.asarray(slide.read_region((x, y), 0, (300, 200)))
            assert np.array_equal(shown[alpha == 255], theirs[..., :3][alpha == 255])
            assert np.array_equal(alpha, theirs[..., 3])


def test_lzw_tiles_are_read(tmp_path: Path, painted: FocusStack) -> None:
    """Pillow packs the tiles, because tifffile needs another library for it."""
    write_pages(tmp_path / "plain.tif", painted, levels=1)
    content = bytearray((tmp_path / "plain.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "plain.tif") as file:
        pages = [page.aspage() for page in file.pages]
        for page in pages:
            offsets, lengths = [], []
            for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
                tile = np.frombuffer(bytes(content[offset : offset + length]), np.uint8).reshape(256, 768)
                packed = io.BytesIO()
                Image.fromarray(tile).save(packed, "TIFF", compression="tiff_lzw", strip_size=1 << 20)
                packed.seek(0)
                with tifffile.TiffFile(packed) as strip:
                    first = strip.pages.first
                    assert len(first.dataoffsets) == 1, "one strip"
                    start = first.dataoffsets[0]
                    offsets.append(len(content))
                    lengths.append(first.databytecounts[0])
                content += packed.getvalue()[start : start + lengths[-1]]
            for code, values in ((324, offsets), (325, lengths)):
                tag = page.tags[code]
                struct.pack_into(f"<{len(values)}{'IH'[tag.dtype == 3]}", content, tag.valueoffset, *values)
            struct.pack_into("<H", content, page.tags[259].valueoffset, 5)
    (tmp_path / "lzw.tif").write_bytes(content)
    stack = opened(tmp_path / "lzw.tif")
    for plane in range(4):
        assert np.array_equal(stack.read(plane, 0, 0, 0, 768, 768)[0], painted.planes[plane])


def test_order_of_planes_that_an_ome_tiff_states_is_kept(tmp_path: Path, painted: FocusStack) -> None:
    path = write_ome(tmp_path / "s.ome.tif", painted)
    places = "".join(f'<TiffData IFD="{3 - plane}" FirstZ="{plane}" PlaneCount="1"/>' for plane in range(4))
    with tifffile.TiffFile(path) as file:
        text = file.pages.first.description.replace("<TiffData/>", places)
    tifffile.tiffcomment(path, text)
    stack = opened(path)
    assert stack.reference == 3
    assert np.array_equal(stack.read(0, 0, 0, 0, 768, 768)[0], painted.planes[3])


def test_ome_tiff_of_another_writer_is_read(tmp_path: Path, painted: FocusStack) -> None:
    path = tmp_path / "s.ome.tif"
    tifffile.imwrite(path, painted.planes, tile=(256, 256), photometric="rgb", metadata={"axes": "ZYXS"})
    stack = opened(path)
    for plane in range(4):
        assert np.array_equal(stack.read(plane, 0, 0, 0, 768, 768)[0], painted.planes[plane])


@pytest.mark.parametrize(
    "change",
    [
        ('SizeT="1"', 'SizeT="2"'),
        ('SizeZ="4"', 'SizeZ="2"'),
        ("<TiffData/>", '<TiffData IFD="0" FirstZ="3"/>'),
    ],
)
def test_images_that_are_no_focus_planes_are_not_taken_for_some(
    tmp_path: Path, painted: FocusStack, change: tuple[str, str]
) -> None:
    path = write_ome(tmp_path / "s.ome.tif", painted)
    with tifffile.TiffFile(path) as file:
        text = file.pages.first.description
    assert change[0] in text
    tifffile.tiffcomment(path, text.replace(*change))
    assert open_stack(path) is None


def test_slide_with_one_plane_or_of_another_format_has_no_stack(tmp_path: Path, painted: FocusStack) -> None:
    flat = FocusStack(painted.planes[:1], painted.boxes, painted.sharp, painted.um_per_px)
    assert open_stack(write_pages(tmp_path / "flat.tif", flat)) is None
    (tmp_path / "text.tif").write_bytes(b"no TIFF")
    assert open_stack(tmp_path / "text.tif") is None
    (tmp_path / "cut.tif").write_bytes((tmp_path / "flat.tif").read_bytes()[:100])
    assert open_stack(tmp_path / "cut.tif") is None


def test_levels_that_only_some_planes_have_are_left_out(tmp_path: Path, painted: FocusStack) -> None:
    path = tmp_path / "s.tif"
    pages = [Page(plane, painted.um_per_px) for plane in painted.planes]
    pages.append(Page(halved(painted.planes[0], 1), 1.0, is_reduced=True))
    with tifffile.TiffWriter(path) as file:
        for page in pages:
            file.write(
                page.pixels,
                tile=(256, 256),
                photometric="rgb",
                subfiletype=int(page.is_reduced),
                metadata=None,
            )
    assert [level.width for level in opened(path).levels] == [768]


def test_damaged_tile_is_unreadable_in_its_plane_only(tmp_path: Path, painted: FocusStack) -> None:
    path = write_pages(tmp_path / "s.tif", painted, levels=1, compression="jpeg")
    with tifffile.TiffFile(path) as file:
        page = file.pages[1].aspage()
        offset, length = page.dataoffsets[0], page.databytecounts[0]
    content = bytearray(path.read_bytes())
    content[offset + length // 2 : offset + length - 2] = bytes(length - 2 - length // 2)
    path.write_bytes(content)
    with open_slide(path) as slide:
        planes = open_planes(slide)
        assert planes is not None
        with planes:
            assert planes.planes[0].read(0, 0, 0, 256, 256).shape == (256, 256, 3)
            with pytest.raises(UnreadableRegion, match="level 0 cannot be decoded"):
                planes.planes[1].read(0, 0, 0, 256, 256)
            assert planes.planes[1].read(0, 256, 256, 256, 256).shape == (256, 256, 3)
            sharpness = planes.sharpness(np.array([10, 10, 200, 200]))
            assert np.isnan(sharpness).tolist() == [False, True, False, False]


def test_large_ndpi_states_offsets_beyond_32_bits_beside_its_entries(
    tmp_path: Path, painted: FocusStack
) -> None:
    path = write_ndpi(tmp_path / "s.ndpi", painted, levels=1, depths_um=DEPTHS_UM)
    content = bytearray(path.read_bytes())
    # A sparse file of more than 4 GiB: the image of plane 1 lies behind, and the high half of its offset is stated.
    with tifffile.TiffFile(path) as file:
        page = file.pages[1].aspage()
        entry, count = page.tags[273].offset, len(page.tags)
        (start,), (length,) = page.tags[273].value, page.tags[279].value
        first = page.offset + 2
    far = (1 << 32) + 64
    stored = bytes(content[start : start + length])
    struct.pack_into("<I", content, entry + 8, far & 0xFFFFFFFF)
    high = first + 12 * count + 8 + 4 * ((entry - first) // 12)
    struct.pack_into("<I", content, high, far >> 32)
    with path.open("wb") as sink:
        sink.write(content)
        sink.seek(far)
        sink.write(stored)
    stack = opened(path)
    assert np.abs(stack.read(1, 0, 0, 0, 768, 768)[0] - painted.planes[1].astype(int)).mean() < 2.5


def test_planes_are_read_by_several_threads(tmp_path: Path, painted: FocusStack) -> None:
    stack = opened(write_svs(tmp_path / "s.svs", painted))
    regions = [(plane, 0, x, y, 200, 200) for plane in range(4) for x in (0, 150, 400) for y in (0, 300, 560)]
    expected = [stack.read(*region)[0] for region in regions]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for shown, (known, _) in zip(
                expected, pool.map(lambda region: stack.read(*region), regions), strict=True
            ):
                assert np.array_equal(shown, known)


def test_projection_is_sharp_everywhere_and_does_not_depend_on_the_window(
    tmp_path: Path, painted: FocusStack
) -> None:
    with open_slide(write_ome(tmp_path / "s.ome.tif", painted, levels=2)) as slide:
        planes = open_planes(slide)
        assert planes is not None
        with planes:
            whole = planes.projection.read(0, 0, 0, 768, 768)
            part = planes.projection.read(0, 200, 300, 256, 128)
            assert np.array_equal(part, whole[300:428, 200:456])
            coarse = planes.projection.read(1, 0, 0, 384, 384)
            assert np.array_equal(planes.projection.read(1, 200, 100, 64, 64), coarse[50:114, 100:164])
    for (x_min, y_min, x_max, y_max), sharp in zip(painted.boxes, painted.sharp, strict=True):
        box = np.s_[y_min:y_max, x_min:x_max]
        errors = [np.abs(whole[box] - plane[box].astype(int)).mean() for plane in painted.planes]
        assert int(np.argmin(errors)) == sharp
