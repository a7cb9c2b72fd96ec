"""A folder of slides, sound ones and ones that misstate something, with the findings that each must have."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from support.damaged_slides import StoredTile, copy_slide, stored_tiles
from support.focus_levels import add_focus_levels

from fossilray.core.slide_names import slide_id_for
from fossilray.synthetic.assemblage import Column
from fossilray.synthetic.scene import Scene
from fossilray.synthetic.writers.mirax import MiraxOptions, write_mirax
from fossilray.synthetic.writers.pixels import ArrayPixels
from fossilray.synthetic.writers.tiff import TiffOptions, write_pyramidal_tiff

SIDE_PX = 2048
MPP = 0.25
DENSITY_PER_MM2 = 150.0
"""More than on a real slide, so that a quarter of a mm2 has enough objects for statistics."""
_TALL_MPP = {"resolution": (40_000, 20_000), "resolutionunit": "centimeter"}
_SQUARE_MPP = {"resolution": (40_000, 40_000), "resolutionunit": "centimeter"}

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Planted:
    """One slide of the folder. expected: codes of doubts, one of which it must have, or classes of errors; none if it
    is sound. also: codes that follow from the same fault."""

    slide_id: str
    kind: str
    expected: frozenset[str]
    also: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Lie:
    """A kind of fault. plant: writes the slide from its picture, and returns its path."""

    plant: Callable[[Path, Image], Path]
    expected: tuple[str, ...]
    also: tuple[str, ...] = ()


def plant_archive(folder: Path, *, sound: int, of_each: int, seed: int = 11) -> list[Planted]:
    """Write `sound` sound slides and `of_each` slides of every kind of LIES to a folder, in a random order of wells."""
    lies = [(name, lie) for name, lie in LIES.items() for _ in range(of_each)]
    plan: list[tuple[str, Lie | None]] = [("sound", None)] * sound + [*lies]
    order = np.random.default_rng(seed).permutation(len(plan))
    column = Column(seed)
    planted = []
    folder.mkdir(parents=True)
    for number, sample in enumerate(column.samples(len(plan))):
        name, lie = plan[order[number]]
        scene = Scene(
            replace(
                column.assemblage(sample, slide=number, slides=len(plan)), density_per_mm2=DENSITY_PER_MM2
            ),
            width=SIDE_PX,
            height=SIDE_PX,
            um_per_px=MPP,
            seed=[seed, 5, number],
        )
        stem = folder / f"{sample.stem} {number:03d}"
        picture = scene.region(0, 0, SIDE_PX, SIDE_PX)
        if lie is None:
            path = (_mirax if number % 2 else _tiff)(stem, picture)
            planted.append(Planted(_id(folder, path), name, frozenset()))
        else:
            path = lie.plant(stem, picture)
            planted.append(Planted(_id(folder, path), name, frozenset(lie.expected), frozenset(lie.also)))
    return planted


def _id(folder: Path, path: Path) -> str:
    return slide_id_for(PurePosixPath(path.relative_to(folder)))


def _mirax(stem: Path, image: Image, *, mpp: float = MPP) -> Path:
    path = stem.parent / f"{stem.name}.mrxs"
    write_mirax(path, ArrayPixels(image=image), MiraxOptions(mpp=mpp, photo_px=512, divisions_per_side=2))
    return path


def _tiff(stem: Path, image: Image) -> Path:
    path = stem.parent / f"{stem.name}.tif"
    write_pyramidal_tiff(path, ArrayPixels(image=image), TiffOptions(mpp=MPP, tile_px=256))
    return path


def _stated(*changes: tuple[str, str]) -> Callable[[Path, Image], Path]:
    """A MIRAX slide whose Slidedat.ini states something else."""

    def plant(stem: Path, image: Image) -> Path:
        path = _mirax(stem, image)
        ini = path.with_suffix("") / "Slidedat.ini"
        text = ini.read_bytes().decode("utf-8-sig")
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        ini.write_bytes(text.encode("utf-8-sig"))
        return path

    return plant


def _picture(change: Callable[[Image], Image]) -> Callable[[Path, Image], Path]:
    """A slide that shows something else."""
    return lambda stem, image: _mirax(stem, np.ascontiguousarray(change(image)))


def _single(**options: object) -> Callable[[Path, Image], Path]:
    """A tiled TIFF of one level, by tifffile."""

    def plant(stem: Path, image: Image) -> Path:
        path = stem.parent / f"{stem.name}.tif"
        wide = options.get("bits") == 16
        rest = {name: value for name, value in options.items() if name != "bits"}
        tifffile.imwrite(
            path,
            image.astype(np.uint16) * 257 if wide else image,
            **{"tile": (256, 256), "photometric": "rgb", **_SQUARE_MPP, **rest},  # type: ignore[arg-type]
        )
        return path

    return plant


def _tiles(change: Callable[[StoredTile], None], *, share: float) -> Callable[[Path, Image], Path]:
    """A MIRAX slide some of whose finest stored tiles are changed."""

    def plant(stem: Path, image: Image) -> Path:
        path = _mirax(stem, image)
        finest = [tile for tile in stored_tiles(path) if tile.level == 0]
        for tile in finest[:: round(1 / share)]:
            change(tile)
        return path

    return plant


def _planes(stem: Path, image: Image) -> Path:
    path = _mirax(stem, image)
    add_focus_levels(path, 9)
    return path


def _unmarked_levels(stem: Path, image: Image) -> Path:
    path = stem.parent / f"{stem.name}.tif"
    with tifffile.TiffWriter(path) as file:
        for level in range(3):
            smaller = np.ascontiguousarray(image[:: 2**level, :: 2**level])
            file.write(smaller, tile=(256, 256), photometric="rgb", metadata=None, **_SQUARE_MPP)
    return path


def _copied(stem: Path, image: Image) -> Path:
    path = _mirax(stem, image)
    copy = copy_slide(path, stem.parent / "copies")
    renamed = copy.with_name(f"{stem.name} again.mrxs")
    copy.rename(renamed)
    copy.with_suffix("").rename(renamed.with_suffix(""))
    return path


def _cut_short(stem: Path, image: Image) -> Path:
    path = _mirax(stem, image)
    data = max(path.with_suffix("").glob("Data*.dat"))
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    return path


def _text(stem: Path, image: Image) -> Path:
    path = stem.parent / f"{stem.name}.tif"
    path.write_text("minutes of a meeting")
    return path


def _webp(stem: Path, image: Image) -> Path:
    """A TIFF that states a compression which OpenSlide does not read; its data are not reached."""
    path = _single()(stem, image)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[259].overwrite(50001)  # type: ignore[union-attr]
    return path


def _without_data(stem: Path, image: Image) -> Path:
    path = _mirax(stem, image)
    shutil.rmtree(path.with_suffix(""))
    return path


def _with_band(image: Image) -> Image:
    """A mark of a felt pen, from side to side."""
    marked = image.copy()
    marked[600:900] = (40, 42, 60)
    return marked


def _with_frame(image: Image) -> Image:
    """Beads of glue along the rim of the scan."""
    framed = image.copy()
    for at in range(40, SIDE_PX, 120):
        for x, y in ((at, 0), (at, SIDE_PX - 1), (0, at), (SIDE_PX - 1, at)):
            cv2.circle(framed, (x, y), 30, (90, 60, 40), -1)
    return framed


def _without_colours(image: Image) -> Image:
    """Fluorescence: what absorbs light shines on black."""
    return np.clip((255 - image.astype(np.int16) - 30) * 2, 0, 255).astype(np.uint8)


def _in_capitals(stem: Path, image: Image) -> Path:
    """A copy from a Windows share: the slide's ending and the name of its index in capitals."""
    path = _mirax(stem, image)
    (path.with_suffix("") / "Slidedat.ini").rename(path.with_suffix("") / "SLIDEDAT.INI")
    return path.rename(path.with_suffix(".MRXS"))


def _folder_in_capitals(stem: Path, image: Image) -> Path:
    path = _mirax(stem, image)
    path.with_suffix("").rename(path.parent / path.stem.upper())
    return path


LIES: dict[str, Lie] = {
    "mpp ten times too small": Lie(
        _stated(("PIXEL_X = 0.25", "PIXEL_X = 0.025"), ("PIXEL_Y = 0.25", "PIXEL_Y = 0.025")),
        ("mpp-implausible",),
        ("sizes-unusual", "density-unusual", "giant-object", "out-of-focus"),
    ),
    "mpp ten times too large": Lie(
        _stated(("PIXEL_X = 0.25", "PIXEL_X = 2.5"), ("PIXEL_Y = 0.25", "PIXEL_Y = 2.5")),
        ("mpp-implausible",),
        ("sizes-unusual", "density-unusual", "giant-object", "out-of-focus", "objects-at-rim"),
    ),
    "mpp unequal": Lie(_stated(("PIXEL_Y = 0.25", "PIXEL_Y = 0.5")), ("UnequalPixels",), ("mpp-unequal",)),
    "mpp unequal in a TIFF": Lie(_single(**_TALL_MPP), ("UnequalPixels",), ("mpp-unequal",)),
    "no mpp": Lie(_single(resolution=(1, 1), resolutionunit="none"), ("MissingResolution",)),
    "states fluorescence": Lie(
        _stated(("SLIDE_TYPE_BRIGHTFIELD", "SLIDE_TYPE_FLUORESCENCE")), ("slide-type",)
    ),
    "inverted": Lie(
        _picture(lambda image: 255 - image),
        ("no-clear-field",),
        ("giant-object", "density-unusual", "sizes-unusual"),
    ),
    "fluorescence": Lie(
        _picture(_without_colours), ("no-clear-field",), ("giant-object", "density-unusual", "sizes-unusual")
    ),
    "nearly black": Lie(
        _picture(lambda image: image // 12),
        ("no-clear-field",),
        ("giant-object", "density-unusual", "sizes-unusual", "out-of-focus"),
    ),
    "out of focus": Lie(
        _picture(lambda image: cv2.GaussianBlur(image, (0, 0), 10)),
        ("out-of-focus",),
        ("density-unusual", "sizes-unusual"),
    ),
    "pen across": Lie(_picture(_with_band), ("giant-object",)),
    "glue along the rim": Lie(
        _picture(_with_frame), ("objects-at-rim",), ("density-unusual", "sizes-unusual")
    ),
    "16 bits": Lie(_single(bits=16), ("bit-depth",)),
    "rotated": Lie(_single(extratags=[(274, "H", 1, 6, True)]), ("UnsupportedOrientation",)),
    "focus planes": Lie(_planes, ("planes-left-out",)),
    "levels not marked": Lie(_unmarked_levels, ("levels-missing",)),
    "tiles of 0 bytes": Lie(_tiles(StoredTile.empty, share=0.03), ("tiles-missing",)),
    "many tiles of 0 bytes": Lie(
        _tiles(StoredTile.empty, share=0.3), ("TooManyUnreadableTiles", "tiles-missing")
    ),
    "tiles beyond the file": Lie(_tiles(StoredTile.point_beyond, share=0.03), ("tiles-missing",)),
    "corrupt tiles": Lie(_tiles(StoredTile.corrupt, share=0.03), ("tiles-missing",)),
    "copied under another name": Lie(_copied, ("same-scan",)),
    "cut short": Lie(_cut_short, ("MissingCompanion", "tiles-missing", "TooManyUnreadableTiles")),
    "without its folder": Lie(_without_data, ("MissingCompanion",)),
    "no image": Lie(_text, ("NotASlide",)),
    "ending and index in capitals": Lie(_in_capitals, ()),
    "folder in capitals": Lie(_folder_in_capitals, ()),
    "compressed by WebP": Lie(_webp, ("UnsupportedSlide",)),
    "compressed by JPEG XR": Lie(
        _stated(("IMAGE_FORMAT = JPEG", "IMAGE_FORMAT = JPEGXR")), ("UnsupportedSlide",)
    ),
}
"""Faults by name."""
