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
from fossilray.analysis.stratigraphy.palynofacies import Palynofacies, estimate_palynofacies
from fossilray.analysis.stratigraphy.ranges import TaxonRange, find_ranges
from fossilray.analysis.stratigraphy.samples import (
    CountSources,
    WellSamples,
    gather_samples,
    sum_determined,
)
from fossilray.analysis.stratigraphy.taxon_grouping import TaxonGrouping, group_taxa
from fossilray.analysis.stratigraphy.zones import MIN_SAMPLES, Zonation, find_zones
from fossilray.core.config.choices import TaxonOrder, TaxonRank
from fossilray.core.errors import UsageError
from fossilray.labels.determinations import Determinations
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
    """Name of the predictions; None: the newest; `none`: labels alone."""
    determinations: Determinations | None = None
    """Labels of experts, which go before predictions."""

    marine: tuple[str, ...] = ()
    """Taxa or groups that are marine, for the marine share."""
    terrestrial: tuple[str, ...] = ()

    @property
    def sources(self) -> CountSources:
        """What names the objects."""
        return CountSources(self.head, self.determinations, self.taxonomy, self.rank)


@dataclass(frozen=True)
class WellChart:
    """The numbers of a well's chart. Rows are samples from the top down, columns are taxa from left to right."""

    well_samples: WellSamples
    options: ChartOptions
    confusion: Confusion | None
    """The matrix by which counts are corrected; None if they are not."""
    names: tuple[str, ...]
    """What `grouping` groups: classes of the head or of the confusion matrix, then further names of labels."""
    grouping: TaxonGrouping
    taxa: tuple[str, ...]
    groups: tuple[str, ...]
    """The group of each taxon, empty if it has none."""
    predicted_counts: NDArray[np.int64]
    """(samples, taxa) objects predicted as each taxon, before correction, without labelled ones."""
    determined: NDArray[np.int64]
    """(samples, taxa) objects that experts determined; the estimate counts them as such."""
    estimate: ShareEstimate
    ranges: tuple[TaxonRange, ...]
    """The range of each taxon."""
    concentrations: Concentrations | None
    """None if no sample has a spike."""
    palynofacies: Palynofacies
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
    return chart_samples(
        gather_samples(
            store, well, options.sources, depths=options.depths, unique_scans=options.unique_scans
        ),
        options,
    )


def chart_samples(well_samples: WellSamples, options: ChartOptions) -> WellChart:
    """Return the chart of samples.

    Raises:
        UsageError: every taxon is left out, or an error of `match_confusion` or `group_taxa`.
    """
    confusion = _confusion_of(well_samples, options)
    labels: Sequence[str] = well_samples.labels
    if confusion is not None:
        confusion = match_confusion(confusion, labels)
        labels = confusion.classes
    names, grouping = _group_names(well_samples, labels, options)
    taxa = len(grouping.taxa)
    taxon_of_label = np.array(grouping.taxon_of_label[: len(labels)], np.int64)
    determined = sum_determined(well_samples, names, grouping.taxon_of_label, taxa)
    estimate = estimate_shares(
        well_samples.label_counts,
        taxon_of_label,
        taxa,
        confusion=confusion,
        determined=determined,
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
        taxa,
        confusion=confusion,
        determined=_with_markers(determined, well_samples),
        level=options.level,
        rng=np.random.default_rng(options.seed),
    )
    # A taxon that was never predicted and is present nowhere gets no column.
    shown = [
        taxon
        for taxon in range(len(grouping.taxa))
        if predicted[:, taxon].any() or determined[:, taxon].any() or ranges[taxon].last is not None
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
        names=names,
        grouping=grouping,
        taxa=tuple(grouping.taxa[taxon] for taxon in order),
        groups=tuple(grouping.groups[taxon] for taxon in order),
        predicted_counts=predicted[:, order],
        determined=determined[:, order],
        estimate=estimate,
        ranges=tuple(ranges[taxon] for taxon in order),
        concentrations=None if concentrations is None else concentrations.of_taxa(order),
        palynofacies=_palynofacies_of(well_samples, names, grouping, confusion, options),
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


def _palynofacies_of(
    well_samples: WellSamples,
    names: Sequence[str],
    grouping: TaxonGrouping,
    confusion: Confusion | None,
    options: ChartOptions,
) -> Palynofacies:
    return estimate_palynofacies(
        well_samples,
        names,
        grouping,
        confusion=confusion,
        sides=(options.marine, options.terrestrial),
        level=options.level,
        seed=options.seed,
    )


def _confusion_of(well_samples: WellSamples, options: ChartOptions) -> Confusion | None:
    """Return the matrix by which predictions are corrected, in its own order of classes."""
    if not options.is_corrected or well_samples.predictions is None:
        return None
    return options.confusion or recorded_confusion(well_samples.predictions.results.record.head)


def _group_names(
    well_samples: WellSamples, labels: Sequence[str], options: ChartOptions
) -> tuple[tuple[str, ...], TaxonGrouping]:
    """Group classes and further names of labels into taxa, without marker grains; return all names, and the taxa."""
    names = tuple(dict.fromkeys([*labels, *well_samples.names]))
    grouping = group_taxa(
        names,
        options.taxonomy,
        rank=options.rank,
        leave_out=options.leave_out,
        uncounted=find_markers(well_samples, names),
        apart={name for sample in well_samples.samples for name in sample.apart},
    )
    if not grouping.taxa:
        raise UsageError(_why_no_taxa(well_samples))
    return names, grouping


def _why_no_taxa(well_samples: WellSamples) -> str:
    if well_samples.names:
        return "every taxon is left out, so there is nothing to chart; leave out fewer"
    counted = well_samples.determined
    source = "" if counted is None else counted.determinations.source
    return (
        f"{source} determines no object of well {well_samples.well}, and there are no predictions; label objects of "
        "its slides, or run `fossilray classify run`"
    )


def _with_markers(determined: NDArray[np.int64], well_samples: WellSamples) -> NDArray[np.int64] | None:
    """Return determined objects (samples, taxa + 1), the last column for the marker grains; None without labels."""
    counted = well_samples.determined
    if counted is None:
        return None
    grains = np.zeros((len(determined), 1), np.int64)
    for row, sample in enumerate(well_samples.samples):
        marker = "" if sample.spike is None else sample.spike.marker.casefold()
        is_marker = [bool(marker) and name.casefold() == marker for name in counted.names]
        grains[row] = counted.counts[row, is_marker].sum()
    return np.concatenate([determined, grains], axis=1)


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
