"""How many objects of each taxon the samples of a well hold: what a range chart is drawn from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
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
    """What is known of the taxa of all slides of a well at one depth, or of one slide where none is known."""

    label: str
    depth_m: float | None
    slides: int
    asked: int
    """Slides that have predictions."""
    counts: NDArray[np.int64]
    """Objects of each taxon of the assemblages."""
    without: int
    """Objects that have no taxon because their pixels could not be read."""

    @property
    def total(self) -> int:
        """Objects that have a taxon."""
        return int(self.counts.sum())

    @property
    def is_barren(self) -> bool:
        """All its slides were asked about, and no object has a taxon."""
        return self.asked == self.slides and not self.total


@dataclass(frozen=True)
class Assemblages:
    """The samples of a well from the top down, and the taxa that any of them holds, in the order of a chart."""

    well: str
    taxa: tuple[str, ...]
    samples: tuple[TaxonSample, ...]
    left_out: int
    """Slides without a depth in a well where others have one."""

    @property
    def has_depths(self) -> bool:
        return self.samples[0].depth_m is not None

    @property
    def unasked(self) -> int:
        """Slides that have no predictions."""
        return sum(sample.slides - sample.asked for sample in self.samples)

    @property
    def objects(self) -> int:
        """Objects that have a taxon."""
        return sum(sample.total for sample in self.samples)


def gather_assemblages(
    con: Connection, slides: Sequence[SlideSummary], asked: Collection[str]
) -> Assemblages:
    """The taxa of one well's slides, counted in the view `objects`, which has the column `genus`.

    slides: at least one, in the order of rows where no depth is known. asked: slide_ids that have predictions.
    Taxa stand by the mean depth of their objects, the youngest first, and without depths by their number.
    """
    with_depth = [slide for slide in slides if slide.measured_depth_m is not None]
    shown = sorted(with_depth, key=lambda slide: slide.measured_depth_m or 0.0) or list(slides)
    groups: dict[float | str, list[SlideSummary]] = {}
    for slide in shown:
        key = slide.slide_id if slide.measured_depth_m is None else slide.measured_depth_m
        groups.setdefault(key, []).append(slide)
    counts = _count(con, slides[0].well)
    names = sorted({genus for of_slide in counts.values() for genus in of_slide if genus is not None})
    samples = [_sample(group, names, counts, asked) for group in groups.values()]
    order = _order(np.array([sample.counts for sample in samples]), by_depth=bool(with_depth))
    return Assemblages(
        well=slides[0].well,
        taxa=tuple(names[taxon] for taxon in order),
        samples=tuple(
            TaxonSample(one.label, one.depth_m, one.slides, one.asked, one.counts[order], one.without)
            for one in samples
        ),
        left_out=len(slides) - len(shown),
    )


def _count(con: Connection, well: str) -> dict[str, dict[str | None, int]]:
    """Objects of each genus (None: without) of each slide of a well."""
    quoted = well.replace("'", "''")
    sql = f"SELECT slide_id, genus, count(*) AS count FROM objects WHERE well = '{quoted}' GROUP BY ALL"
    counts: dict[str, dict[str | None, int]] = {}
    for row in query_table(con, sql).to_pylist():
        counts.setdefault(row["slide_id"], {})[row["genus"]] = row["count"]
    return counts


def _sample(
    group: Sequence[SlideSummary],
    names: Sequence[str],
    counts: dict[str, dict[str | None, int]],
    asked: Collection[str],
) -> TaxonSample:
    found = [counts.get(slide.slide_id, {}) for slide in group if slide.slide_id in asked]
    return TaxonSample(
        label=PurePosixPath(group[0].path).stem,
        depth_m=group[0].measured_depth_m,
        slides=len(group),
        asked=len(found),
        counts=np.array([sum(one.get(name, 0) for one in found) for name in names], np.int64),
        without=sum(one.get(None, 0) for one in found),
    )


def _order(counts: NDArray[np.int64], *, by_depth: bool) -> list[int]:
    """Taxa by the mean row of their objects, rows being samples from the top down; or the most frequent first."""
    totals = counts.sum(axis=0)
    if not by_depth:
        return [int(taxon) for taxon in np.argsort(-totals, kind="stable")]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    weight = share.sum(axis=0)
    mean_row = (np.arange(len(counts)) @ share) / np.maximum(weight, 1e-12)
    return [int(taxon) for taxon in np.lexsort((-totals, mean_row))]
