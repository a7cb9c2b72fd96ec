"""Export of tiles with bounding boxes as a COCO dataset, for pycocotools, CVAT, FiftyOne and MMDetection."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fossilray.analysis.export.boxes import write_joined
from fossilray.analysis.export.selection import (
    SAVED_JPEG_QUALITY,
    ObjectSelection,
    SelectedObjects,
    file_stems,
)
from fossilray.analysis.export.tiles import (
    BackgroundQuota,
    ExportTile,
    TileCounts,
    TileOptions,
    plan_tiles,
    primary_tiles,
    read_tiles,
    require_slides,
)
from fossilray.core.atomic_files import atomic_folder, atomic_text, make_folder, write_new
from fossilray.core.errors import UsageError
from fossilray.core.name_source import NAME_SOURCE
from fossilray.store import RunStore
from fossilray.store.arrays.jpeg_codec import encode_crop

ANNOTATIONS = "annotations/instances_default.json"
"""The path that CVAT expects in a zipped COCO dataset."""
IMAGES = "images"


def export_coco(
    store: RunStore,
    out: Path,
    *,
    options: TileOptions | None = None,
    where: str | None = None,
    slides: Collection[str] = (),
    head: str | None = None,
) -> TileCounts:
    """Write images/ and annotations/instances_default.json: tiles of slides with bounding boxes.

    Boxes are [x, y, width, height] in pixels of their image. Each image has its slide_id and the square that it shows
    (x_min to y_max, level-0 px of OpenSlide's frame). Each annotation has slide_id, object_id, `whole`, and `primary`,
    which is true for exactly one annotation of every object. Category 1 is `object`, for objects without a genus; the
    classes of the head follow. Memory holds the rows of one slide and one tile.

    Args:
        where: SQL condition on `objects`.
        slides: slide_ids of the slides to export; none: all.
        head: name of the predictions whose genera become categories; None: the newest; `none`: none.

    Raises:
        QueryError: DuckDB refuses the condition.
        RunNotFound: the run has no predictions of this name.
        UsageError: a slide is missing or remote, or `out` is not empty or cannot be written.
        FossilrayError: a slide cannot be opened.
    """
    options = options or TileOptions()
    if out.suffix.lower() == ".json":
        raise UsageError(
            f"{out} is the name of a file, and a COCO dataset is a folder of images and annotations; give a new folder"
        )
    selection = ObjectSelection(store, where=where, slides=slides, head=head)
    require_slides(selection.slides)
    with atomic_folder(out) as made:
        make_folder(made / IMAGES)
        dataset = _Dataset(made, selection, options)
        with atomic_text(made / ANNOTATIONS) as file:
            info = {"description": "Objects found by fossilray"}
            if selection.name_source:
                info[NAME_SOURCE] = selection.name_source
            file.write(f'{{"info":{json.dumps(info)},\n"licenses":[],\n"images":[\n')
            write_joined(file, dataset.write_images())
            file.write('\n],\n"categories":[\n')
            write_joined(file, dataset.categories())
            file.write('\n],\n"annotations":[\n')
            write_joined(file, dataset.annotations())
            file.write("\n]}\n")
        return dataset.counts


@dataclass(frozen=True)
class _WrittenSlide:
    """The images of one slide."""

    first_image: int
    background: int
    """Number of background tiles of the plan that were requested."""
    unreadable: frozenset[tuple[int, int]]
    """Corners of tiles that could not be read."""


class _Dataset:
    """Writes images, then annotations. The plan of a slide is computed twice rather than kept in memory."""

    def __init__(self, out: Path, selection: ObjectSelection, options: TileOptions) -> None:
        self._out, self._selection, self._options = out, selection, options
        # Category 1 is for objects without a genus.
        self._numbers = {genus: number for number, genus in enumerate(selection.classes, start=2)}
        self._written: dict[str, _WrittenSlide] = {}
        self.counts = TileCounts()

    def write_images(self) -> Iterator[dict[str, Any]]:
        """Write the images of all slides and yield their entries."""
        quota = BackgroundQuota(self._options.background)
        stems = file_stems(summary.slide_id for summary in self._selection.slides)
        for objects in self._selection:
            if not objects.table.num_rows:
                continue
            plan = plan_tiles(self._selection, objects, self._options)
            background = quota.take(len(plan.objects), len(plan.background))
            tiles = [*plan.objects, *plan.background[:background]]
            first, missing = self.counts.images + 1, {(tile.x, tile.y) for tile in tiles}
            for read in read_tiles(objects.summary, tiles, self._options, self.counts):
                self.counts.images += 1
                self.counts.background += not len(read.tile.rows)
                missing.remove((read.tile.x, read.tile.y))
                name = f"{stems[objects.summary.slide_id]}-{read.tile.x}-{read.tile.y}.jpg"
                write_new(self._out / IMAGES / name, encode_crop(read.pixels, quality=SAVED_JPEG_QUALITY))
                yield self._image(name, objects, read.tile)
            self._written[objects.summary.slide_id] = _WrittenSlide(first, background, frozenset(missing))

    def categories(self) -> Iterator[dict[str, Any]]:
        for name, number in [("object", 1), *self._numbers.items()]:
            yield {"id": number, "name": name, "supercategory": "palynomorph"}

    def annotations(self) -> Iterator[dict[str, Any]]:
        """Yield the annotations of the images that were written."""
        for objects in self._selection:
            if objects.summary.slide_id not in self._written:
                continue
            written = self._written[objects.summary.slide_id]
            plan = plan_tiles(self._selection, objects, self._options)
            tiles = [*plan.objects, *plan.background[: written.background]]
            readable = [tile for tile in tiles if (tile.x, tile.y) not in written.unreadable]
            yield from self._annotate(objects, list(enumerate(readable, start=written.first_image)))
            self.counts.clipped += objects.clipped

    def _image(self, name: str, objects: SelectedObjects, tile: ExportTile) -> dict[str, Any]:
        return {
            "id": self.counts.images,
            "file_name": name,
            "width": self._options.tile_px,
            "height": self._options.tile_px,
            "slide_id": objects.summary.slide_id,
            "x_min": tile.x,
            "y_min": tile.y,
            "x_max": round(tile.x + tile.side, 3),
            "y_max": round(tile.y + tile.side, 3),
        }

    def _annotate(
        self, objects: SelectedObjects, images: Sequence[tuple[int, ExportTile]]
    ) -> Iterator[dict[str, Any]]:
        """Yield the annotations of one slide's images, which are given with their numbers."""
        best = primary_tiles(images, objects.table.num_rows)
        self.counts.lost += objects.table.num_rows - len(best)
        self.counts.objects += len(best)
        rows: list[Mapping[str, Any]] = objects.table.to_pylist()
        for image, tile in images:
            sides = tile.boxes * self._options.tile_px
            for index, box, whole in zip(
                tile.rows.tolist(), sides.tolist(), tile.whole.tolist(), strict=True
            ):
                row = rows[index]
                self.counts.boxes += 1
                primary = best[index] == image
                self.counts.cut += primary and not whole
                width, height = box[2] - box[0], box[3] - box[1]
                yield {
                    "id": self.counts.boxes,
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
