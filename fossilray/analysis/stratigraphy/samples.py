"""Samples of a well from the top down: predicted labels of their objects, and the share that was unreadable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.assemblages import Assemblages, TaxonSample, gather_assemblages
from fossilray.analysis.stratigraphy.determined import DeterminedCounts, count_determinations
from fossilray.core.config.choices import TaxonRank
from fossilray.core.copies import find_copies
from fossilray.core.errors import UsageError
from fossilray.core.plausible_values import why_no_depth
from fossilray.core.records import SlideSummary, lost_share_of
from fossilray.core.slide_sample import SlideSample, Spike
from fossilray.core.text import list_some
from fossilray.core.user_table import read_user_table
from fossilray.labels.determinations import Determinations
from fossilray.labels.taxonomy import Taxonomy
from fossilray.store import RunStore
from fossilray.store.derived.listing import DerivedListing, current_predictions
from fossilray.store.query.connection import connect, create_objects_view
from fossilray.store.samples.corrections import iter_samples


@dataclass(frozen=True)
class WellSample:
    """All slides of a well of one interval and type of sample, which are preparations of one sample."""

    label: str
    """Name of the first slide."""
    depth_m: float
    top_m: float
    base_m: float
    """Equal to top_m for a sample of one depth."""
    sample_type: str | None
    spike: Spike | None
    """Marker grains that were added; None also where the sample's slides have different ones."""
    amount: tuple[float, str] | None
    """What was processed, in `g` or `ml`."""
    has_mixed_spikes: bool
    """Whether its slides state different spikes or amounts, which cannot be counted together."""
    slides: int
    classified: int
    """Slides that have predictions."""
    objects: int
    """Objects that have a predicted label, or one of an expert."""
    unclassified: int
    """Objects without one, because their pixels could not be read."""
    lost_share: float
    """Share that could not be read, of the finest pass's foreground and of the crops together."""
    slide_ids: tuple[str, ...] = ()
    labelled: int = 0
    """Those of the objects that an expert determined."""
    apart: Mapping[str, int] = field(default_factory=dict)
    """Labelled objects that are no part of the assemblage by what they are, such as `reworked` or `wood`."""

    @property
    def interval(self) -> str:
        """The depths for a sentence: `2030-2040 m`."""
        ends = f"{self.top_m:g}" if self.top_m == self.base_m else f"{self.top_m:g}-{self.base_m:g}"
        return f"{ends} m"

    @property
    def is_barren(self) -> bool:
        return self.classified == self.slides and not self.objects

    @property
    def is_lossy(self) -> bool:
        return self.lost_share > 0


@dataclass(frozen=True)
class WellSamples:
    """A well's samples, the counts of their predicted labels, and what experts determined."""

    well: str
    predictions: DerivedListing | None
    """None: only labels are counted."""
    labels: tuple[str, ...]
    """Classes of the head."""
    samples: tuple[WellSample, ...]
    label_counts: NDArray[np.int64]
    """(samples, labels) objects predicted as each label, without those that have a label of an expert."""
    without_depth: tuple[str, ...]
    """slide_ids that are left out."""
    determined: DeterminedCounts | None = None
    """None: no labels are given."""
    has_depths: bool = True
    """Otherwise samples are slides in the order of their names, at a depth of 0."""

    @property
    def names(self) -> tuple[str, ...]:
        """Classes of the head, and further names under which experts determined objects."""
        return self.labels if self.determined is None else self.determined.names

    @property
    def depths(self) -> NDArray[np.float64]:
        """(samples,) measured depths in metres."""
        return np.array([sample.depth_m for sample in self.samples])


@dataclass(frozen=True)
class CountSources:
    """What names the objects of a well."""

    head: str | None = None
    """Name of the predictions; None: the newest; `none`: labels alone."""
    determinations: Determinations | None = None
    """Labels of experts, which go before predictions."""
    taxonomy: Taxonomy | None = None
    rank: TaxonRank = "genus"
    """Rank at which labels are counted."""


def gather_samples(
    store: RunStore,
    well: str,
    sources: CountSources,
    *,
    depths: Mapping[str, float] | None = None,
    unique_scans: bool = False,
) -> WellSamples:
    """Return the samples of a well, with slides of equal depths and type pooled; without a depth they are left out.

    Args:
        depths: measured depths in metres by slide_id; they override the catalog.
        unique_scans: count slides that are the same scan once.

    Raises:
        UsageError: the run lacks the well, predictions and labels, or a slide that `depths` names; or no slide has a
            depth.
    """
    summaries = store.summaries()
    copies = find_copies(summaries) if unique_scans else {}
    slides = [
        _with_depth(slide, depths or {})
        for slide in summaries
        if slide.well == well and slide.slide_id not in copies
    ]
    if not slides:
        wells = sorted({slide.well for slide in summaries})
        raise UsageError(
            f"{store.url} has no committed slides of well {well!r}; it has {list_some(wells, most=12) or 'no wells'}"
        )
    if unknown := set(depths or {}) - {slide.slide_id for slide in summaries}:
        raise UsageError(f"the depths name {list_some(sorted(unknown))}, which {store.url} does not have")
    predictions = current_predictions(store, sources.head, slides)
    if predictions is None and sources.determinations is None:
        raise UsageError(
            f"{store.url} has no predictions; run `fossilray classify run {store.url} --head FILE` first, or give "
            "--labels of an expert"
        )
    if predictions is not None and not predictions.files and sources.determinations is None:
        raise UsageError(
            f"the predictions {predictions.results.name} hold no slide of well {well}; run `fossilray classify run` "
            "again"
        )
    if all(slide.measured_depth_m is None for slide in slides):
        raise UsageError(
            f"no slide of well {well} has a measured depth, so it has no order; correct them with `fossilray samples "
            "import`, or give --depths, a CSV of slide_id and measured_depth_m (`fossilray report` draws slides in the "
            "order of their names)"
        )
    return samples_of_slides(store, slides, predictions, sources)


def sum_determined(
    well_samples: WellSamples, names: Sequence[str], taxon_of_name: Sequence[int], taxa: int
) -> NDArray[np.int64]:
    """Return determined objects (samples, taxa). taxon_of_name: the taxon of each of `names`; -1: left out."""
    counts = np.zeros((len(well_samples.samples), taxa), np.int64)
    counted = well_samples.determined
    if counted is not None:
        taxon_of = dict(zip(names, taxon_of_name, strict=True))
        for column, name in enumerate(counted.names):
            if taxon_of[name] >= 0:
                counts[:, taxon_of[name]] += counted.counts[:, column]
    return counts


def samples_of_slides(
    store: RunStore,
    slides: Sequence[SlideSummary],
    predictions: DerivedListing | None,
    sources: CountSources,
) -> WellSamples:
    """Return the samples of slides of one well; if none has a depth, each slide is a sample.

    predictions: those of the slides that are current.
    """
    with_depth = [slide for slide in slides if slide.measured_depth_m is not None]
    shown = with_depth or list(slides)
    known = _corrected_samples(store)
    con, classified = None, frozenset[str]()
    if predictions is not None and predictions.files:
        con = connect(store)
        committed = store.committed_files()
        of_slides = [slide.slide_id for slide in shown if slide.slide_id in predictions.files]
        create_objects_view(
            con, store, {slide_id: committed[slide_id] for slide_id in of_slides}, genera=predictions
        )
        classified = frozenset(of_slides)
    assemblages = gather_assemblages(con, shown, classified)
    labels, label_counts = _label_counts(assemblages, predictions)
    samples = [
        _well_sample(
            sample,
            [slide for slide in shown if slide.slide_id in sample.slide_ids],
            [known[slide_id] for slide_id in sample.slide_ids if slide_id in known],
        )
        for sample in assemblages.samples
    ]
    determined = None
    if sources.determinations is not None:
        determined = count_determinations(
            sources.determinations,
            assemblages.samples,
            labels,
            con=con,
            well_slides=[slide.slide_id for slide in slides],
            markers=[None if sample.spike is None else sample.spike.marker for sample in samples],
            taxonomy=sources.taxonomy,
            rank=sources.rank,
        )
        label_counts = label_counts - determined.called
        samples = [_with_labels(sample, determined, row) for row, sample in enumerate(samples)]
    return WellSamples(
        well=slides[0].well,
        predictions=predictions if con is not None else None,
        labels=labels,
        samples=tuple(samples),
        label_counts=label_counts,
        without_depth=tuple(slide.slide_id for slide in slides if slide not in shown),
        determined=determined,
        has_depths=bool(with_depth),
    )


def _label_counts(
    assemblages: Assemblages, predictions: DerivedListing | None
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the classes of the head, and the objects (samples, classes) predicted as each."""
    head = {} if predictions is None else predictions.results.record.head or {}
    classes = head.get("classes", ())
    labels = (*classes, *(taxon for taxon in assemblages.taxa if taxon not in classes))
    counts = np.zeros((len(assemblages.samples), len(labels)), np.int64)
    columns = [labels.index(taxon) for taxon in assemblages.taxa]
    for row, sample in enumerate(assemblages.samples):
        counts[row, columns] = sample.counts
    return labels, counts


def _with_labels(sample: WellSample, determined: DeterminedCounts, row: int) -> WellSample:
    """Return the sample with its labelled objects, which are no longer counted by their predictions."""
    labelled = int(determined.counts[row].sum())
    return replace(
        sample,
        objects=sample.objects - int(determined.called[row].sum()) + labelled,
        unclassified=sample.unclassified - int(determined.without_prediction[row]),
        labelled=labelled,
        apart=determined.apart[row],
    )


def _corrected_samples(store: RunStore) -> dict[str, SlideSample]:
    """Return the samples that were corrected, by slide_id; catalogs have no spikes, so no other has one."""
    corrections = store.sample_corrections()
    rows = store.read_catalog() if corrections else []
    corrected = (row for row in rows if row.slide_id in corrections.by_slide)
    return {sample.slide_id: sample for sample in iter_samples(corrected, corrections)}


def _well_sample(
    sample: TaxonSample, slides: Sequence[SlideSummary], known: Sequence[SlideSample]
) -> WellSample:
    """known: the samples of the slides as they were last corrected."""
    depth = float(sample.depth_m or 0.0)
    amounts = {
        (slide.weight_g, "g") if slide.weight_g is not None else (slide.volume_ml, "ml")
        for slide in known
        if slide.weight_g is not None or slide.volume_ml is not None
    }
    spikes = {slide.spike for slide in known}
    is_mixed = any(spike is not None for spike in spikes) and (len(spikes) > 1 or len(amounts) > 1)
    amount = amounts.pop() if len(amounts) == 1 else None
    return WellSample(
        label=sample.label,
        depth_m=depth,
        top_m=depth if sample.top_m is None else sample.top_m,
        base_m=depth if sample.base_m is None else sample.base_m,
        sample_type=sample.sample_type,
        spike=None if is_mixed or amount is None else next(iter(spikes), None),
        has_mixed_spikes=is_mixed,
        amount=None if amount is None or amount[0] is None else (amount[0], amount[1]),
        slides=sample.slides,
        classified=sample.classified,
        objects=sample.total,
        unclassified=sample.unclassified,
        lost_share=_lost_share(slides),
        slide_ids=sample.slide_ids,
    )


def read_depths(path: Path) -> dict[str, float]:
    """Read measured depths in metres by slide_id, from a table with the columns slide_id and measured_depth_m.

    Raises:
        UsageError: the file is not such a table, or gives a slide two depths.
    """
    table = read_user_table(path, use="depths of slides", columns=("slide_id", "measured_depth_m"))
    depths: dict[str, float] = {}
    for row in table.rows:
        slide_id, depth = row["slide_id"], row.number("measured_depth_m")
        if not slide_id or depth is None:
            raise row.error("slide_id and measured_depth_m must both have a value")
        if why := why_no_depth(depth):
            raise row.error(f"measured_depth_m is {row['measured_depth_m']!r:.40}, {why}", "measured_depth_m")
        if depths.setdefault(slide_id, depth) != depth:
            raise row.error(
                f"slide {slide_id} has two depths, {depths[slide_id]:g} and {depth:g} m", "slide_id"
            )
    return depths


def _with_depth(slide: SlideSummary, depths: Mapping[str, float]) -> SlideSummary:
    """Return the slide with its depth from `depths` if it is there; a depth that is not finite becomes None."""
    given = depths.get(slide.slide_id)
    if given is not None:
        return replace(slide, measured_depth_m=given, top_depth_m=given, base_depth_m=given)
    depth = slide.measured_depth_m
    if depth is None or np.isfinite(depth):
        return slide
    return replace(slide, measured_depth_m=None, top_depth_m=None, base_depth_m=None)


def _lost_share(slides: Sequence[SlideSummary]) -> float:
    objects = sum(slide.objects for slide in slides)
    lost_crops = sum(slide.crops_failed for slide in slides) / max(objects, 1)
    return 1 - (1 - min(lost_share_of(slides), 1.0)) * (1 - min(lost_crops, 1.0))
