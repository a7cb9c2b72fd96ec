"""Training and probe crops of a training, and its batches in an order that the seed determines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import StoreConfig
from fossilray.core.config.training import NEED_LABELS, TrainConfig, TrainDataConfig
from fossilray.core.errors import StoreError, UsageError
from fossilray.training.crops.fetch import FetchedCrops
from fossilray.training.crops.stream import ALLOWED_FAULTS, CropBatch, CropStream
from fossilray.training.crops.table import CropTable, open_crops


@dataclass(frozen=True)
class DataSplit:
    """Crops for training, and crops to probe the backbone with."""

    training: CropTable
    probe: CropTable | None


class Batches(Protocol):
    """A training's batches, epoch by epoch."""

    @property
    def batches_per_epoch(self) -> int: ...

    @property
    def failed_rows(self) -> frozenset[int]:
        """Rows of the table that could not be decoded so far; other crops replace them."""
        ...

    def epoch(self, number: int, *, start: int = 0) -> Iterator[CropBatch]:
        """Yield the batches of an epoch from number `start` on."""
        ...


def open_training_crops(config: TrainDataConfig) -> CropTable:
    """Open the crops that a training's configuration names.

    Raises:
        UsageError: it names no sources, or they contain no crops.
    """
    if not config.sources:
        raise UsageError(
            "no crops to train on are named; give `--source` (data.sources): a run, a dataset or a folder of "
            "<class>/<image>"
        )
    access = None if config.access is None else StoreConfig(**config.access.model_dump())
    return open_crops(config.sources, where=config.where, curation=config.curation, access=access)


def split_table(table: CropTable, config: TrainConfig) -> DataSplit:
    """Split crops into training and probe crops.

    Probe crops are those of held-out classes, of validation wells, or of sources named for the probe; they are not
    trained on.

    Raises:
        UsageError: A held-out class has no crops, or a method that needs labels has fewer than two classes.
    """
    data = config.data
    training, probe = table, None
    if data.hold_out:
        training, probe = _hold_out(table, data.hold_out)
    elif data.validation_share:
        training, probe = table.split_groups(data.validation_share, seed=config.seed)
    if config.probe.sources:
        probe = open_crops(config.probe.sources)
    if config.method in NEED_LABELS and len(np.unique(training.label[training.label >= 0])) < 2:
        raise UsageError(
            f"method {config.method} needs crops of two classes or more; give folders of <class>/<image>"
        )
    return DataSplit(_with_classes_in_use(training), probe)


def count_labels(table: CropTable) -> list[int]:
    """Return the number of crops of each class."""
    known = table.label[table.label >= 0]
    return [int(count) for count in np.bincount(known, minlength=len(table.classes))]


def make_batches(table: CropTable, config: TrainConfig, *, side_px: int, rank: int, world: int) -> Batches:
    """Return the batches of one worker, with crops of side_px x side_px."""
    if config.method in NEED_LABELS:
        return LabelledBatches(table, config, side_px=side_px, rank=rank, world=world)
    return _stream(table, config, batch=config.batch, side_px=side_px, rank=rank, world=world)


class LabelledBatches:
    """Batches of several classes with several crops each, drawn for every batch; unlabelled crops follow.

    The content of a batch depends on table, seed, epoch, number and rank alone, so an epoch can be resumed at any
    batch. An epoch has as many batches as the labelled crops would fill.
    """

    def __init__(self, table: CropTable, config: TrainConfig, *, side_px: int, rank: int, world: int) -> None:
        self._table, self._config, self._layout = table, config, _layout_of(config)
        self._side_px, self._rank, self._world = side_px, rank, world
        self._label = label = table.label
        self._failed: set[int] = set()
        known = np.flatnonzero(label >= 0)
        self._cached = self._read_all(known)
        usable = known if self._cached is None else known[~self._cached.failed]
        self._cached_row = np.full(len(table), -1, np.int64)
        self._cached_row[known] = np.arange(len(known))
        self._rows_of = {int(c): usable[label[usable] == c] for c in np.unique(label[usable])}
        self._pools = self._class_pools(usable)
        self._count = len(usable)
        self._unlabelled = self._stream_unlabelled()

    @property
    def batches_per_epoch(self) -> int:
        return max(1, self._count // (self._layout.crops * self._world))

    @property
    def failed_rows(self) -> frozenset[int]:
        """Rows of labelled crops that could not be decoded so far."""
        return frozenset(self._failed)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[CropBatch]:
        unlabelled = self._unlabelled_batches(number, start)
        for batch in range(start, self.batches_per_epoch):
            rng = np.random.default_rng([self._config.seed, number, batch, self._rank])
            labelled = self._fetch(
                self._draw(rng) if self._layout.by_class else self._in_order(number, batch)
            )
            yield labelled if unlabelled is None else _concatenate(labelled, next(unlabelled))

    def _draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        classes, crops = self._layout.classes_per_batch, self._layout.crops_per_class
        quotas = np.full(len(self._pools), classes // len(self._pools))
        quotas[: classes % len(self._pools)] += 1
        chosen: list[int] = []
        for pool, quota in zip(self._pools, quotas.tolist(), strict=True):
            chosen += rng.choice(pool, size=quota, replace=quota > len(pool)).tolist()
        rows_by_class = [self._rows_of[c] for c in chosen]
        return np.concatenate(
            [rng.choice(rows, size=crops, replace=len(rows) < crops) for rows in rows_by_class]
        )

    def _in_order(self, number: int, batch: int) -> NDArray[np.int64]:
        """Return a batch of an epoch in which each crop occurs once, except a tail shorter than a batch."""
        usable = np.concatenate(list(self._rows_of.values()))
        order = np.random.default_rng([self._config.seed, number]).permutation(usable)
        first = (batch * self._world + self._rank) * self._layout.crops
        return np.resize(order, max(len(order), first + self._layout.crops))[
            first : first + self._layout.crops
        ]

    def _fetch(self, rows: NDArray[np.int64]) -> CropBatch:
        if self._cached is not None:
            cached = self._cached_row[rows]
            return CropBatch(self._cached.pixels[cached], self._cached.shape[cached], rows, self._label[rows])
        fetched = self._read(rows)
        # Another crop of the batch replaces each that cannot be decoded, so that batches keep their size.
        replacement = np.flatnonzero(~fetched.failed)[0]
        order = np.where(fetched.failed, replacement, np.arange(len(rows)))
        return CropBatch(fetched.pixels[order], fetched.shape[order], rows[order], self._label[rows[order]])

    def _read_all(self, known: NDArray[np.int64]) -> FetchedCrops | None:
        data = self._config.data
        if len(known) * self._side_px**2 * 3 > data.held_gb * 1e9:
            return None
        return self._read(known)

    def _read(self, rows: NDArray[np.int64]) -> FetchedCrops:
        fetched = self._table.fetch(rows, side_px=self._side_px, threads=self._config.data.threads)
        self._failed.update(rows[fetched.failed].tolist())
        share, failed = self._config.data.max_failed_share, len(self._failed)
        allowed = max(ALLOWED_FAULTS, share * len(self._label)) if share else 0
        if fetched.failed.all() or (fetched.faults and failed > allowed):
            first = int(rows[np.flatnonzero(fetched.failed)[0]])
            raise StoreError(
                f"{failed} of {len(self._label)} crops could not be decoded, more than data.max_failed_share={share} "
                f"allows ({self._table.name(first)}: {fetched.faults[0]}); replace them, or raise the share"
            )
        return fetched

    def _class_pools(self, usable: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the classes to draw from in pools: by the group with most crops of a class, or all in one."""
        classes = np.array(sorted(self._rows_of), np.int64)
        if not self._layout.balance_groups:
            return [classes]
        group = self._table.group
        home = np.array([np.bincount(group[self._rows_of[int(c)]]).argmax() for c in classes])
        return [classes[home == g] for g in np.unique(home)]

    def _stream_unlabelled(self) -> CropStream | None:
        if not self._layout.unlabelled:
            return None
        unlabelled = self._table.take(np.flatnonzero(self._table.label < 0))
        if not len(unlabelled):
            raise UsageError(
                "supcon.unlabelled needs unlabelled crops and every crop has a label; name a run as a further source"
            )
        return _stream(
            unlabelled,
            self._config,
            batch=self._layout.unlabelled,
            side_px=self._side_px,
            rank=self._rank,
            world=self._world,
        )

    def _unlabelled_batches(self, number: int, start: int) -> Iterator[CropBatch] | None:
        """Return endless batches, counted over all epochs of the labelled crops."""
        if self._unlabelled is None:
            return None
        return _endless(self._unlabelled, number * self.batches_per_epoch + start)


@dataclass(frozen=True)
class _BatchLayout:
    """The composition of a batch of labelled crops."""

    classes_per_batch: int
    crops_per_class: int
    balance_groups: bool
    unlabelled: int
    by_class: bool
    """Whether classes are drawn first; otherwise crops are drawn whatever their class."""

    @property
    def crops(self) -> int:
        return self.classes_per_batch * self.crops_per_class


def _layout_of(config: TrainConfig) -> _BatchLayout:
    if config.method == "transfer":
        return _BatchLayout(config.batch, 1, False, 0, config.transfer.imbalance == "sampling")
    if config.method == "metric":
        metric = config.metric
        return _BatchLayout(metric.classes_per_batch, metric.crops_per_class, metric.balance_groups, 0, True)
    supcon = config.supcon
    return _BatchLayout(
        supcon.classes_per_batch, supcon.crops_per_class, supcon.balance_groups, supcon.unlabelled, True
    )


def _endless(stream: CropStream, taken: int) -> Iterator[CropBatch]:
    epoch, start = divmod(taken, stream.batches_per_epoch)
    while True:
        yield from stream.epoch(epoch, start=start)
        epoch, start = epoch + 1, 0


def _concatenate(first: CropBatch, second: CropBatch) -> CropBatch:
    return CropBatch(
        np.concatenate([first.pixels, second.pixels]),
        np.concatenate([first.shape, second.shape]),
        np.concatenate([first.row, second.row]),
        np.concatenate([first.label, second.label]),
    )


def _stream(
    table: CropTable, config: TrainConfig, *, batch: int, side_px: int, rank: int, world: int
) -> CropStream:
    return CropStream(
        table,
        batch=batch,
        seed=config.seed,
        side_px=side_px,
        rank=rank,
        world=world,
        buffer=config.data.buffer,
        threads=config.data.threads,
        weighted=config.data.curation is not None,
        max_failed_share=config.data.max_failed_share,
    )


def _hold_out(table: CropTable, names: tuple[str, ...]) -> tuple[CropTable, CropTable]:
    unknown = sorted(set(names) - set(table.classes))
    if unknown:
        raise UsageError(
            f"data.hold_out names {', '.join(unknown)}, but no crop has this label; the classes are "
            f"{', '.join(table.classes)}"
        )
    numbers = [table.classes.index(name) for name in names]
    is_held_out = np.isin(table.label, numbers)
    return table.take(np.flatnonzero(~is_held_out)), table.take(np.flatnonzero(is_held_out))


def _with_classes_in_use(table: CropTable) -> CropTable:
    """Return the table with classes that have no crops removed."""
    label = table.label
    used = np.unique(label[label >= 0])
    number = np.full(len(table.classes) + 1, -1, np.int64)
    number[used] = np.arange(len(used))
    return table.with_labels(number[label], [table.classes[c] for c in used.tolist()])
