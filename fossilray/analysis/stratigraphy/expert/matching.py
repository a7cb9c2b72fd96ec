"""Human counts laid over the samples and taxa of a chart, and what of them the chart does not have."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.chart import WellChart
from fossilray.analysis.stratigraphy.expert.counts import ExpertCount, ExpertCounts, ExpertSample
from fossilray.analysis.stratigraphy.samples import WellSample, sum_determined
from fossilray.core.site_names import normalise_well, well_key
from fossilray.core.text import counted, list_some
from fossilray.labels.taxonomy import lineage_of, taxon_key

_ROUNDING_M = 0.01


@dataclass(frozen=True)
class MatchedCounts:
    """Human counts of samples and taxa that the chart has too."""

    source: str
    """Name of the file."""
    rows: tuple[int, ...]
    """Samples of the chart that the expert counted and that have objects."""
    taxa: tuple[int, ...]
    """Taxa of the chart's grouping that the file lists."""
    specimens: NDArray[np.int64]
    """(rows, taxa) as the expert counted; 0 where a listed taxon has no line for a sample."""
    notes: tuple[str, ...]
    """What is not compared, in sentences with line and remedy."""


def match_counts(
    chart: WellChart, expert: ExpertCounts, *, well_of_slide: Mapping[str, str]
) -> MatchedCounts:
    """Find the samples and the taxa of human counts in a chart.

    well_of_slide: wells of all slides of the run.

    Raises:
        UsageError: the file counts one taxon of a sample twice, leaves open which sample it means, or has no sample or
            no taxon in common with the chart.
    """
    taxon_of, left_out_names = _taxa_by_name(chart)
    samples = chart.well_samples.samples
    cells: dict[tuple[int, str, str], ExpertCount] = {}
    sums: dict[tuple[int, int], int] = {}
    unknown_taxa: dict[str, list[ExpertCount]] = {}
    unknown_samples: dict[str, ExpertCount] = {}
    left_out: dict[str, int] = {}
    other_wells = 0
    for count in expert.counts:
        if _is_of_other_well(count.sample, chart.well, well_of_slide):
            other_wells += 1
            continue
        row = _find_sample(count, samples)
        if row is None:
            unknown_samples.setdefault(str(count.sample), count)
            continue
        _refuse_twice(count, row, samples[row], cells)
        taxon = _find_taxon(count.taxon, chart, taxon_of)
        if taxon is not None:
            sums[row, taxon] = sums.get((row, taxon), 0) + count.specimens
        elif _names_of(count.taxon, chart) & left_out_names:
            left_out[count.taxon] = left_out.get(count.taxon, 0) + count.specimens
        else:
            unknown_taxa.setdefault(count.taxon, []).append(count)
    if not cells:
        first = next(iter(unknown_samples.values()), expert.counts[0])
        raise first.refuse(
            f"no sample is in common: {first.sample} is none of well {chart.well}, which has "
            f"{list_some([sample.interval for sample in samples], most=12)}"
        )
    taxa = sorted({taxon for _, taxon in sums}, key=lambda taxon: _position(chart, taxon))
    if not taxa:
        first = next(iter(cells.values()))
        raise first.refuse(
            f"no taxon is in common: {first.taxon} is none of {list_some(chart.grouping.taxa, most=12)}; give "
            "--taxonomy with the names of both"
        )
    listed = sorted({row for row, _ in sums})
    table = np.array([[sums.get((row, taxon), 0) for taxon in taxa] for row in listed], np.int64)
    objects = _count_objects(chart, taxa)[listed]
    has_both = (table.sum(axis=1) > 0) & (objects > 0)
    rows = tuple(row for row, both in zip(listed, has_both.tolist(), strict=True) if both)
    if not rows:
        raise expert.role.damaged("no sample has both specimens of the expert and classified objects")
    empty = [samples[row].interval for row in listed if row not in rows]
    notes = _notes(chart, expert, taxa, unknown_taxa, unknown_samples, left_out, other_wells, empty)
    return MatchedCounts(expert.role.name, rows, tuple(taxa), table[has_both], tuple(notes))


def _count_objects(chart: WellChart, taxa: Sequence[int]) -> NDArray[np.int64]:
    """Return the objects (samples,) that are predicted or determined as one of these taxa."""
    counts, grouping = chart.well_samples.label_counts, chart.grouping
    is_compared = np.isin(grouping.taxon_of_label[: counts.shape[1]], taxa)
    determined = sum_determined(chart.well_samples, chart.names, grouping.taxon_of_label, len(grouping.taxa))
    objects: NDArray[np.int64] = counts[:, is_compared].sum(axis=1) + determined[:, list(taxa)].sum(axis=1)
    return objects


def _taxa_by_name(chart: WellChart) -> tuple[dict[str, int], set[str]]:
    """Return the taxon of each name, and the names that are left out of the chart."""
    grouping = chart.grouping
    taxon_of = {taxon_key(name): taxon for taxon, name in enumerate(grouping.taxa)}
    left_out = {taxon_key(name) for name in chart.options.leave_out}
    for label, taxon in zip(chart.names, grouping.taxon_of_label, strict=True):
        if taxon < 0:
            left_out.add(taxon_key(label))
        else:
            taxon_of.setdefault(taxon_key(label), taxon)
    return taxon_of, left_out


def _find_taxon(name: str, chart: WellChart, taxon_of: Mapping[str, int]) -> int | None:
    """Return the taxon of a name: at the chart's rank by the taxonomy, as written, or by the genus that it states."""
    taxonomy, rank = chart.options.taxonomy, chart.options.rank
    row = None if taxonomy is None else taxonomy.find(name)
    names = (name if row is None else row.at(rank), name, lineage_of(name, taxonomy).get(rank, name))
    return next((taxon_of[key] for each in names if (key := taxon_key(each)) in taxon_of), None)


def _names_of(name: str, chart: WellChart) -> set[str]:
    """Names under which a taxon may be left out: its own, that of its rank and its group."""
    taxonomy = chart.options.taxonomy
    row = None if taxonomy is None else taxonomy.find(name)
    names = (name,) if row is None else (name, row.at(chart.options.rank), row.group)
    return {taxon_key(each) for each in names}


def _is_of_other_well(stated: ExpertSample, well: str, well_of_slide: Mapping[str, str]) -> bool:
    if stated.well:
        return well_key(normalise_well(stated.well)) != well_key(normalise_well(well))
    return well_of_slide.get(stated.slide_id, well) != well


def _find_sample(count: ExpertCount, samples: Sequence[WellSample]) -> int | None:
    """Return the sample of a count: by slide_id, by its interval, or by a depth inside one interval."""
    stated = count.sample
    of_slide = [row for row, sample in enumerate(samples) if stated.slide_id in sample.slide_ids]
    if of_slide:
        return of_slide[0]
    if stated.top_m is None or stated.base_m is None:
        return None
    top, base = stated.top_m, stated.base_m
    fitting = [
        (row, sample)
        for row, sample in enumerate(samples)
        if stated.sample_type is None or stated.sample_type == sample.sample_type
    ]
    ranks = (
        [
            row
            for row, sample in fitting
            if abs(sample.top_m - top) + abs(sample.base_m - base) <= 2 * _ROUNDING_M
        ],
        [row for row, sample in fitting if top == base and abs(sample.depth_m - top) <= _ROUNDING_M],
        [row for row, sample in fitting if top == base and sample.top_m <= top <= sample.base_m],
    )
    rows = next(filter(None, ranks), [])
    if len(rows) > 1:
        kinds = [f"{samples[row].interval} {samples[row].sample_type or ''}".strip() for row in rows]
        raise count.refuse(
            f"{stated} may be {list_some(kinds)}; give the slide_id, the sample_type or top_depth_m and base_depth_m"
        )
    return rows[0] if rows else None


def _refuse_twice(
    count: ExpertCount, row: int, sample: WellSample, cells: dict[tuple[int, str, str], ExpertCount]
) -> None:
    """Enter a count into `cells`, the counts by sample, slide and taxon.

    Raises:
        UsageError: the taxon is counted twice in a slide or a sample.
    """
    slide = count.sample.slide_id if count.sample.slide_id in sample.slide_ids else ""
    name = taxon_key(count.taxon)
    others = [cells.get((row, other, name)) for other in ((slide, "") if slide else ("", *sample.slide_ids))]
    if other := next(filter(None, others), None):
        where = other.row.location if other.row is not count.row else "the same row"
        raise count.refuse(
            f"{count.taxon} of {count.sample} is counted twice, here and in {where}; leave one of them"
        )
    cells[row, slide, name] = count


def _position(chart: WellChart, taxon: int) -> tuple[int, str]:
    """The column of a taxon in the chart; taxa without a column come last."""
    name = chart.grouping.taxa[taxon]
    return (chart.taxa.index(name) if name in chart.taxa else len(chart.taxa), name)


def _notes(
    chart: WellChart,
    expert: ExpertCounts,
    taxa: Sequence[int],
    unknown_taxa: Mapping[str, Sequence[ExpertCount]],
    unknown_samples: Mapping[str, ExpertCount],
    left_out: Mapping[str, int],
    other_wells: int,
    empty: Sequence[str],
) -> list[str]:
    source, known = expert.role.name, chart.grouping.taxa
    notes = []
    if unknown_taxa:
        named = [_describe_unknown(name, counts, known) for name, counts in unknown_taxa.items()]
        notes.append(
            f"{source} counts taxa that the chart does not have, which are not compared: "
            f"{list_some(named, most=8, separator='; ')}; correct the names, or give --taxonomy with them as synonyms"
        )
    if unknown_samples:
        named = [f"{name} ({count.row.location})" for name, count in unknown_samples.items()]
        notes.append(
            f"{source} counts samples that well {chart.well} does not have here: {list_some(named, most=8)}; correct "
            "slide_id or depth, or process their slides"
        )
    if unlisted := [name for name in chart.taxa if known.index(name) not in taxa]:
        notes.append(
            f"{source} does not list {list_some(unlisted, most=8)}, so they are not compared; add a line with 0 if "
            "they were looked for"
        )
    if left_out:
        notes.append(f"left out of both counts, as of the chart: {list_some(left_out, most=8)}")
    if empty:
        notes.append(f"not compared, because one of both counts is empty: {list_some(empty, most=8)}")
    if other_wells:
        notes.append(f"{counted(other_wells, 'count')} of other wells are skipped")
    return notes


def _describe_unknown(name: str, counts: Sequence[ExpertCount], known: Sequence[str]) -> str:
    specimens = counted(sum(count.specimens for count in counts), "specimen")
    near = difflib.get_close_matches(taxon_key(name), [taxon_key(each) for each in known], n=1, cutoff=0.8)
    spelled = next((each for each in known if near and taxon_key(each) == near[0]), None)
    hint = f", is it {spelled}?" if spelled else ""
    return f"{name} ({counts[0].row.location}, {specimens}{hint})"
