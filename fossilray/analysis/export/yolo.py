"""Tiles of slides with the boxes in them as a dataset that ultralytics' YOLO trains on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fossilray.analysis.export.coco import primary_tiles
from fossilray.analysis.export.selection import (
    CORNERS,
    SAVED_JPEG_QUALITY,
    ObjectSelection,
    SlideObjects,
    file_stems,
)
from fossilray.analysis.export.split import Split, split_slides
from fossilray.analysis.export.tiles import (
    BackgroundQuota,
    Tile,
    TileCounts,
    TileImage,
    TileOptions,
    plan_tiles,
    read_tiles,
    require_slides,
)
from fossilray.core.atomic_files import atomic_folder, atomic_text, make_folder, write_new
from fossilray.core.config.choices import SplitBy
from fossilray.core.text import escape_formula
from fossilray.store import RunStore
from fossilray.store.arrays.jpeg_codec import encode_crop

IMAGES_CSV = "images.csv"
PARTS = ("train", "val")


@dataclass(frozen=True)
class YoloExport:
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
    validation: int
    """Images in `val`."""
    split: Split


def export_yolo(
    store: RunStore,
    out: Path,
    *,
    options: TileOptions | None = None,
    validation: float = 0.2,
    split_by: SplitBy = "auto",
    where: str | None = None,
    slide: str | None = None,
    head: str | None = None,
) -> YoloExport:
    """Write images/, labels/, data.yaml and images.csv: tiles of the slides with the boxes in them.

    A box that a tile's edge cuts is clipped, and left out where less than half of it is inside; each object no larger
    than a tile is whole in at least one. Objects that `where` leaves out stay in the images without a box. Class 0 is
    `object`, whatever has no genus; with a head its classes follow. validation: share of the images with objects that
    go to `val`, by `split_slides`. images.csv states the slide and the square of it that each image shows, in level-0
    px of OpenSlide's frame. One slide's rows and one tile are in memory at a time.

    Raises:
        QueryError: DuckDB refuses the condition.
        RunNotFound: the run has no predictions of this name.
        UsageError: a slide is not where the run found it, or is remote; the split cannot be; `out` holds something, or
            cannot be written.
        FossilrayError: a slide cannot be opened.
    """
    options = options or TileOptions()
    selection = ObjectSelection(store, where=where, slide=slide, head=head)
    require_slides(selection.slides)
    wells = {summary.slide_id: str(summary.well) for summary in selection.slides}
    planned = {one.summary.slide_id: _count_images(selection, one, options) for one in selection}
    split = split_slides(planned, wells, share=validation, by=split_by)
    with atomic_folder(out) as made:
        for kind in ("images", "labels"):
            for part in PARTS:
                make_folder(made / kind / part)
        with atomic_text(made / IMAGES_CSV, newline="") as file:
            dataset = _Dataset(made, selection, options, split, csv.writer(file))
            for one in selection:
                dataset.add(one)
        write_new(made / "data.yaml", _yaml(("object", *selection.classes), split, reached=dataset.reached))
    return dataset.exported()


def _count_images(selection: ObjectSelection, one: SlideObjects, options: TileOptions) -> int:
    return len(plan_tiles(selection, one, options).objects) if one.table.num_rows else 0


@dataclass
class _Dataset:
    """Images and labels that grow slide by slide."""

    out: Path
    selection: ObjectSelection
    options: TileOptions
    split: Split
    table: Any
    """A writer of IMAGES_CSV."""
    images: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    background: int = 0
    boxes: int = 0
    objects: int = 0
    lost: int = 0
    cut: int = 0
    clipped: int = 0
    counts: TileCounts = field(default_factory=TileCounts)

    def __post_init__(self) -> None:
        self._stems = file_stems(summary.slide_id for summary in self.selection.slides)
        self._classes = {name: number for number, name in enumerate(self.selection.classes, start=1)}
        # Each part has its own, so that neither lacks tiles without objects.
        self._quotas = {part: BackgroundQuota(self.options.background) for part in PARTS}
        self.table.writerow(["file", "part", "slide_id", "well", *CORNERS, "boxes"])

    @property
    def reached(self) -> float:
        """Share of the images that is validated on."""
        return self.images["val"] / max(sum(self.images.values()), 1)

    def add(self, one: SlideObjects) -> None:
        """Cut the tiles of a slide."""
        if not one.table.num_rows:
            return
        part = "val" if one.summary.slide_id in self.split.validation else "train"
        plan = plan_tiles(self.selection, one, self.options)
        spare = self._quotas[part].take(len(plan.objects), len(plan.background))
        classes = self._numbers(one)
        shown: list[tuple[int, Tile]] = []
        for read in read_tiles(
            one.summary, [*plan.objects, *plan.background[:spare]], self.options, self.counts
        ):
            self._write(read, part, classes)
            shown.append((len(shown) + 1, read.tile))
        best = primary_tiles(shown, one.table.num_rows)
        self.objects += len(best)
        self.lost += one.table.num_rows - len(best)
        self.cut += sum(
            not whole
            for number, tile in shown
            for row, whole in zip(tile.rows.tolist(), tile.whole.tolist(), strict=True)
            if best[row] == number
        )
        self.clipped += one.clipped

    def exported(self) -> YoloExport:
        return YoloExport(
            images=sum(self.images.values()),
            background=self.background,
            boxes=self.boxes,
            objects=self.objects,
            lost=self.lost,
            cut=self.cut,
            clipped=self.clipped,
            unreadable=self.counts.unreadable,
            validation=self.images["val"],
            split=self.split,
        )

    def _numbers(self, one: SlideObjects) -> Sequence[int]:
        if "genus" not in one.table.column_names:
            return [0] * one.table.num_rows
        return [self._classes.get(genus or "", 0) for genus in one.table["genus"].to_pylist()]

    def _write(self, read: TileImage, part: str, classes: Sequence[int]) -> None:
        tile, summary = read.tile, read.summary
        name = f"{self._stems[summary.slide_id]}-{tile.x}-{tile.y}"
        image = encode_crop(read.pixels, quality=SAVED_JPEG_QUALITY)
        write_new(self.out / "images" / part / f"{name}.jpg", image)
        # ultralytics takes an image with an empty file for one that was looked at and shows nothing.
        write_new(self.out / "labels" / part / f"{name}.txt", _lines(tile, classes))
        square = (tile.x, tile.y, round(tile.x + tile.side, 3), round(tile.y + tile.side, 3))
        names = (f"images/{part}/{name}.jpg", part, summary.slide_id, str(summary.well))
        self.table.writerow([*map(escape_formula, names), *square, len(tile.rows)])
        self.images[part] += 1
        self.background += not len(tile.rows)
        self.boxes += len(tile.rows)


def _lines(tile: Tile, classes: Sequence[int]) -> str:
    """One line a box: class, then centre and size as shares of the image."""
    low, high = tile.boxes[:, :2], tile.boxes[:, 2:]
    return "".join(
        f"{classes[row]} {' '.join(f'{value:.6f}' for value in box)}\n"
        for row, box in zip(
            tile.rows.tolist(), np.hstack([(low + high) / 2, high - low]).tolist(), strict=True
        )
    )


def _yaml(names: Sequence[str], split: Split, *, reached: float) -> str:
    """The text of data.yaml.

    `path` is left out: ultralytics then looks from the file's own folder, wherever it is moved.
    """
    apart = split.by != "nothing"
    stated = {
        "train": "images/train",
        "val": "images/val" if apart else "images/train",
        "names": dict(enumerate(names)),
    }
    share = f" {reached:.1%} of the images are validated on." if apart else ""
    return f"# {split.why}{share}\n{yaml.safe_dump(stated, allow_unicode=True, sort_keys=False)}"
