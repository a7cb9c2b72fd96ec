"""A table of crops over runs, compacted datasets and folders: which there are, whose they are, and their pixels.

State is 10 bytes a crop, 14 with a curation or with labels, 18 with both, so that three billion fit a large machine
once (Ray shares it among the workers there). `rows` spells it all out, for tables that one would print.
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

Number = TypeVar("Number", bound=np.generic)


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
    if isinstance(sources, (str, Path)):
        sources = [sources]
    sources = [str(source) for source in sources]
    if not sources:
        raise UsageError(
            "no crops were named; give run directories, compacted datasets or folders of classes"
        )
    opened: list[tuple[CropSource, SourceRows]] = []
    for place in sources:
        if _is_run(place):
            store = open_run(place, access)
            rows = rows_of_run(store, where=where, curation=curation, access=access or StoreConfig())
            opened.append((RunSource.of(store), rows))
        else:
            folder = FolderSource(Path(place).expanduser())
            opened.append((folder, rows_of_folder(folder)))
    if (where or curation) and not any(isinstance(source, RunSource) for source, _ in opened):
        raise UsageError(
            "a condition or a curation chooses among objects of a run; folders of images have none"
        )
    table = _put_together(opened)
    if not len(table):
        chosen = f" that meet {where!r}" if where else ""
        kept = f" that {curation} keeps" if curation else ""
        raise UsageError(f"{', '.join(sources)} hold no crops{chosen}{kept}; loosen what chooses among them")
    return table


@dataclass(frozen=True)
class CropTable:
    """Crops in the order of their sources, slides and object_ids; equal sources give equal tables."""

    sources: tuple[CropSource, ...]
    units: CropUnits
    unit: NDArray[np.int32]
    """(n,) index into `units`."""
    object_id: NDArray[np.int32]
    """(n,) index of the crop in its slide's arrays; 0 for images."""
    log_aspect: NDArray[np.float16]
    classes: tuple[str, ...]
    """What `label` counts, sorted."""
    known_label: NDArray[np.int32] | None
    """`label`, where any is known."""
    known_weight: NDArray[np.float32] | None
    """`weight`, where a curation gave any."""
    without_pixels: int
    """Objects left out because no level of their slide could give their pixels."""

    def __len__(self) -> int:
        return len(self.unit)

    @property
    def label(self) -> NDArray[np.int64]:
        """(n,) index into `classes`, -1 where unknown."""
        if self.known_label is None:
            return np.broadcast_to(np.int64(-1), len(self))
        return self.known_label.astype(np.int64)

    def label_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """`label` of some rows alone."""
        if self.known_label is None:
            return np.full(len(rows), -1, np.int64)
        return self.known_label[rows].astype(np.int64)

    @property
    def weight(self) -> NDArray[np.float32]:
        """(n,) how much each crop counts; 1 without a curation."""
        if self.known_weight is None:
            return np.broadcast_to(np.float32(1), len(self))
        return self.known_weight

    @property
    def group(self) -> NDArray[np.int32]:
        """(n,) index into `units.groups`: the well of each crop, or its folder."""
        return self.units.group[self.unit]

    @property
    def reader(self) -> CropReader:
        """What reads and decodes the crops."""
        return CropReader(self.sources, self.units)

    def refs(self, rows: NDArray[np.int64]) -> CropRefs:
        """Where some crops lie, with their true width and height, the longer 1 (of images only the bytes tell)."""
        aspect = np.exp(self.log_aspect[rows].astype(np.float32))
        shape = np.stack([np.minimum(aspect, 1), np.minimum(1 / aspect, 1)], axis=1)
        return CropRefs(self.unit[rows], self.object_id[rows], shape)

    @property
    def stored_px(self) -> int | None:
        """Side of the stored crops; None where they differ."""
        sides = {source.stored_px for source in self.sources}
        return sides.pop() if len(sides) == 1 else None

    @property
    def rows(self) -> pa.Table:
        """source, slide_id, object_id, group, label, weight; repeated text as dictionaries. 24 bytes a crop."""
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
        """What to call a crop in a message or a caption."""
        unit = int(self.unit[row])
        place = f"{self.sources[int(self.units.source[unit])].url}: {self.units.name[unit]}"
        is_image = isinstance(self.sources[int(self.units.source[unit])], FolderSource)
        return place if is_image else f"{place}, object {int(self.object_id[row])}"

    def take(self, indices: NDArray[np.integer] | NDArray[np.bool_] | Sequence[int]) -> CropTable:
        """The crops that indices or a mask name, in the order given."""
        which = np.asarray(indices)
        return replace(
            self,
            unit=self.unit[which],
            object_id=self.object_id[which],
            log_aspect=self.log_aspect[which],
            known_label=None if self.known_label is None else self.known_label[which],
            known_weight=None if self.known_weight is None else self.known_weight[which],
        )

    def with_labels(self, label: NDArray[np.integer], classes: Sequence[str]) -> CropTable:
        """The same crops with these labels, -1 where unknown."""
        if label.shape != (len(self),) or (len(label) and label.max() >= len(classes)):
            raise ValueError(f"{label.shape} labels of {len(classes)} classes do not fit {len(self)} crops")
        return replace(self, classes=tuple(classes), known_label=label.astype(np.int32))

    def split_groups(self, share: float, *, seed: int) -> tuple[CropTable, CropTable]:
        """Training and validation crops: whole wells (folders) for validation, about `share` of all crops.

        Where there is only one: images of a folder by class, slides of a run whole.

        Raises:
            UsageError: there is nothing to divide.
        """
        if not 0 < share < 1:
            raise UsageError(
                f"{share} of the crops cannot be kept for validation; give a share between 0 and 1"
            )
        rng = np.random.default_rng(seed)
        if len(np.unique(self.group)) > 1:
            apart = _whole_groups(self.group, share, rng)
        elif self.known_label is not None and (self.known_label >= 0).all():
            apart = _by_class(self.known_label, share, rng)
        elif len(np.unique(self.unit)) > 1:
            apart = _whole_groups(self.unit, share, rng)
        else:
            raise UsageError(
                "all crops are of one slide, which cannot be divided into training and validation; add slides of other "
                "wells, or train without validation"
            )
        return self.take(np.flatnonzero(~apart)), self.take(np.flatnonzero(apart))

    def fetch(self, rows: NDArray[np.int64], *, side_px: int | None = None, threads: int = 4) -> FetchedCrops:
        """The pixels of some crops in the order asked for; those that do not decode are grey and marked.

        side_px: None keeps the stored size.

        Raises:
            UsageError: no size was given and the sources have several.
            StoreUnreachable: a store does not answer.
        """
        side = side_px or self.stored_px
        if side is None:
            raise UsageError("these crops are of several sizes; say at which side (px) they are wanted")
        return self.reader.fetch(self.refs(np.asarray(rows)), side_px=side, threads=threads)


def _is_run(place: str) -> bool:
    if is_remote(place):
        return True  # images lie on a disk
    folder = Path(local_path(place)).expanduser()
    return any((folder / name).exists() for name in (RUN_JSON, DATASET_JSON, UNFINISHED_JSON))


def _put_together(opened: Sequence[tuple[CropSource, SourceRows]]) -> CropTable:
    rows = [one for _, one in opened]
    groups = sorted({group for one in rows for group in one.group})
    classes = sorted({name for one in rows for name in one.label or ()})
    first_unit = np.cumsum([0, *(len(one.name) for one in rows)])
    units = CropUnits(
        source=np.repeat(np.arange(len(rows), dtype=np.int32), [len(one.name) for one in rows]),
        name=tuple(name for one in rows for name in one.name),
        place=tuple(place for one in rows for place in one.place),
        group=_numbered([group for one in rows for group in one.group], groups),
        groups=tuple(groups),
    )
    labels = [
        np.full(len(one.unit), -1, np.int32) if one.label is None else _numbered(one.label, classes)
        for one in rows
    ]
    weights = [np.ones(len(one.unit), np.float32) if one.weight is None else one.weight for one in rows]
    return CropTable(
        sources=tuple(source for source, _ in opened),
        units=units,
        unit=_joined(
            [
                one.unit + np.int32(first) if first else one.unit
                for one, first in zip(rows, first_unit, strict=False)
            ]
        ),
        object_id=_joined([one.object_id for one in rows]),
        log_aspect=_joined([one.log_aspect for one in rows]),
        classes=tuple(classes),
        known_label=_joined(labels) if classes else None,
        known_weight=_joined(weights) if any(one.weight is not None for one in rows) else None,
        without_pixels=sum(one.without_pixels for one in rows),
    )


def _joined(parts: Sequence[NDArray[Number]]) -> NDArray[Number]:
    # A single source's arrays may fill half the memory, so they are not copied.
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _numbered(names: Sequence[str], known: Sequence[str]) -> NDArray[np.int32]:
    number = {name: i for i, name in enumerate(known)}
    return np.fromiter((number[name] for name in names), np.int32, count=len(names))


def _whole_groups(group: NDArray[np.int32], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Rows of groups drawn at random while that brings their number nearer to `share`; one at least, never all."""
    size = np.bincount(group)
    present = rng.permutation(np.flatnonzero(size))
    wanted, taken = share * len(group), 0
    chosen: list[int] = []
    for one in present[:-1].tolist():
        if abs(taken + size[one] - wanted) < abs(taken - wanted):
            chosen.append(one)
            taken += int(size[one])
    return np.isin(group, chosen or [present[np.argmin(size[present])]])


def _by_class(label: NDArray[np.int32], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """About `share` of each class, drawn at random; a class of one stays in training."""
    apart = np.zeros(len(label), bool)
    for one in np.unique(label):
        members = rng.permutation(np.flatnonzero(label == one))
        count = min(len(members) - 1, max(1, round(share * len(members))))
        apart[members[:count]] = True
    return apart
