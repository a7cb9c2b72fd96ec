"""Assemblages of a well: objects of each taxon in each sample, the data of a range chart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fossilray.core.records import SlideSummary
from fossilray.store.query.connection import query_table

if TYPE_CHECKING:
    from fossilray.store.query.connection import Connection


@dataclass(frozen=True)
class TaxonSample:
    """Taxa of all slides of a well of one interval and type of sample, or of one slide without a depth."""

    label: str
    depth_m: float | None
    slides: int
    classified: int
    """Slides that have predictions."""
    counts: NDArray[np.int64]
    """(taxa,) objects of each taxon of the assemblages, as predicted."""
    unclassified: int
    """Objects without a taxon, because their pixels could not be read."""
    top_m: float | None = None
    base_m: float | None = None
    sample_type: str | None = None
    slide_ids: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Objects that have a taxon."""
        return int(self.counts.sum())

    @property
    def is_barren(self) -> bool:
        """True if all its slides have predictions and no object has a taxon."""
        return self.classified == self.slides and not self.total


@dataclass(frozen=True)
class Assemblages:
    """Samples of a well from the top down, and all their taxa in the order of a chart."""

    well: str
    taxa: tuple[str, ...]
    samples: tuple[TaxonSample, ...]
    left_out: int
    """Slides that are left out: they have no depth, but others of the well do."""

    @property
    def has_depths(self) -> bool:
        return self.samples[0].depth_m is not None

    @property
    def unclassified_slides(self) -> int:
        """Slides without predictions."""
        return sum(sample.slides - sample.classified for sample in self.samples)

    @property
    def objects(self) -> int:
        """Objects that have a taxon."""
        return sum(sample.total for sample in self.samples)


def gather_assemblages(
    con: Connection | None, slides: Sequence[SlideSummary], classified: Collection[str]
) -> Assemblages:
    """Count the taxa of one well's slides in the view `objects`, which has the column `genus`; None: count nothing.

    Taxa are ordered by the mean depth of their objects, the shallowest first; without depths, by their number.

    Args:
        slides: at least one; their order is that of the rows if no slide has a depth.
        classified: slide_ids that have predictions.
    """
    with_depth = [slide for slide in slides if slide.measured_depth_m is not None]
    shown = sorted(with_depth, key=_depth_order) or list(slides)
    groups: dict[object, list[SlideSummary]] = {}
    for slide in shown:
        key = slide.slide_id if slide.measured_depth_m is None else _depth_order(slide)[:-1]
        groups.setdefault(key, []).append(slide)
    counts = {} if con is None else _count(con, slides[0].well)
    names = sorted({genus for genera in counts.values() for genus in genera if genus is not None})
    labels = chart_labels(shown)
    samples = [
        _sample(group, labels[group[0].slide_id], names, counts, classified) for group in groups.values()
    ]
    order = _order(np.array([sample.counts for sample in samples]), by_depth=bool(with_depth))
    return Assemblages(
        well=slides[0].well,
        taxa=tuple(names[taxon] for taxon in order),
        samples=tuple(replace(sample, counts=sample.counts[order]) for sample in samples),
        left_out=len(slides) - len(shown),
    )


def chart_labels(slides: Iterable[SlideSummary]) -> dict[str, str]:
    """Return a name for each slide in a chart, by slide_id: that of its file; its slide_id where others have that."""
    stems = {slide.slide_id: PurePosixPath(slide.path).stem for slide in slides}
    counts = Counter(stems.values())
    return {slide_id: stem if counts[stem] == 1 else slide_id for slide_id, stem in stems.items()}


def _depth_order(slide: SlideSummary) -> tuple[float, float, float, str, str]:
    """From the top down; all but the slide_id is equal for the slides of one sample."""
    depth = slide.measured_depth_m or 0.0
    top, base = (depth if end is None else end for end in (slide.top_depth_m, slide.base_depth_m))
    return depth, top, base, slide.sample_type or "", slide.slide_id


def _count(con: Connection, well: str) -> dict[str, dict[str | None, int]]:
    """Return objects by slide_id and genus in a well; the genus None is for objects without one."""
    quoted = well.replace("'", "''")
    sql = f"SELECT slide_id, genus, count(*) AS count FROM objects WHERE well = '{quoted}' GROUP BY ALL"
    counts: dict[str, dict[str | None, int]] = {}
    for row in query_table(con, sql).to_pylist():
        counts.setdefault(row["slide_id"], {})[row["genus"]] = row["count"]
    return counts


def _sample(
    group: Sequence[SlideSummary],
    label: str,
    names: Sequence[str],
    counts: dict[str, dict[str | None, int]],
    classified: Collection[str],
) -> TaxonSample:
    genera = [counts.get(slide.slide_id, {}) for slide in group if slide.slide_id in classified]
    return TaxonSample(
        label=label,
        depth_m=group[0].measured_depth_m,
        top_m=group[0].top_depth_m,
        base_m=group[0].base_depth_m,
        sample_type=group[0].sample_type,
        slide_ids=tuple(slide.slide_id for slide in group),
        slides=len(group),
        classified=len(genera),
        counts=np.array([sum(slide.get(name, 0) for slide in genera) for name in names], np.int64),
        unclassified=sum(slide.get(None, 0) for slide in genera),
    )


def _order(counts: NDArray[np.int64], *, by_depth: bool) -> list[int]:
    """Return the order of taxa: by the mean row of their objects, or the most frequent first."""
    totals = counts.sum(axis=0)
    if not by_depth:
        return [int(taxon) for taxon in np.argsort(-totals, kind="stable")]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    weight = share.sum(axis=0)
    mean_row = (np.arange(len(counts)) @ share) / np.maximum(weight, 1e-12)
    return [int(taxon) for taxon in np.lexsort((-totals, mean_row))]
