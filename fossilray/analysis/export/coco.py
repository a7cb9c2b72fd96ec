"""Tiles of slides with boxes as a COCO dataset, which pycocotools, CVAT, FiftyOne and MMDetection open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fossilray.analysis.export.boxes import write_joined
from fossilray.analysis.export.selection import (
    SAVED_JPEG_QUALITY,
    ObjectSelection,
    SlideObjects,
    file_stems,
)
from fossilray.analysis.export.tiles import (
    BackgroundQuota,
    Tile,
    TileCounts,
    TileOptions,
    plan_tiles,
    read_tiles,
    require_slides,
)
from fossilray.core.atomic_files import atomic_folder, atomic_text, make_folder, write_new
from fossilray.core.errors import UsageError
from fossilray.store import RunStore
from fossilray.store.arrays.jpeg_codec import encode_crop

ANNOTATIONS = "annotations/instances_default.json"
"""Where CVAT looks for it in a zipped COCO dataset."""
IMAGES = "images"


@dataclass(frozen=True)
class CocoExport:
    """What was written."""

    images: int
    background: int
    """Images without an object."""
    boxes: int
    objects: int
    """Objects with a box; in overlapping images one has several."""
    lost: int
    """Objects that are in no image, for the slide could not be read there."""
    cut: int
    """Objects larger than an image: their boxes end at its edge."""
    clipped: int
    """Objects whose box reached beyond the scanned area."""
    unreadable: int
    """Images left out because the slide could not be read there."""


def export_coco(
    store: RunStore,
    out: Path,
    *,
    options: TileOptions | None = None,
    where: str | None = None,
    slide: str | None = None,
    head: str | None = None,
) -> CocoExport:
    """Write images/ and annotations/instances_default.json: tiles of the slides with the boxes in them.

    Boxes are [x, y, width, height] in pixels of their image. Each image states its slide and the square of it that it
    shows (x_min to y_max, level-0 px of OpenSlide's frame); each annotation its slide_id and object_id, `whole`, and
    `primary`, which is true for exactly one annotation of every object. Category 1 is `object`, whatever has no genus;
    with a head its classes follow. One slide's rows and one tile are in memory at a time.

    Raises:
        QueryError: DuckDB refuses the condition.
        RunNotFound: the run has no predictions of this name.
        UsageError: a slide is not where the run found it, or is remote; `out` holds something, or cannot be written.
        FossilrayError: a slide cannot be opened.
    """
    options = options or TileOptions()
    if out.suffix.lower() == ".json":
        raise UsageError(
            f"{out} names a file, and COCO is a folder of images with their annotations; name a new folder"
        )
    selection = ObjectSelection(store, where=where, slide=slide, head=head)
    require_slides(selection.slides)
    with atomic_folder(out) as made:
        make_folder(made / IMAGES)
        dataset = _Dataset(made, selection, options)
        with atomic_text(made / ANNOTATIONS) as file:
            file.write('{"info":{"description":"Objects found by fossilray"},\n"licenses":[],\n"images":[\n')
            write_joined(file, dataset.write_images())
            file.write('\n],\n"categories":[\n')
            write_joined(file, dataset.categories())
            file.write('\n],\n"annotations":[\n')
            write_joined(file, dataset.annotations())
            file.write("\n]}\n")
        return dataset.exported()


@dataclass(frozen=True)
class _Written:
    """What was written of one slide."""

    first_image: int
    background: int
    """How many of the plan's tiles without object were wanted."""
    unreadable: frozenset[tuple[int, int]]
    """Corners of tiles that could not be read."""


class _Dataset:
    """Images on the disk and their annotations; plans are made again rather than held for an archive."""

    def __init__(self, out: Path, selection: ObjectSelection, options: TileOptions) -> None:
        self._out, self._selection, self._options = out, selection, options
        # 1 is whatever has no genus.
        self._numbers = {genus: number for number, genus in enumerate(selection.classes, start=2)}
        self._written: dict[str, _Written] = {}
        self._counts = TileCounts()
        self._images = self._background = self._boxes = self._objects = 0
        self._lost = self._cut = self._clipped = 0

    def write_images(self) -> Iterator[dict[str, Any]]:
        """Cut the tiles of all slides; their entries."""
        quota = BackgroundQuota(self._options.background)
        stems = file_stems(summary.slide_id for summary in self._selection.slides)
        for one in self._selection:
            if not one.table.num_rows:
                continue
            plan = plan_tiles(self._selection, one, self._options)
            spare = quota.take(len(plan.objects), len(plan.background))
            wanted = [*plan.objects, *plan.background[:spare]]
            first, missing = self._images + 1, {(tile.x, tile.y) for tile in wanted}
            for read in read_tiles(one.summary, wanted, self._options, self._counts):
                self._images += 1
                self._background += not len(read.tile.rows)
                missing.remove((read.tile.x, read.tile.y))
                name = f"{stems[one.summary.slide_id]}-{read.tile.x}-{read.tile.y}.jpg"
                write_new(self._out / IMAGES / name, encode_crop(read.pixels, quality=SAVED_JPEG_QUALITY))
                yield self._image(name, one, read.tile)
            self._written[one.summary.slide_id] = _Written(first, spare, frozenset(missing))

    def categories(self) -> Iterator[dict[str, Any]]:
        for name, number in [("object", 1), *self._numbers.items()]:
            yield {"id": number, "name": name, "supercategory": "palynomorph"}

    def annotations(self) -> Iterator[dict[str, Any]]:
        """The boxes in the images that were written."""
        for one in self._selection:
            if one.summary.slide_id not in self._written:
                continue
            written = self._written[one.summary.slide_id]
            plan = plan_tiles(self._selection, one, self._options)
            wanted = [*plan.objects, *plan.background[: written.background]]
            there = [tile for tile in wanted if (tile.x, tile.y) not in written.unreadable]
            yield from self._of_slide(one, list(enumerate(there, start=written.first_image)))
            self._clipped += one.clipped

    def exported(self) -> CocoExport:
        return CocoExport(
            images=self._images,
            background=self._background,
            boxes=self._boxes,
            objects=self._objects,
            lost=self._lost,
            cut=self._cut,
            clipped=self._clipped,
            unreadable=self._counts.unreadable,
        )

    def _image(self, name: str, one: SlideObjects, tile: Tile) -> dict[str, Any]:
        return {
            "id": self._images,
            "file_name": name,
            "width": self._options.tile_px,
            "height": self._options.tile_px,
            "slide_id": one.summary.slide_id,
            "x_min": tile.x,
            "y_min": tile.y,
            "x_max": round(tile.x + tile.side, 3),
            "y_max": round(tile.y + tile.side, 3),
        }

    def _of_slide(self, one: SlideObjects, images: Sequence[tuple[int, Tile]]) -> Iterator[dict[str, Any]]:
        best = primary_tiles(images, one.table.num_rows)
        self._lost += one.table.num_rows - len(best)
        self._objects += len(best)
        rows: list[Mapping[str, Any]] = one.table.to_pylist()
        for image, tile in images:
            sides = tile.boxes * self._options.tile_px
            for index, box, whole in zip(
                tile.rows.tolist(), sides.tolist(), tile.whole.tolist(), strict=True
            ):
                row = rows[index]
                self._boxes += 1
                primary = best[index] == image
                self._cut += primary and not whole
                width, height = box[2] - box[0], box[3] - box[1]
                yield {
                    "id": self._boxes,
                    "image_id": image,
                    "category_id": self._numbers.get(row.get("genus") or "", 1),
                    "bbox": [round(value, 3) for value in (box[0], box[1], width, height)],
                    "area": round(width * height, 3),
                    "iscrowd": 0,
                    "segmentation": [],
                    "score": row["score"],
                    "slide_id": row["slide_id"],
                    "object_id": row["object_id"],
                    "whole": whole,
                    "primary": primary,
                }


def primary_tiles(images: Sequence[tuple[int, Tile]], count: int) -> dict[int, int]:
    """For each of `count` rows that is in an image: the number of the one that shows most of it."""
    shown, best = np.zeros(count), np.zeros(count, np.int64)
    for number, tile in images:
        area = (tile.boxes[:, 2:] - tile.boxes[:, :2]).prod(axis=1) * tile.side**2
        better = area > shown[tile.rows] + 0.5
        shown[tile.rows[better]], best[tile.rows[better]] = area[better], number
    return {row: number for row, number in enumerate(best.tolist()) if number}
