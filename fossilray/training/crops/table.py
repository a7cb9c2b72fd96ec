"""A table of crops from runs, compacted datasets and folders, with labels, weights and access to the pixels.

The table takes 10 bytes a crop, 14 with a curation or with labels, 18 with both. Three billion crops fit in the memory
of a large machine, where Ray shares the table among workers. `rows` returns it with all names as an Arrow table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.core.config import StoreConfig
from fossilray.core.errors import UsageError
from fossilray.store import open_run
from fossilray.store.dataset.dataset_store import DATASET_JSON, UNFINISHED_JSON
from fossilray.store.files.base import is_remote, local_path
from fossilray.store.run.layout import RUN_JSON
from fossilray.training.crops.fetch import CropReader, CropRefs, CropUnits, FetchedCrops
from fossilray.training.crops.rows import SourceRows, rows_of_folder, rows_of_run
from fossilray.training.crops.sources import CropSource, FolderSource, RunSource

_Number = TypeVar("_Number", bound=np.generic)


def open_crops(
    sources: str | Path | Sequence[str | Path],
    *,
    where: str | None = None,
    curation: str | None = None,
    access: StoreConfig | None = None,
) -> CropTable:
    """Open the crops of runs, compacted datasets and folders of `<class>/<image>` as one table.

    Objects without pixels are left out. No pixel is read yet.

    Args:
        sources: one path or URL, or several.
        where: condition on the columns of `objects`; it selects among the objects of runs.
        curation: Parquet file with slide_id, object_id, keep and weight, as `fossilray curate` writes it; crops of runs
            that it does not keep are left out.
        access: how object stores are reached.

    Returns:
        The table. `len()` is the number of crops; `classes` and `label` (n,) are the genera, -1 where a crop has none;
        `split_groups(share, seed=…)` divides it by whole wells; `fetch(rows, side_px=…)` reads pixels (n, S, S, 3)
        uint8 RGB; `rows` is a `pyarrow.Table` of all crops.

    Raises:
        UsageError: there is no source, no crop left, or no run to which `where` or `curation` applies.
        QueryError: DuckDB refuses the condition.
        StoreError: a run cannot be read.

    Example:
        >>> import fossilray, numpy
        >>> crops = fossilray.open_crops("census", where="isolated")
        >>> pixels = crops.fetch(numpy.arange(8), side_px=96).pixels
    """
    urls = [str(source) for source in ([sources] if isinstance(sources, (str, Path)) else sources)]
    if not urls:
        raise UsageError(
            "no crops were named; give run directories, compacted datasets or folders of classes"
        )
    opened: list[tuple[CropSource, SourceRows]] = []
    for url in urls:
        if _is_run(url):
            store = open_run(url, access)
            rows = rows_of_run(store, where=where, curation=curation, access=access or StoreConfig())
            opened.append((RunSource.of(store), rows))
        else:
            folder = FolderSource(Path(url).expanduser())
            opened.append((folder, rows_of_folder(folder)))
    if (where or curation) and not any(isinstance(source, RunSource) for source, _ in opened):
        raise UsageError(
            "a condition or a curation selects objects of a run, and no source is a run; add a run or leave them out"
        )
    table = _concatenate(opened)
    if not len(table):
        selected = f" that meet {where!r}" if where else ""
        kept = f" that {curation} keeps" if curation else ""
        raise UsageError(f"{', '.join(urls)} contain no crops{selected}{kept}; relax the selection")
    return table


@dataclass(frozen=True)
class CropTable:
    """Crops sorted by source, slide and object_id; equal sources give equal tables."""

    sources: tuple[CropSource, ...]
    units: CropUnits
    unit: NDArray[np.int32]
    """(n,) index into `units`."""
    object_id: NDArray[np.int32]
    """(n,) index of the crop in its slide's arrays; 0 for images."""
    log_aspect: NDArray[np.float16]
    """(n,) natural logarithm of original width over height; 0 for images, and for crops that were not stretched."""
    classes: tuple[str, ...]
    """Names of the classes, sorted."""
    known_label: NDArray[np.int32] | None
    """(n,) `label`; None if no label is known."""
    known_weight: NDArray[np.float32] | None
    """(n,) `weight`; None without a curation."""
    without_pixels: int
    """Objects left out because their pixels could not be read at any level."""

    def __len__(self) -> int:
        return len(self.unit)

    @property
    def label(self) -> NDArray[np.int64]:
        """(n,) index into `classes`, -1 where unknown."""
        if self.known_label is None:
            return np.broadcast_to(np.int64(-1), len(self))
        return self.known_label.astype(np.int64)

    def label_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels of rows, -1 where unknown."""
        if self.known_label is None:
            return np.full(len(rows), -1, np.int64)
        return self.known_label[rows].astype(np.int64)

    @property
    def weight(self) -> NDArray[np.float32]:
        """(n,) weight of each crop; 1 without a curation."""
        if self.known_weight is None:
            return np.broadcast_to(np.float32(1), len(self))
        return self.known_weight

    @property
    def group(self) -> NDArray[np.int32]:
        """(n,) index into `units.groups`: the well of each crop, or its folder."""
        return self.units.group[self.unit]

    @property
    def reader(self) -> CropReader:
        """The reader and decoder of the crops."""
        return CropReader(self.sources, self.units)

    def refs(self, rows: NDArray[np.int64]) -> CropRefs:
        """Return references to crops, with original width and height, the longer one 1 (1 x 1 for images)."""
        aspect = np.exp(self.log_aspect[rows].astype(np.float32))
        shape = np.stack([np.minimum(aspect, 1), np.minimum(1 / aspect, 1)], axis=1)
        return CropRefs(self.unit[rows], self.object_id[rows], shape)

    @property
    def stored_px(self) -> int | None:
        """Side of the stored crops; None if they differ."""
        sides = {source.stored_px for source in self.sources}
        return sides.pop() if len(sides) == 1 else None

    @property
    def rows(self) -> pa.Table:
        """Arrow table of source, slide_id, object_id, group, label and weight; 24 bytes a crop."""
        units, unit = self.units, pa.array(self.unit)
        known = None if self.known_label is None else self.known_label < 0
        label = pa.nulls(len(self), pa.int32()) if known is None else pa.array(self.known_label, mask=known)
        return pa.table(
            {
                "source": pa.array(units.source[self.unit]),
                "slide_id": pa.DictionaryArray.from_arrays(unit, pa.array(units.name, pa.string())),
                "object_id": pa.array(self.object_id),
                "group": pa.DictionaryArray.from_arrays(
                    pa.array(self.group), pa.array(units.groups, pa.string())
                ),
                "label": pa.DictionaryArray.from_arrays(label, pa.array(self.classes, pa.string())),
                "weight": pa.array(self.weight),
            }
        )

    def name(self, row: int) -> str:
        """Return the name of a crop for messages and captions."""
        unit = int(self.unit[row])
        source = self.sources[int(self.units.source[unit])]
        name = f"{source.url}: {self.units.name[unit]}"
        return name if isinstance(source, FolderSource) else f"{name}, object {int(self.object_id[row])}"

    def take(self, indices: NDArray[np.integer] | NDArray[np.bool_] | Sequence[int]) -> CropTable:
        """Return the crops at indices, in their order, or where a mask is true."""
        index = np.asarray(indices)
        return replace(
            self,
            unit=self.unit[index],
            object_id=self.object_id[index],
            log_aspect=self.log_aspect[index],
            known_label=None if self.known_label is None else self.known_label[index],
            known_weight=None if self.known_weight is None else self.known_weight[index],
        )

    def with_labels(self, label: NDArray[np.integer], classes: Sequence[str]) -> CropTable:
        """Return the table with other labels (n,), -1 where unknown."""
        if label.shape != (len(self),) or (len(label) and label.max() >= len(classes)):
            raise ValueError(f"{label.shape} labels of {len(classes)} classes do not fit {len(self)} crops")
        return replace(self, classes=tuple(classes), known_label=label.astype(np.int32))

    def split_groups(self, share: float, *, seed: int) -> tuple[CropTable, CropTable]:
        """Split into training and validation crops, with about `share` of all crops for validation.

        Wells (or folders) stay whole. With a single one, images of a folder are split by class, and slides of a run
        stay whole.

        Raises:
            UsageError: There is only one slide, or `share` is not between 0 and 1.
        """
        if not 0 < share < 1:
            raise UsageError(f"the share of validation crops is {share}; give one between 0 and 1")
        rng = np.random.default_rng(seed)
        if len(np.unique(self.group)) > 1:
            is_validation = _choose_groups(self.group, share, rng)
        elif self.known_label is not None and (self.known_label >= 0).all():
            is_validation = _choose_by_class(self.known_label, share, rng)
        elif len(np.unique(self.unit)) > 1:
            is_validation = _choose_groups(self.unit, share, rng)
        else:
            raise UsageError(
                "all crops are of one slide, which cannot be split into training and validation; add slides of other "
                "wells, or train without validation"
            )
        return self.take(np.flatnonzero(~is_validation)), self.take(np.flatnonzero(is_validation))

    def fetch(self, rows: NDArray[np.int64], *, side_px: int | None = None, threads: int = 4) -> FetchedCrops:
        """Read and decode crops in the order of `rows`; crops that cannot be decoded are grey and marked.

        Args:
            rows: Row numbers.
            side_px: Side of the decoded crops; by default the stored one.
            threads: Threads that read and decode.

        Raises:
            UsageError: `side_px` is not given and the sources store several sizes.
            StoreUnreachable: A store does not respond.
        """
        side = side_px or self.stored_px
        if side is None:
            raise UsageError("these crops have several sizes; give side_px")
        return self.reader.fetch(self.refs(np.asarray(rows)), side_px=side, threads=threads)


def _is_run(url: str) -> bool:
    if is_remote(url):
        return True  # folders of images are local
    folder = Path(local_path(url)).expanduser()
    return any((folder / name).exists() for name in (RUN_JSON, DATASET_JSON, UNFINISHED_JSON))


def _concatenate(opened: Sequence[tuple[CropSource, SourceRows]]) -> CropTable:
    tables = [rows for _, rows in opened]
    groups = sorted({group for rows in tables for group in rows.group})
    classes = sorted({name for rows in tables for name in rows.label or ()})
    first_unit = np.cumsum([0, *(len(rows.name) for rows in tables)])
    units = CropUnits(
        source=np.repeat(np.arange(len(tables), dtype=np.int32), [len(rows.name) for rows in tables]),
        name=tuple(name for rows in tables for name in rows.name),
        path=tuple(path for rows in tables for path in rows.path),
        group=_number_names([group for rows in tables for group in rows.group], groups),
        groups=tuple(groups),
    )
    labels = [
        np.full(len(rows.unit), -1, np.int32) if rows.label is None else _number_names(rows.label, classes)
        for rows in tables
    ]
    weights = [np.ones(len(rows.unit), np.float32) if rows.weight is None else rows.weight for rows in tables]
    return CropTable(
        sources=tuple(source for source, _ in opened),
        units=units,
        unit=_joined(
            [
                rows.unit + np.int32(first) if first else rows.unit
                for rows, first in zip(tables, first_unit, strict=False)
            ]
        ),
        object_id=_joined([rows.object_id for rows in tables]),
        log_aspect=_joined([rows.log_aspect for rows in tables]),
        classes=tuple(classes),
        known_label=_joined(labels) if classes else None,
        known_weight=_joined(weights) if any(rows.weight is not None for rows in tables) else None,
        without_pixels=sum(rows.without_pixels for rows in tables),
    )


def _joined(arrays: Sequence[NDArray[_Number]]) -> NDArray[_Number]:
    # The arrays of a single source can fill half the memory, so they are not copied.
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _number_names(names: Sequence[str], known: Sequence[str]) -> NDArray[np.int32]:
    number = {name: i for i, name in enumerate(known)}
    return np.fromiter((number[name] for name in names), np.int32, count=len(names))


def _choose_groups(group: NDArray[np.int32], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose random groups with about `share` of all rows, at least one group and never all; return a mask of rows."""
    size = np.bincount(group)
    present = rng.permutation(np.flatnonzero(size))
    target, total = share * len(group), 0
    chosen: list[int] = []
    for candidate in present[:-1].tolist():
        if abs(total + size[candidate] - target) < abs(total - target):
            chosen.append(candidate)
            total += int(size[candidate])
    return np.isin(group, chosen or [present[np.argmin(size[present])]])


def _choose_by_class(label: NDArray[np.int32], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose about `share` of each class at random, none of a class of one; return a mask of rows."""
    mask = np.zeros(len(label), bool)
    for number in np.unique(label):
        members = rng.permutation(np.flatnonzero(label == number))
        count = min(len(members) - 1, max(1, round(share * len(members))))
        mask[members[:count]] = True
    return mask
