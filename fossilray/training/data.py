"""Which crops a training learns from, which judge it, and its batches, in an order that the seed decides."""

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
from fossilray.training.crops.stream import FORGIVEN_FAULTS, CropBatch, CropStream
from fossilray.training.crops.table import CropTable, open_crops


@dataclass(frozen=True)
class DataSplit:
    """Crops to learn from and crops to judge by."""

    training: CropTable
    probe: CropTable | None


class Batches(Protocol):
    """A training's batches, epoch by epoch."""

    @property
    def batches_per_epoch(self) -> int: ...

    @property
    def failed_rows(self) -> frozenset[int]:
        """Rows of the table that could not be decoded so far; others stood in for them."""
        ...

    def epoch(self, number: int, *, start: int = 0) -> Iterator[CropBatch]:
        """The batches of an epoch, of which `start` were taken before."""
        ...


def open_sources(config: TrainDataConfig) -> CropTable:
    """The crops that a training's configuration names.

    Raises:
        UsageError: it names none, or there are none.
    """
    access = None if config.access is None else StoreConfig(**config.access.model_dump())
    return open_crops(config.sources, where=config.where, curation=config.curation, access=access)


def split_table(table: CropTable, config: TrainConfig) -> DataSplit:
    """Classes held out, or wells kept apart, or crops named for the purpose: they judge and never teach.

    Raises:
        UsageError: a class held out is not there, or a method that needs labels has none.
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
    """Crops of each class."""
    known = table.label[table.label >= 0]
    return [int(count) for count in np.bincount(known, minlength=len(table.classes))]


def make_batches(table: CropTable, config: TrainConfig, *, side_px: int, rank: int, world: int) -> Batches:
    """The batches of one worker, their crops side_px a side."""
    if config.method in NEED_LABELS:
        return LabelledBatches(table, config, side_px=side_px, rank=rank, world=world)
    return _stream(table, config, batch=config.batch, side_px=side_px, rank=rank, world=world)


class LabelledBatches:
    """Batches of some classes and some crops of each, drawn anew for every batch; unlabelled crops follow.

    What a batch holds depends on table, seed, epoch, number and rank alone, so any of them can be had again. An epoch
    is as many batches as the labelled crops would fill.
    """

    def __init__(self, table: CropTable, config: TrainConfig, *, side_px: int, rank: int, world: int) -> None:
        self._table, self._config, self._asked = table, config, _ask(config)
        self._side_px, self._rank, self._world = side_px, rank, world
        self._label = label = table.label
        self._failed: set[int] = set()
        known = np.flatnonzero(label >= 0)
        self._held = self._hold(known)
        usable = known if self._held is None else known[~self._held.failed]
        self._place = np.full(len(table), -1, np.int64)
        self._place[known] = np.arange(len(known))
        self._rows_of = {int(c): usable[label[usable] == c] for c in np.unique(label[usable])}
        self._pools = self._class_pools(usable)
        self._count = len(usable)
        self._unlabelled = self._stream_unlabelled()

    @property
    def batches_per_epoch(self) -> int:
        return max(1, self._count // (self._asked.crops * self._world))

    @property
    def failed_rows(self) -> frozenset[int]:
        """Of the labelled crops."""
        return frozenset(self._failed)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[CropBatch]:
        others = self._unlabelled_batches(number, start)
        for batch in range(start, self.batches_per_epoch):
            rng = np.random.default_rng([self._config.seed, number, batch, self._rank])
            labelled = self._fetch(self._draw(rng) if self._asked.by_class else self._turn(number, batch))
            yield labelled if others is None else _together(labelled, next(others))

    def _draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        wanted, each = self._asked.classes_per_batch, self._asked.crops_per_class
        shares = np.full(len(self._pools), wanted // len(self._pools))
        shares[: wanted % len(self._pools)] += 1
        chosen: list[int] = []
        for pool, share in zip(self._pools, shares.tolist(), strict=True):
            chosen += rng.choice(pool, size=share, replace=share > len(pool)).tolist()
        rows = [self._rows_of[c] for c in chosen]
        return np.concatenate([rng.choice(own, size=each, replace=len(own) < each) for own in rows])

    def _turn(self, number: int, batch: int) -> NDArray[np.int64]:
        """The rows whose turn it is in an epoch that shows every crop once, but for a tail shorter than a batch."""
        usable = np.concatenate(list(self._rows_of.values()))
        order = np.random.default_rng([self._config.seed, number]).permutation(usable)
        first = (batch * self._world + self._rank) * self._asked.crops
        return np.resize(order, max(len(order), first + self._asked.crops))[first : first + self._asked.crops]

    def _fetch(self, rows: NDArray[np.int64]) -> CropBatch:
        if self._held is not None:
            places = self._place[rows]
            return CropBatch(self._held.pixels[places], self._held.shape[places], rows, self._label[rows])
        found = self._read(rows)
        # Another crop of the batch stands in for one that does not decode: batches keep their size.
        stand_in = np.flatnonzero(~found.failed)[0]
        order = np.where(found.failed, stand_in, np.arange(len(rows)))
        return CropBatch(found.pixels[order], found.shape[order], rows[order], self._label[rows[order]])

    def _hold(self, known: NDArray[np.int64]) -> FetchedCrops | None:
        data = self._config.data
        if len(known) * self._side_px**2 * 3 > data.held_gb * 1e9:
            return None
        return self._read(known)

    def _read(self, rows: NDArray[np.int64]) -> FetchedCrops:
        found = self._table.fetch(rows, side_px=self._side_px, threads=self._config.data.threads)
        self._failed.update(rows[found.failed].tolist())
        share, failed = self._config.data.max_failed_share, len(self._failed)
        allowed = max(FORGIVEN_FAULTS, share * len(self._label)) if share else 0
        if found.failed.all() or (found.faults and failed > allowed):
            first = int(rows[np.flatnonzero(found.failed)[0]])
            raise StoreError(
                f"{failed} of {len(self._label)} crops could not be decoded, more than data.max_failed_share={share} "
                f"allows ({self._table.name(first)}: {found.faults[0]}); replace them, or raise the share"
            )
        return found

    def _class_pools(self, usable: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The classes to draw from, by the group that most crops of a class are of; or all in one."""
        classes = np.array(sorted(self._rows_of), np.int64)
        if not self._asked.balance_groups:
            return [classes]
        group = self._table.group
        home = np.array([np.bincount(group[self._rows_of[int(c)]]).argmax() for c in classes])
        return [classes[home == g] for g in np.unique(home)]

    def _stream_unlabelled(self) -> CropStream | None:
        if not self._asked.unlabelled:
            return None
        others = self._table.take(np.flatnonzero(self._table.label < 0))
        if not len(others):
            raise UsageError(
                "supcon.unlabelled asks for unlabelled crops and every crop has a label; name a run too"
            )
        return _stream(
            others,
            self._config,
            batch=self._asked.unlabelled,
            side_px=self._side_px,
            rank=self._rank,
            world=self._world,
        )

    def _unlabelled_batches(self, number: int, start: int) -> Iterator[CropBatch] | None:
        """Batches without end, counted over all epochs of the labelled crops."""
        if self._unlabelled is None:
            return None
        return _endless(self._unlabelled, number * self.batches_per_epoch + start)


@dataclass(frozen=True)
class _Asked:
    """What a batch of labelled crops is made of."""

    classes_per_batch: int
    crops_per_class: int
    balance_groups: bool
    unlabelled: int
    by_class: bool
    """Whether classes are drawn; else crops come one after the other, however they are labelled."""

    @property
    def crops(self) -> int:
        return self.classes_per_batch * self.crops_per_class


def _ask(config: TrainConfig) -> _Asked:
    if config.method == "transfer":
        return _Asked(config.batch, 1, False, 0, config.transfer.imbalance == "sampling")
    if config.method == "metric":
        own = config.metric
        return _Asked(own.classes_per_batch, own.crops_per_class, own.balance_groups, 0, True)
    asked = config.supcon
    return _Asked(
        asked.classes_per_batch, asked.crops_per_class, asked.balance_groups, asked.unlabelled, True
    )


def _endless(stream: CropStream, taken: int) -> Iterator[CropBatch]:
    epoch, start = divmod(taken, stream.batches_per_epoch)
    while True:
        yield from stream.epoch(epoch, start=start)
        epoch, start = epoch + 1, 0


def _together(first: CropBatch, second: CropBatch) -> CropBatch:
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
    absent = sorted(set(names) - set(table.classes))
    if absent:
        raise UsageError(
            f"data.hold_out names {', '.join(absent)}, which no crop is labelled with; the classes are "
            f"{', '.join(table.classes)}"
        )
    number = [table.classes.index(name) for name in names]
    apart = np.isin(table.label, number)
    return table.take(np.flatnonzero(~apart)), table.take(np.flatnonzero(apart))


def _with_classes_in_use(table: CropTable) -> CropTable:
    """The same crops, labelled by the classes they have."""
    label = table.label
    used = np.unique(label[label >= 0])
    number = np.full(len(table.classes) + 1, -1, np.int64)
    number[used] = np.arange(len(used))
    return table.with_labels(number[label], [table.classes[c] for c in used.tolist()])
