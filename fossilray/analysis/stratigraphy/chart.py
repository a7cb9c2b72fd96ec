"""Everything that a chart of a well shows, worked out: taxa, shares with intervals, occurrences, diversity, zones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.confusion import Confusion, match_confusion, recorded_confusion
from fossilray.analysis.stratigraphy.diversity import Diversity, describe_diversity, round_counts
from fossilray.analysis.stratigraphy.intervals import LEVEL, ShareEstimate, estimate_shares
from fossilray.analysis.stratigraphy.samples import WellSamples, gather_samples
from fossilray.analysis.stratigraphy.taxonomy import Rank, TaxonGrouping, Taxonomy, group_taxa
from fossilray.analysis.stratigraphy.zones import FEWEST_SAMPLES, Zonation, find_zones
from fossilray.core.errors import UsageError
from fossilray.store import RunStore

Order = Literal["last-occurrence", "first-occurrence", "abundance", "name"]
ORDERS: tuple[Order, ...] = get_args(Order)
FEWEST_OBJECTS = 50


@dataclass(frozen=True)
class ChartOptions:
    """How a well is charted."""

    taxonomy: Taxonomy | None = None
    rank: Rank = "genus"
    leave_out: tuple[str, ...] = ()
    order: Order = "last-occurrence"
    confusion: Confusion | None = None
    """Instead of the one that the predictions state."""
    is_corrected: bool = True
    """Where a confusion is known."""
    level: float = LEVEL
    fewest: int = FEWEST_OBJECTS
    """Samples of fewer objects have bars without filling, and no say in zones and correlation."""
    zones: int | None = None
    seed: int = 0
    depths: Mapping[str, float] = field(default_factory=dict)
    head: str | None = None


@dataclass(frozen=True)
class WellChart:
    """A well as it is drawn; rows are samples from the top down, columns taxa in the order of the chart."""

    found: WellSamples
    options: ChartOptions
    confusion: Confusion | None
    rolled: TaxonGrouping
    taxa: tuple[str, ...]
    groups: tuple[str, ...]
    counted: NDArray[np.int64]
    """(samples, taxa) objects that were called so."""
    estimate: ShareEstimate
    last: tuple[int | None, ...]
    """The topmost sample in which a taxon is for sure; None where it is in none."""
    first: tuple[int | None, ...]
    """The lowest one."""
    diversity: tuple[Diversity, ...]
    effort: int
    """Objects to which samples are rarefied."""
    full: tuple[int, ...]
    """Rows of samples that have enough objects."""
    zonation: Zonation | None
    """Of the samples in `full`; None where they are too few."""

    @property
    def well(self) -> str:
        return self.found.well

    @property
    def counts(self) -> NDArray[np.float64]:
        """(samples, taxa) objects of each taxon, corrected where the shares are; 0 in a barren sample."""
        return np.nan_to_num(self.estimate.shares * self.estimate.objects[:, None])

    @property
    def borders_m(self) -> list[float]:
        """Depths of the borders of zones, halfway between their samples."""
        if self.zonation is None:
            return []
        depths = self.found.depths[list(self.full)]
        return [float((depths[row] + depths[row + 1]) / 2) for row in self.zonation.borders]


def compute_chart(store: RunStore, well: str, options: ChartOptions) -> WellChart:
    """One well of a run, worked out.

    Raises:
        UsageError: see `gather_samples`, `match_confusion` and `roll_up`; or all taxa are left out.
    """
    found = gather_samples(store, well, head=options.head, depths=options.depths)
    confusion = options.confusion or recorded_confusion(found.predictions.answers.record.head)
    if not options.is_corrected:
        confusion = None
    labels: Sequence[str] = found.labels
    if confusion is not None:
        confusion = match_confusion(confusion, labels)
        labels = confusion.classes
    rolled = group_taxa(labels, options.taxonomy, rank=options.rank, leave_out=options.leave_out)
    if not rolled.taxa:
        raise UsageError("every taxon is left out, so there is nothing to chart; leave out fewer")
    member_of = np.array(rolled.member_of, np.int64)
    estimate = estimate_shares(
        found.calls,
        member_of,
        len(rolled.taxa),
        confusion=confusion,
        level=options.level,
        rng=np.random.default_rng(options.seed),
    )
    counted = np.zeros((len(found.calls), len(rolled.taxa)), np.int64)
    for label, taxon in enumerate(rolled.member_of[: found.calls.shape[1]]):
        if taxon >= 0:
            counted[:, taxon] += found.calls[:, label]
    occurs = estimate.certain_low > 0
    last, first = _ends(occurs), _ends(occurs[::-1])
    first = [None if row is None else len(occurs) - 1 - row for row in first]
    # A taxon that no sample may hold has no column.
    shown = [taxon for taxon in range(len(rolled.taxa)) if counted[:, taxon].any() or last[taxon] is not None]
    order = sorted(shown, key=_sort_key(options.order, rolled, estimate, last, first))
    estimate = ShareEstimate(
        estimate.shares[:, order],
        estimate.low[:, order],
        estimate.high[:, order],
        estimate.certain_low[:, order],
        estimate.objects,
    )
    totals = np.round(estimate.objects).astype(int)
    full = tuple(int(row) for row in np.flatnonzero((totals >= options.fewest) & (totals > 0)))
    effort = int(totals[list(full)].min()) if full else 0
    enough = len(full) >= FEWEST_SAMPLES and len(order) > 1
    return WellChart(
        found=found,
        options=options,
        confusion=confusion,
        rolled=rolled,
        taxa=tuple(rolled.taxa[taxon] for taxon in order),
        groups=tuple(rolled.groups[taxon] for taxon in order),
        counted=counted[:, order],
        estimate=estimate,
        last=tuple(last[taxon] for taxon in order),
        first=tuple(first[taxon] for taxon in order),
        diversity=tuple(
            describe_diversity(round_counts(shares, total), effort=effort)
            for shares, total in zip(estimate.shares, totals.tolist(), strict=True)
        ),
        effort=effort,
        full=full,
        zonation=find_zones(_whole(estimate.shares[list(full)]), number=options.zones) if enough else None,
    )


def _whole(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares that add up to 1 again once taxa without a column are gone."""
    total = shares.sum(axis=1, keepdims=True)
    whole: NDArray[np.float64] = shares / np.maximum(total, 1e-300)
    return whole


def _ends(occurs: NDArray[np.bool_]) -> list[int | None]:
    """The first row of each column that is true."""
    return [int(np.argmax(column)) if column.any() else None for column in occurs.T]


def _sort_key(  # type: ignore[no-untyped-def]
    order: Order,
    rolled: TaxonGrouping,
    estimate: ShareEstimate,
    last: Sequence[int | None],
    first: Sequence[int | None],
):
    """How taxa stand from left to right; those that are nowhere for sure stand at the end."""
    mean = np.nan_to_num(estimate.shares).mean(axis=0)

    def key(taxon: int) -> tuple[float, float, float, str]:
        top, base = last[taxon], first[taxon]
        never = float(top is None)
        match order:
            case "name":
                return 0, 0, 0, rolled.taxa[taxon].casefold()
            case "abundance":
                return 0, -mean[taxon], 0, rolled.taxa[taxon]
            case "first-occurrence":
                return never, -float(base or 0), -float(top or 0), rolled.taxa[taxon]
            case _:
                return never, float(top or 0), float(base or 0), rolled.taxa[taxon]

    return key
