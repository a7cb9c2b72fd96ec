"""Counts of a well's samples by taxon, as spreadsheets of other programs have them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from fossilray.analysis.export.occurrences import OccurrenceSource, TaxonName
from fossilray.analysis.specimens.citation import interval_of
from fossilray.core.errors import UsageError
from fossilray.core.records import SlideSummary
from fossilray.core.text import list_some


@dataclass(frozen=True)
class CountedSample:
    """The slides of a well with one interval and type of sample."""

    slide_ids: tuple[str, ...]
    top_m: float | None
    """None where the depth is unknown; then the sample is one slide."""
    base_m: float | None
    sample_type: str | None
    counts: Counter[TaxonName]
    unnamed: int
    """Objects without a name, which are not counted."""


@dataclass(frozen=True)
class CountMatrix:
    """Counts of a well."""

    well: str
    samples: tuple[CountedSample, ...]
    """From the top down; those without a depth last."""
    taxa: tuple[TaxonName, ...]
    """By name."""
    basis: str
    """What names the objects."""

    @property
    def objects(self) -> int:
        """Objects that are counted."""
        return sum(sample.counts.total() for sample in self.samples)

    @property
    def unnamed(self) -> int:
        """Objects without a name."""
        return sum(sample.unnamed for sample in self.samples)


def count_taxa(source: OccurrenceSource, well: str) -> CountMatrix:
    """Count the occurrences of a well; slides of one interval and type are one sample.

    Raises:
        UsageError: the run has no slide of the well.
    """
    slides = [slide for slide in source.selection.slides if slide.well == well]
    if not slides:
        wells = sorted({slide.well for slide in source.selection.slides})
        raise UsageError(
            f"there are no slides of well {well!r}; the run has {list_some(wells, most=12) or 'no wells'}"
        )
    groups: dict[tuple[object, ...], list[SlideSummary]] = {}
    for slide in slides:
        top, base = interval_of(slide)
        groups.setdefault((slide.slide_id,) if top is None else (top, base, slide.sample_type), []).append(
            slide
        )
    samples = [_count(source, group) for group in groups.values()]
    samples.sort(key=lambda sample: (sample.top_m is None, sample.top_m or 0.0, sample.base_m or 0.0))
    taxa = sorted({name for sample in samples for name in sample.counts}, key=_order)
    return CountMatrix(well, tuple(samples), tuple(taxa), source.basis)


def _count(source: OccurrenceSource, slides: list[SlideSummary]) -> CountedSample:
    counts: Counter[TaxonName] = Counter()
    unnamed = 0
    for slide in slides:
        for occurrence in source.of_slide(slide):
            if occurrence.name is None:
                unnamed += 1
            else:
                counts[occurrence.name] += 1
    top, base = interval_of(slides[0])
    names = tuple(slide.slide_id for slide in slides)
    return CountedSample(names, top, base, slides[0].sample_type, counts, unnamed)


def _order(name: TaxonName) -> tuple[str, str, str]:
    return name.taxon, name.qualifier, name.situation
