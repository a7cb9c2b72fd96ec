"""Pieces of slides with the boxes in them as a dataset that ultralytics' YOLO trains on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray

from fossilray.errors import UnreadableRegion, UsageError
from fossilray.export import SAVED_JPEG_QUALITY, choose_slides, classes_of, objects_by_slide
from fossilray.query import connect
from fossilray.records import Image, SlideSummary
from fossilray.slide import Slide, open_slide
from fossilray.sources.slide_sources import is_remote
from fossilray.store import RunStore
from fossilray.store.codec import encode_crop
from fossilray.store.layout import check_slide_id
from fossilray.store.listed_answers import choose_fitting
from fossilray.whole_files import make_folder, whole_folder, write_new

_LEAST_VISIBLE = 0.5
"""Share of a box that must lie in an image to be one there; less of a fossil can hardly be told from debris."""


@dataclass(frozen=True)
class YoloTiles:
    """How the images are cut."""

    tile_px: int = 640
    um_per_px: float = 1.0
    validation: float = 0.2
    """Share of slides, whole wells where there are several, that become the images of `val`."""


@dataclass(frozen=True)
class YoloExport:
    """What was written."""

    images: int
    boxes: int
    unreadable: int
    """Images left out because the slide could not be read there."""


def export_yolo(
    store: RunStore,
    out: Path,
    *,
    tiles: YoloTiles | None = None,
    where: str | None = None,
    slide: str | None = None,
    head: str | None = None,
) -> YoloExport:
    """Write images/, labels/ and data.yaml: every tile of the slides that holds an object, with its boxes.

    Tiles lie edge to edge over the scanned area. A box that a tile's edge cuts is clipped, and left out where less
    than half of it is inside. Objects that `where` leaves out stay in the images without a box. Class 0 is `object`,
    whatever has no genus; with a head its classes follow. One slide's rows and one tile are in memory at a time.

    Raises:
        QueryError: DuckDB refuses the condition.
        RunNotFound: the run has no predictions of this name.
        UsageError: a slide is not where the run found it, or is remote; `out` holds something, or cannot be written.
        FossilrayError: a slide cannot be opened.
    """
    asked = tiles or YoloTiles()
    if asked.tile_px < 32 or not asked.um_per_px > 0 or not 0 < asked.validation < 1:
        raise UsageError(f"{asked} cannot be: tiles of 32 px at least, a scale and a share between 0 and 1")
    chosen = choose_slides(store, slide)
    genera = None if head is None else choose_fitting(store, head, chosen)
    names = ("object", *classes_of(genera))
    number = {name: place for place, name in enumerate(names[1:], start=1)}
    _check_slides(chosen)
    apart = _validation_slides(chosen, asked.validation)
    per_slide = objects_by_slide(
        connect(store, sql=where or ""), store, chosen, where, genera, subtract_bounds=False
    )
    images = boxes = unreadable = 0
    with whole_folder(out) as made:
        for kind in ("images", "labels"):
            for part in ("train", "val"):
                make_folder(made / kind / part)
        for summary, table in per_slide:
            if not table.num_rows:
                continue
            part = "val" if summary.slide_id in apart else "train"
            with open_slide(Path(summary.path), mpp=summary.mpp) as opened:
                for tile in _tiles_with_objects(summary, table, number, asked):
                    try:
                        pixels = _read(opened, tile, asked)
                    except UnreadableRegion:
                        unreadable += 1
                        continue
                    name = f"{check_slide_id(summary.slide_id)}-{tile.x}-{tile.y}"
                    image = encode_crop(pixels, quality=SAVED_JPEG_QUALITY)
                    write_new(made / "images" / part / f"{name}.jpg", image)
                    write_new(made / "labels" / part / f"{name}.txt", _lines(tile))
                    images, boxes = images + 1, boxes + len(tile.classes)
        _write_yaml(made, names, has_validation=bool(apart))
    return YoloExport(images, boxes, unreadable)


@dataclass(frozen=True)
class _Tile:
    x: int
    y: int
    side: float
    """All in level-0 px of OpenSlide's frame."""
    boxes: NDArray[np.float64]
    """(k, 4) centre and size, as shares of the side."""
    classes: NDArray[np.int64]


def _check_slides(slides: Sequence[SlideSummary]) -> None:
    for summary in slides:
        if not summary.objects:
            continue
        if is_remote(summary.path):
            raise UsageError(
                f"images are cut from slides on a disk, and {summary.path} is remote; export another form"
            )
        if not Path(summary.path).exists():
            raise UsageError(
                f"images are cut from the slides, and {summary.path} is not where the run found it; mount it there, or "
                "choose others with --slide"
            )


def _validation_slides(slides: Sequence[SlideSummary], share: float) -> set[str]:
    """Slides kept for validation: whole wells where there are several, else whole slides; none of a single one."""
    several = len({one.well for one in slides if one.objects}) > 1
    groups: dict[str, list[SlideSummary]] = {}
    for one in slides:
        if one.objects:
            groups.setdefault(str(one.well) if several else one.slide_id, []).append(one)
    # The digest of a name is a lottery that draws the same at every export.
    drawn = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest())
    wanted, taken = share * sum(map(len, groups.values())), 0
    apart: set[str] = set()
    for name in drawn[:-1]:
        if apart and taken + len(groups[name]) > wanted:
            break
        apart |= {one.slide_id for one in groups[name]}
        taken += len(groups[name])
    return apart


def _tiles_with_objects(
    summary: SlideSummary, table: pa.Table, number: dict[str, int], asked: YoloTiles
) -> Iterator[_Tile]:
    side = asked.tile_px * asked.um_per_px / summary.mpp
    corners = np.stack([table[name].to_numpy() for name in ("x_min", "y_min", "x_max", "y_max")], axis=1)
    local = corners.astype(np.float64) - [summary.bounds_x, summary.bounds_y] * 2
    genus = table["genus"].to_pylist() if "genus" in table.column_names else [None] * table.num_rows
    classes = np.array([0 if one is None else number.get(one, 0) for one in genus], np.int64)
    first, last = np.floor(local[:, :2] / side).astype(int), np.floor(local[:, 2:] / side).astype(int)
    inside: dict[tuple[int, int], list[int]] = {}
    for row, (low, high) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        for y in range(low[1], high[1] + 1):
            for x in range(low[0], high[0] + 1):
                inside.setdefault((y, x), []).append(row)
    area = (local[:, 2:] - local[:, :2]).prod(axis=1)
    for (y, x), rows in sorted(inside.items()):
        corner = np.array([x * side, y * side])
        low = (local[rows, :2] - corner).clip(0, side)
        high = (local[rows, 2:] - corner).clip(0, side)
        seen = (high - low).prod(axis=1) >= _LEAST_VISIBLE * area[rows]
        if seen.any():
            boxes = np.hstack([(low + high) / 2, high - low])[seen] / side
            left, top = round(summary.bounds_x + corner[0]), round(summary.bounds_y + corner[1])
            yield _Tile(left, top, side, boxes, classes[rows][seen])


def _read(slide: Slide, tile: _Tile, asked: YoloTiles) -> Image:
    level = slide.level_for(asked.um_per_px)
    side = max(1, round(tile.side / slide.info.levels[level].downsample))
    pixels = slide.read(level, tile.x, tile.y, side, side)
    if side == asked.tile_px:
        return pixels
    method = cv2.INTER_AREA if side > asked.tile_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (asked.tile_px, asked.tile_px), interpolation=method))


def _lines(tile: _Tile) -> str:
    """One line a box: class, then centre and size as shares of the image."""
    return "".join(
        f"{number} {' '.join(f'{value:.6f}' for value in box)}\n"
        for number, box in zip(tile.classes.tolist(), tile.boxes.tolist(), strict=True)
    )


def _write_yaml(out: Path, names: Sequence[str], *, has_validation: bool) -> None:
    """`path` is left out: ultralytics then looks from the file's own folder, wherever it is moved."""
    stated = {
        "train": "images/train",
        "val": "images/val" if has_validation else "images/train",
        "names": dict(enumerate(names)),
    }
    note = "" if has_validation else "# A single slide: what is validated on was trained on.\n"
    text = yaml.safe_dump(stated, allow_unicode=True, sort_keys=False)
    write_new(out / "data.yaml", note + text)
