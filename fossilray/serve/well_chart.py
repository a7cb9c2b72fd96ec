"""The range chart of a well as the pages draw it: counts of labels and predictions, with intervals and zones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from fossilray.analysis.stratigraphy.chart import ChartOptions, WellChart, compute_chart
from fossilray.analysis.stratigraphy.page import describe_findings
from fossilray.core.config.choices import NO_PREDICTIONS, TaxonOrder, TaxonRank
from fossilray.labels.determinations import read_determinations
from fossilray.serve.label_desk import LabelDesk
from fossilray.serve.messages import ChartSampleMessage, ChartTaxonMessage, WellChartMessage
from fossilray.store import RunStore
from fossilray.store.derived.listing import DerivedListing

_MOST_KEPT = 16


@dataclass(frozen=True)
class ChartQuery:
    """Which chart a page shows."""

    well: str
    rank: TaxonRank = "genus"
    order: TaxonOrder = "last-occurrence"
    leave_out: tuple[str, ...] = ()


class WellCharts:
    """Charts of the wells of one run, kept until an object is labelled.

    desk: None: nothing is labelled. predictions: None: the run has none.
    """

    def __init__(self, store: RunStore, desk: LabelDesk | None, predictions: DerivedListing | None) -> None:
        self._store, self._desk, self._predictions = store, desk, predictions
        self._guard = threading.Lock()
        self._kept: OrderedDict[tuple[ChartQuery, int], WellChartMessage] = OrderedDict()

    def chart(self, query: ChartQuery) -> WellChartMessage:
        """Return the chart of a well; labels count first, and those of the last minute are included.

        Raises:
            UsageError: the run has no such well, or nothing is named in it.
            StoreError: the run or the label set cannot be read.
        """
        key = (query, 0 if self._desk is None else self._desk.newest_act)
        with self._guard:
            if key not in self._kept:
                self._kept[key] = self._compute(query)
                while len(self._kept) > _MOST_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def _compute(self, query: ChartQuery) -> WellChartMessage:
        determinations = None
        if self._desk is not None:
            self._desk.commit_if_possible()
            determinations = read_determinations(self._desk.folder, self._store, rank=query.rank)
        options = ChartOptions(
            rank=query.rank,
            order=query.order,
            leave_out=query.leave_out,
            head=NO_PREDICTIONS if self._predictions is None else self._predictions.results.name,
            determinations=determinations,
        )
        return _message_of(compute_chart(self._store, query.well, options))


def _message_of(chart: WellChart) -> WellChartMessage:
    samples = chart.well_samples.samples
    classes: dict[str, list[str]] = {taxon: [] for taxon in chart.taxa}
    for name, taxon in zip(chart.names, chart.grouping.taxon_of_label, strict=True):
        if taxon >= 0 and chart.grouping.taxa[taxon] in classes:
            classes[chart.grouping.taxa[taxon]].append(name)
    shares, low, high = (
        np.round(np.nan_to_num(values), 4).tolist()
        for values in (chart.estimate.shares, chart.estimate.low, chart.estimate.high)
    )
    return WellChartMessage(
        well=chart.well,
        samples=[
            ChartSampleMessage(
                label=sample.label,
                slides=list(sample.slide_ids),
                top_m=sample.top_m,
                base_m=sample.base_m,
                sample_type=sample.sample_type,
                objects=round(float(objects)),
                labelled=sample.labelled,
                is_small=row not in chart.well_sampled,
                lost_share=round(sample.lost_share, 4),
            )
            for row, (sample, objects) in enumerate(
                zip(samples, chart.estimate.objects.tolist(), strict=True)
            )
        ],
        has_depths=chart.well_samples.has_depths,
        taxa=[
            ChartTaxonMessage(
                name=taxon, group=group, classes=classes[taxon], last=extent.last, first=extent.first
            )
            for taxon, group, extent in zip(chart.taxa, chart.groups, chart.ranges, strict=True)
        ],
        shares=shares,
        low=low,
        high=high,
        counts=np.round(chart.counts, 1).tolist(),
        labelled=chart.determined.tolist(),
        predicted=chart.predicted_counts.tolist(),
        is_present=(chart.estimate.present_low > 0).tolist(),
        borders_m=chart.borders_m,
        findings=list(describe_findings(chart)),
    )
