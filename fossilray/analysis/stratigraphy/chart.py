"""The numbers of a well's chart: taxa, shares with intervals, ranges, diversity and zones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.concentrations import (
    Concentrations,
    estimate_concentrations,
    find_markers,
)
from fossilray.analysis.stratigraphy.confusion import Confusion, match_confusion, recorded_confusion
from fossilray.analysis.stratigraphy.diversity import Diversity, describe_diversity, round_counts
from fossilray.analysis.stratigraphy.intervals import LEVEL, ShareEstimate, estimate_shares
from fossilray.analysis.stratigraphy.ranges import TaxonRange, find_ranges
from fossilray.analysis.stratigraphy.samples import WellSamples, gather_samples
from fossilray.analysis.stratigraphy.taxon_grouping import TaxonGrouping, group_taxa
from fossilray.analysis.stratigraphy.zones import MIN_SAMPLES, Zonation, find_zones
from fossilray.core.config.choices import TaxonOrder, TaxonRank
from fossilray.core.errors import UsageError
from fossilray.labels.taxonomy import Taxonomy
from fossilray.store import RunStore

MIN_OBJECTS = 50


@dataclass(frozen=True)
class ChartOptions:
    """Options of a well's chart."""

    taxonomy: Taxonomy | None = None
    rank: TaxonRank = "genus"
    leave_out: tuple[str, ...] = ()
    order: TaxonOrder = "last-occurrence"
    confusion: Confusion | None = None
    """Replaces the confusion matrix in the record of the predictions."""
    is_corrected: bool = True
    """Correct counts for the confusion matrix, if one is known."""
    level: float = LEVEL
    """Confidence level of the intervals."""
    min_objects: int = MIN_OBJECTS
    """Samples of fewer objects are drawn with unfilled bars and do not enter zones and correlation."""
    zones: int | None = None
    """Number of zones; None: as many as the broken-stick model supports."""
    seed: int = 0
    depths: Mapping[str, float] = field(default_factory=dict)
    """Measured depths in metres by slide_id; they override the catalog."""
    unique_scans: bool = False
    """Count slides that are the same scan once."""
    head: str | None = None
    """Name of the predictions; None: the newest."""


@dataclass(frozen=True)
class WellChart:
    """The numbers of a well's chart. Rows are samples from the top down, columns are taxa from left to right."""

    well_samples: WellSamples
    options: ChartOptions
    confusion: Confusion | None
    """The matrix by which counts are corrected; None if they are not."""
    grouping: TaxonGrouping
    taxa: tuple[str, ...]
    groups: tuple[str, ...]
    """The group of each taxon, empty if it has none."""
    predicted_counts: NDArray[np.int64]
    """(samples, taxa) objects predicted as each taxon, before correction."""
    estimate: ShareEstimate
    ranges: tuple[TaxonRange, ...]
    """The range of each taxon."""
    concentrations: Concentrations | None
    """None if no sample has a spike."""
    diversity: tuple[Diversity, ...]
    rarefaction_size: int
    """Number of objects to which samples are rarefied; 0 if no sample is well sampled."""
    well_sampled: tuple[int, ...]
    """Rows of samples with at least `options.min_objects` objects."""
    zonation: Zonation | None
    """Zones of the rows in `well_sampled`; None if they are too few."""

    @property
    def well(self) -> str:
        return self.well_samples.well

    @property
    def counts(self) -> NDArray[np.float64]:
        """(samples, taxa) estimated objects of each taxon; 0 in a sample without objects."""
        return np.nan_to_num(self.estimate.shares * self.estimate.objects[:, None])

    @property
    def borders_m(self) -> list[float]:
        """Measured depths of zone borders, each halfway between the two intervals beside it."""
        if self.zonation is None:
            return []
        samples = [self.well_samples.samples[row] for row in self.well_sampled]
        return [(samples[row].base_m + samples[row + 1].top_m) / 2 for row in self.zonation.borders]


def compute_chart(store: RunStore, well: str, options: ChartOptions) -> WellChart:
    """Return the chart of one well of a run.

    Raises:
        UsageError: every taxon is left out, or an error of `gather_samples`, `match_confusion` or `group_taxa`.
    """
    well_samples = gather_samples(
        store, well, head=options.head, depths=options.depths, unique_scans=options.unique_scans
    )
    confusion = options.confusion or recorded_confusion(well_samples.predictions.results.record.head)
    if not options.is_corrected:
        confusion = None
    labels: Sequence[str] = well_samples.labels
    if confusion is not None:
        confusion = match_confusion(confusion, labels)
        labels = confusion.classes
    markers = find_markers(well_samples, labels)
    grouping = group_taxa(
        labels, options.taxonomy, rank=options.rank, leave_out=options.leave_out, uncounted=markers
    )
    if not grouping.taxa:
        raise UsageError("every taxon is left out, so there is nothing to chart; leave out fewer")
    taxon_of_label = np.array(grouping.taxon_of_label, np.int64)
    estimate = estimate_shares(
        well_samples.label_counts,
        taxon_of_label,
        len(grouping.taxa),
        confusion=confusion,
        level=options.level,
        rng=np.random.default_rng(options.seed),
    )
    predicted = _count_taxa(well_samples.label_counts, grouping)
    ranges = find_ranges(estimate.present_low > 0, well_samples.samples)
    concentrations = estimate_concentrations(
        well_samples.samples,
        well_samples.label_counts,
        labels,
        taxon_of_label,
        len(grouping.taxa),
        confusion=confusion,
        level=options.level,
        rng=np.random.default_rng(options.seed),
    )
    # A taxon that was never predicted and is present nowhere gets no column.
    shown = [
        taxon
        for taxon in range(len(grouping.taxa))
        if predicted[:, taxon].any() or ranges[taxon].last is not None
    ]
    order = sorted(shown, key=_sort_key(options.order, grouping, estimate, ranges))
    estimate = estimate.of_taxa(order)
    totals = np.round(estimate.objects).astype(int)
    well_sampled = tuple(int(row) for row in np.flatnonzero((totals >= options.min_objects) & (totals > 0)))
    rarefaction_size = int(totals[list(well_sampled)].min()) if well_sampled else 0
    has_zones = len(well_sampled) >= MIN_SAMPLES and len(order) > 1
    return WellChart(
        well_samples=well_samples,
        options=options,
        confusion=confusion,
        grouping=grouping,
        taxa=tuple(grouping.taxa[taxon] for taxon in order),
        groups=tuple(grouping.groups[taxon] for taxon in order),
        predicted_counts=predicted[:, order],
        estimate=estimate,
        ranges=tuple(ranges[taxon] for taxon in order),
        concentrations=None if concentrations is None else concentrations.of_taxa(order),
        diversity=tuple(
            describe_diversity(round_counts(shares, total), rarefaction_size=rarefaction_size)
            for shares, total in zip(estimate.shares, totals.tolist(), strict=True)
        ),
        rarefaction_size=rarefaction_size,
        well_sampled=well_sampled,
        zonation=find_zones(_renormalise(estimate.shares[list(well_sampled)]), number=options.zones)
        if has_zones
        else None,
    )


def _count_taxa(label_counts: NDArray[np.int64], grouping: TaxonGrouping) -> NDArray[np.int64]:
    """Sum counts (samples, labels) to counts (samples, taxa), without labels that are left out."""
    counts = np.zeros((len(label_counts), len(grouping.taxa)), np.int64)
    for label, taxon in enumerate(grouping.taxon_of_label[: label_counts.shape[1]]):
        if taxon >= 0:
            counts[:, taxon] += label_counts[:, label]
    return counts


def _renormalise(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale rows to a sum of 1, which taxa without a column have lowered."""
    total = shares.sum(axis=1, keepdims=True)
    scaled: NDArray[np.float64] = shares / np.maximum(total, 1e-300)
    return scaled


def _sort_key(  # type: ignore[no-untyped-def]
    order: TaxonOrder,
    grouping: TaxonGrouping,
    estimate: ShareEstimate,
    ranges: Sequence[TaxonRange],
):
    """Return the key that sorts taxa from left to right. Taxa that are present in no sample come last."""
    mean = np.nan_to_num(estimate.shares).mean(axis=0)

    def key(taxon: int) -> tuple[float, float, float, str]:
        top, base = ranges[taxon].last, ranges[taxon].reliable_first
        never = float(top is None)
        match order:
            case "name":
                return 0, 0, 0, grouping.taxa[taxon].casefold()
            case "abundance":
                return 0, -mean[taxon], 0, grouping.taxa[taxon]
            case "first-occurrence":
                return never, -float(base or 0), -float(top or 0), grouping.taxa[taxon]
            case _:
                return never, float(top or 0), float(base or 0), grouping.taxa[taxon]

    return key
