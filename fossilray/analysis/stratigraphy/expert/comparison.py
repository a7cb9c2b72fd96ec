"""Human counts beside ours: agreement of cells, bias of taxa, correlation of assemblages, and what to recount."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.chart import WellChart
from fossilray.analysis.stratigraphy.expert.agreement import (
    FALSE_DISCOVERY_RATE,
    Recount,
    TaxonBias,
    disagreement_p_values,
    estimate_bias,
    find_recounts,
)
from fossilray.analysis.stratigraphy.expert.counts import ExpertCounts
from fossilray.analysis.stratigraphy.expert.matching import match_counts
from fossilray.analysis.stratigraphy.expert.ordination import (
    MIN_COMPARED,
    OrdinationMatch,
    match_ordinations,
)
from fossilray.analysis.stratigraphy.intervals import ShareEstimate, draw_shares, estimate_shares, wilson
from fossilray.analysis.stratigraphy.samples import WellSample, sum_determined
from fossilray.core.text import counted, list_some
from fossilray.store import RunStore

_REPEATS = 199


@dataclass(frozen=True)
class ExpertComparison:
    """Both counts of the same samples and taxa. Shares are of the compared taxa only, so that both sum to 1."""

    source: str
    well: str
    level: float
    samples: tuple[WellSample, ...]
    taxa: tuple[str, ...]
    estimate: ShareEstimate
    """(samples, taxa) our shares with their intervals."""
    specimens: NDArray[np.int64]
    """(samples, taxa) as the expert counted."""
    low: NDArray[np.float64]
    """Wilson's interval of the expert's shares."""
    high: NDArray[np.float64]
    p_values: NDArray[np.float64]
    """(samples, taxa) of the hypothesis that both counts are of one assemblage; each cell by itself."""
    bias: tuple[TaxonBias, ...]
    """Of each taxon."""
    ordination: OrdinationMatch | None
    """None if the samples are too few."""
    attainable: float
    """Procrustes correlation that an expert without errors would reach with these counts, the median; nan without."""
    recounts: tuple[Recount, ...]
    """Cells that disagree; row and column index samples and taxa."""
    notes: tuple[str, ...]
    """What of the file is not compared."""

    @property
    def shares(self) -> NDArray[np.float64]:
        """(samples, taxa) the expert's shares."""
        shares: NDArray[np.float64] = self.specimens / self.specimens.sum(axis=1, keepdims=True)
        return shares

    @property
    def agrees(self) -> NDArray[np.bool_]:
        """(samples, taxa) whether our interval, widened by the expert's counting error, holds the expert's share."""
        agrees: NDArray[np.bool_] = self.p_values > 1 - self.level
        return agrees

    @property
    def is_within(self) -> NDArray[np.bool_]:
        """(samples, taxa) whether our interval holds the expert's share, as if that had no error."""
        within: NDArray[np.bool_] = (self.estimate.low <= self.shares) & (self.shares <= self.estimate.high)
        return within


def compare_with_expert(store: RunStore, chart: WellChart, expert: ExpertCounts) -> ExpertComparison:
    """Compare a chart with human counts of the same samples.

    Raises:
        UsageError: an error of `match_counts`.
    """
    wells = {slide.slide_id: slide.well for slide in store.summaries()}
    matched = match_counts(chart, expert, well_of_slide=wells)
    column_of = {taxon: column for column, taxon in enumerate(matched.taxa)}
    taxon_of_name = [column_of.get(taxon, -1) for taxon in chart.grouping.taxon_of_label]
    classes = chart.well_samples.labels if chart.confusion is None else chart.confusion.classes
    taxon_of_label = np.array(taxon_of_name[: len(classes)], np.int64)
    counts = chart.well_samples.label_counts[list(matched.rows)]
    determined = sum_determined(chart.well_samples, chart.names, taxon_of_name, len(matched.taxa))
    determined = determined[list(matched.rows)]
    rng, level = np.random.default_rng(chart.options.seed), chart.options.level
    taxa = len(matched.taxa)
    estimate = estimate_shares(
        counts,
        taxon_of_label,
        taxa,
        confusion=chart.confusion,
        determined=determined,
        level=level,
        rng=rng,
    )
    drawn = draw_shares(
        counts, taxon_of_label, taxa, confusion=chart.confusion, determined=determined, rng=rng
    )
    specimens = matched.specimens
    low, high = wilson(
        specimens.astype(np.float64),
        np.broadcast_to(specimens.sum(axis=1, keepdims=True), specimens.shape).astype(np.float64),
        level=level,
    )
    shares = specimens / specimens.sum(axis=1, keepdims=True)
    ordination = match_ordinations(estimate.shares, shares, rng=rng)
    return ExpertComparison(
        source=matched.source,
        well=chart.well,
        level=level,
        samples=tuple(chart.well_samples.samples[row] for row in matched.rows),
        taxa=tuple(chart.grouping.taxa[taxon] for taxon in matched.taxa),
        estimate=estimate,
        specimens=specimens,
        low=low,
        high=high,
        p_values=disagreement_p_values(drawn, estimate.objects, specimens),
        bias=tuple(estimate_bias(drawn, estimate.shares, specimens, level=level, rng=rng)),
        ordination=ordination,
        attainable=np.nan if ordination is None else _attainable(drawn, estimate, specimens, rng),
        recounts=tuple(find_recounts(drawn, estimate.shares, estimate.objects, specimens)),
        notes=matched.notes,
    )


def describe_comparison(compared: ExpertComparison) -> Iterator[str]:
    """Describe a comparison in sentences: size, agreement, correlation, bias, what to recount, what is left out."""
    agrees, level = compared.agrees, f"{100 * compared.level:g} %"
    yield (
        f"{compared.source}: {counted(int(compared.specimens.sum()), 'specimen')} of "
        f"{counted(len(compared.taxa), 'taxon') if len(compared.taxa) == 1 else f'{len(compared.taxa)} taxa'} in "
        f"{counted(len(compared.samples), 'sample')} compared"
    )
    yield (
        f"our {level} intervals, widened by the expert's counting error, hold {int(agrees.sum())} of {agrees.size} "
        f"of the expert's shares ({100 * float(agrees.mean()):.0f} %)"
    )
    match = compared.ordination
    if match is None:
        yield f"assemblages are not correlated: {MIN_COMPARED} samples and shares that vary are needed"
    else:
        axes = " and ".join(f"{value:.2f}" for value in match.axes)
        yield (
            f"assemblages (PCA of Hellinger-transformed shares): Procrustes r = {match.procrustes:.2f} "
            f"(p = {match.p_value:.2g}), PCA axes r = {axes}; an expert without errors would reach about "
            f"{compared.attainable:.2f} with these counts"
        )
    biased = [
        f"{taxon} {100 * bias.bias:+.1f} ({100 * bias.low:+.1f} to {100 * bias.high:+.1f})"
        for taxon, bias in zip(compared.taxa, compared.bias, strict=True)
        if bias.is_nonzero
    ]
    yield (
        f"bias, our share minus the expert's in percentage points ({level} interval): "
        f"{list_some(biased, most=8) if biased else 'none whose interval excludes 0'}"
    )
    rate = f"{100 * FALSE_DISCOVERY_RATE:g} %"
    if compared.recounts:
        listed = [describe_recount(compared, cell) for cell in compared.recounts]
        yield f"recount these (false discovery rate {rate}): {list_some(listed, most=6, separator='; ')}"
    else:
        yield f"no count disagrees at a false discovery rate of {rate}"
    yield from compared.notes


def describe_recount(compared: ExpertComparison, cell: Recount) -> str:
    """Return a cell in words: `Deflandrea at 2012.5 m, 0 counted where 114 are expected`."""
    interval = compared.samples[cell.row].interval
    return (
        f"{compared.taxa[cell.column]} at {interval}, {cell.specimens:,} counted where {cell.expected:,.0f} are "
        "expected"
    )


def _attainable(
    drawn: NDArray[np.float64],
    estimate: ShareEstimate,
    specimens: NDArray[np.int64],
    rng: np.random.Generator,
) -> float:
    """Return the median Procrustes correlation with faultless counts of the same sizes, of assemblages as estimated."""
    sizes = specimens.sum(axis=1)
    values = []
    for shares in drawn[:_REPEATS]:
        faultless = rng.multinomial(sizes, shares / shares.sum(axis=1, keepdims=True)) / sizes[:, None]
        match = match_ordinations(estimate.shares, faultless, permutations=1, rng=rng)
        values += [] if match is None else [match.procrustes]
    return float(np.median(values)) if values else float("nan")
