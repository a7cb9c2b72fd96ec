"""Export of tiles with bounding boxes as a dataset for ultralytics' YOLO."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fossilray.analysis.export.selection import (
    CORNERS,
    SAVED_JPEG_QUALITY,
    ObjectSelection,
    SelectedObjects,
    file_stems,
)
from fossilray.analysis.export.split import Split, split_slides
from fossilray.analysis.export.tiles import (
    BackgroundQuota,
    ExportTile,
    TileCounts,
    TileImage,
    TileOptions,
    plan_tiles,
    primary_tiles,
    read_tiles,
    require_slides,
)
from fossilray.core.atomic_files import atomic_folder, atomic_text, make_folder, write_new
from fossilray.core.config.choices import SplitBy
from fossilray.core.name_source import NAME_SOURCE
from fossilray.core.text import escape_formula
from fossilray.store import RunStore
from fossilray.store.arrays.jpeg_codec import encode_crop

IMAGES_CSV = "images.csv"
SUBSETS = ("train", "val")


@dataclass(frozen=True)
class YoloExport:
    """Counts of a YOLO dataset, and its split."""

    tiles: TileCounts
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
    slides: Collection[str] = (),
    head: str | None = None,
) -> YoloExport:
    """Write images/, labels/, data.yaml and images.csv: tiles of slides with bounding boxes.

    A box is clipped at the edge of a tile, and left out if less than half of it is inside. Every object no larger than
    a tile is whole in at least one. Objects that `where` excludes are in the images without a box. Class 0 is `object`,
    for objects without a genus; the classes of the head follow. images.csv has the slide and the square that each image
    shows, in level-0 px of OpenSlide's frame. Memory holds the rows of one slide and one tile.

    Args:
        validation: share of the images with objects in `val`, divided by `split_slides`.
        where: SQL condition on `objects`.
        slides: slide_ids of the slides to export; none: all.
        head: name of the predictions whose genera become classes; None: the newest; `none`: none.

    Raises:
        QueryError: DuckDB refuses the condition.
        RunNotFound: the run has no predictions of this name.
        UsageError: a slide is missing or remote, the split is impossible, or `out` is not empty or cannot be written.
        FossilrayError: a slide cannot be opened.
    """
    options = options or TileOptions()
    selection = ObjectSelection(store, where=where, slides=slides, head=head)
    require_slides(selection.slides)
    wells = {summary.slide_id: str(summary.well) for summary in selection.slides}
    planned = {objects.summary.slide_id: _count_images(selection, objects, options) for objects in selection}
    split = split_slides(planned, wells, share=validation, by=split_by)
    with atomic_folder(out) as made:
        for kind in ("images", "labels"):
            for subset in SUBSETS:
                make_folder(made / kind / subset)
        with atomic_text(made / IMAGES_CSV, newline="") as file:
            dataset = _Dataset(made, selection, options, split, csv.writer(file))
            for objects in selection:
                dataset.add(objects)
        names = ("object", *selection.classes)
        write_new(
            made / "data.yaml", _yaml(names, split, selection.name_source, reached=dataset.validation_share)
        )
    return YoloExport(dataset.counts, dataset.images["val"], split)


def _count_images(selection: ObjectSelection, objects: SelectedObjects, options: TileOptions) -> int:
    return len(plan_tiles(selection, objects, options).objects) if objects.table.num_rows else 0


@dataclass
class _Dataset:
    """Writes images and labels slide by slide."""

    out: Path
    selection: ObjectSelection
    options: TileOptions
    split: Split
    table: Any
    """A writer of IMAGES_CSV."""
    images: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUBSETS, 0))
    """Images of each subset."""
    counts: TileCounts = field(default_factory=TileCounts)

    def __post_init__(self) -> None:
        self._stems = file_stems(summary.slide_id for summary in self.selection.slides)
        self._classes = {name: number for number, name in enumerate(self.selection.classes, start=1)}
        # Each subset has its own quota, so that both have background images.
        self._quotas = {subset: BackgroundQuota(self.options.background) for subset in SUBSETS}
        self.table.writerow(["file", "part", "slide_id", "well", *CORNERS, "boxes"])

    @property
    def validation_share(self) -> float:
        """Share of the images in `val`."""
        return self.images["val"] / max(self.counts.images, 1)

    def add(self, objects: SelectedObjects) -> None:
        """Write the images and labels of a slide."""
        if not objects.table.num_rows:
            return
        subset = "val" if objects.summary.slide_id in self.split.validation else "train"
        plan = plan_tiles(self.selection, objects, self.options)
        background = self._quotas[subset].take(len(plan.objects), len(plan.background))
        tiles = [*plan.objects, *plan.background[:background]]
        classes = self._class_numbers(objects)
        written: list[tuple[int, ExportTile]] = []
        for read in read_tiles(objects.summary, tiles, self.options, self.counts):
            self._write(read, subset, classes)
            written.append((len(written) + 1, read.tile))
        best = primary_tiles(written, objects.table.num_rows)
        self.counts.objects += len(best)
        self.counts.lost += objects.table.num_rows - len(best)
        self.counts.cut += sum(
            not whole
            for number, tile in written
            for row, whole in zip(tile.rows.tolist(), tile.whole.tolist(), strict=True)
            if best[row] == number
        )
        self.counts.clipped += objects.clipped

    def _class_numbers(self, objects: SelectedObjects) -> Sequence[int]:
        if "genus" not in objects.table.column_names:
            return [0] * objects.table.num_rows
        return [self._classes.get(genus or "", 0) for genus in objects.table["genus"].to_pylist()]

    def _write(self, read: TileImage, subset: str, classes: Sequence[int]) -> None:
        tile, summary = read.tile, read.summary
        name = f"{self._stems[summary.slide_id]}-{tile.x}-{tile.y}"
        image = encode_crop(read.pixels, quality=SAVED_JPEG_QUALITY)
        write_new(self.out / "images" / subset / f"{name}.jpg", image)
        # For ultralytics an empty file means an image without objects.
        write_new(self.out / "labels" / subset / f"{name}.txt", _lines(tile, classes))
        square = (tile.x, tile.y, round(tile.x + tile.side, 3), round(tile.y + tile.side, 3))
        names = (f"images/{subset}/{name}.jpg", subset, summary.slide_id, str(summary.well))
        self.table.writerow([*map(escape_formula, names), *square, len(tile.rows)])
        self.images[subset] += 1
        self.counts.images += 1
        self.counts.background += not len(tile.rows)
        self.counts.boxes += len(tile.rows)


def _lines(tile: ExportTile, classes: Sequence[int]) -> str:
    """Return one line per box: class, then centre and size as shares of the image."""
    low, high = tile.boxes[:, :2], tile.boxes[:, 2:]
    return "".join(
        f"{classes[row]} {' '.join(f'{value:.6f}' for value in box)}\n"
        for row, box in zip(
            tile.rows.tolist(), np.hstack([(low + high) / 2, high - low]).tolist(), strict=True
        )
    )


def _yaml(names: Sequence[str], split: Split, name_source: str, *, reached: float) -> str:
    """Return the text of data.yaml.

    It has no `path`, so that ultralytics searches from the folder of the file and the dataset can be moved.
    """
    is_split = split.by != "nothing"
    content = {
        "train": "images/train",
        "val": "images/val" if is_split else "images/train",
        "names": dict(enumerate(names)),
        **({NAME_SOURCE: name_source} if name_source else {}),
    }
    share = f" {reached:.1%} of the images are for validation." if is_split else ""
    return f"# {split.explanation}{share}\n{yaml.safe_dump(content, allow_unicode=True, sort_keys=False)}"
