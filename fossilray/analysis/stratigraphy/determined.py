"""Counts of what experts determined in the samples of a well: labelled objects by taxon, and what is counted apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.assemblages import TaxonSample
from fossilray.analysis.stratigraphy.taxon_grouping import UNDETERMINED
from fossilray.core.config.choices import TaxonRank
from fossilray.labels.determinations import Determination, Determinations
from fossilray.labels.taxonomy import RANKS, Lineage, Taxonomy, taxon_key
from fossilray.store.query.connection import query_table

if TYPE_CHECKING:
    from fossilray.store.query.connection import Connection

DISPLACED = ("reworked", "caved", "contaminant")
"""Situations whose specimens are no part of the assemblage of their sample."""
UNCERTAIN = "uncertain"
UNNAMED = "without a name"
MARKER = "marker"

_ObjectKey = tuple[str, int]


@dataclass(frozen=True)
class DeterminedCounts:
    """What experts determined in the samples of a well."""

    determinations: Determinations
    names: tuple[str, ...]
    """Classes of the head and other names; a name that ends in UNDETERMINED is of a coarser rank than the chart's."""
    counts: NDArray[np.int64]
    """(samples, names) labelled objects, which no prediction counts."""
    apart: tuple[Mapping[str, int], ...]
    """Of each sample the labelled objects that are no part of its assemblage, by what they are: a situation of
    DISPLACED, a kind that the head does not have as a class, MARKER, UNCERTAIN or UNNAMED."""
    called: NDArray[np.int64]
    """(samples, labels) predictions of all these objects."""
    without_prediction: NDArray[np.int64]
    """(samples,) these objects in classified slides that have no prediction."""
    conflicts: tuple[str, ...]
    """Objects of the samples whose labels contradict each other; their predictions are counted."""
    uncharted: int
    """Labelled objects on slides of the well that are in no sample."""


def count_determinations(
    determinations: Determinations,
    samples: Sequence[TaxonSample],
    labels: Sequence[str],
    *,
    con: Connection | None,
    well_slides: Sequence[str],
    markers: Sequence[str | None],
    taxonomy: Taxonomy | None,
    rank: TaxonRank,
) -> DeterminedCounts:
    """Count the determinations in samples.

    Args:
        labels: classes of the head; a label is counted under the finest of them that it names.
        con: its view `objects` has the predictions of the classified slides; None: there are none.
        well_slides: slide_ids of the well, also those that are in no sample.
        markers: the marker of each sample's spike.
    """
    row_of = {slide_id: row for row, sample in enumerate(samples) for slide_id in sample.slide_ids}
    keys = {taxon_key(label): label for label in labels}
    counted: list[Counter[str]] = [Counter() for _ in samples]
    apart: list[Counter[str]] = [Counter() for _ in samples]
    for (slide_id, _), determination in determinations.by_object.items():
        if slide_id not in row_of:
            continue
        row = row_of[slide_id]
        name = _why_apart(determination, keys, is_spiked=markers[row] is not None)
        if name is not None:
            apart[row][name] += 1
        elif determination.is_marker:
            marker = markers[row] or MARKER
            counted[row][keys.get(taxon_key(marker), marker)] += 1
        elif determination.kind != "fossil":
            counted[row][keys[taxon_key(determination.kind)]] += 1
        else:
            counted[row][name_at(determination.names, keys, taxonomy=taxonomy, rank=rank)] += 1
    names = tuple(dict.fromkeys([*labels, *sorted({name for counts in counted for name in counts})]))
    called, without = _count_called(con, determinations, row_of, len(samples), labels)
    return DeterminedCounts(
        determinations,
        names,
        np.array([[counts[name] for name in names] for counts in counted], np.int64).reshape(
            len(samples), -1
        ),
        tuple(dict(sorted(counts.items())) for counts in apart),
        called,
        without,
        tuple(text for (slide_id, _), text in determinations.conflicts.items() if slide_id in row_of),
        sum(slide_id in well_slides and slide_id not in row_of for slide_id, _ in determinations.by_object),
    )


def name_at(names: Lineage, classes: Mapping[str, str], *, taxonomy: Taxonomy | None, rank: TaxonRank) -> str:
    """Return the name under which a determination is charted.

    Without a taxonomy this is the finest name that the head has as a class, because classes are charted as they are.
    Otherwise it is the name at the rank; a coarser one is undetermined, and a taxon without a name at the rank keeps
    the next finer one.

    Args:
        names: at least one name, from fine to coarse.
        classes: classes of the head by their `taxon_key`.
    """
    known = [classes[key] for name in names.values() if (key := taxon_key(name)) in classes]
    if known and taxonomy is None:
        return known[0]
    finer = [level for level in RANKS[RANKS.index(rank) :: -1] if level in names]
    if finer:
        return names[finer[0]]
    finest = next(iter(names.values()))
    return classes.get(taxon_key(finest), f"{finest}{UNDETERMINED}")


def describe_determinations(counts: DeterminedCounts) -> Iterator[str]:
    """Describe what was labelled in a well in sentences."""
    source = counts.determinations.source
    number, samples = int(counts.counts.sum()), int((counts.counts.sum(axis=1) > 0).sum())
    yield (
        f"label set {source}, version {counts.determinations.version}: {number:,} objects determined in {samples} of "
        f"{len(counts.counts)} samples, which are counted as labelled"
    )
    coarse = {
        name: int(total)
        for name, total in zip(counts.names, counts.counts.sum(axis=0).tolist(), strict=True)
        if name.endswith(UNDETERMINED)
    }
    if coarse:
        yield (
            "labelled at a coarser rank than the chart's, in columns of their own: "
            + ", ".join(f"{name} {total:,}" for name, total in coarse.items())
        )
    apart = sum((Counter(of_sample) for of_sample in counts.apart), Counter[str]())
    displaced = [f"{apart[name]:,} {name}" for name in DISPLACED if apart[name]]
    if displaced:
        yield f"counted apart, in no range and no assemblage: {', '.join(displaced)}"
    others = [f"{number:,} {name}" for name, number in apart.items() if name not in (*DISPLACED, UNCERTAIN)]
    if others:
        yield f"labelled as no taxon, counted apart: {', '.join(others)}"
    if apart[UNCERTAIN]:
        yield (
            f"{apart[UNCERTAIN]:,} labels with cf., aff., ? or a doubt name no taxon without it and are counted "
            "apart; --uncertain train counts their names"
        )
    elif counts.determinations.uncertain == "train":
        yield "labels with cf., aff., ? or a doubt are counted under their names (--uncertain train)"
    if counts.conflicts:
        yield (
            f"{len(counts.conflicts)} objects have labels that contradict each other and are counted as if they had "
            f"none: {'; '.join(counts.conflicts[:4])}{'; …' if len(counts.conflicts) > 4 else ''}"
        )
    if counts.uncharted:
        yield f"{counts.uncharted:,} labelled objects are on slides of the well that are not charted"


def _why_apart(determination: Determination, classes: Mapping[str, str], *, is_spiked: bool) -> str | None:
    """Return under what name an object is counted apart; None: it is a part of the assemblage, or of the spike."""
    if determination.situation in DISPLACED:
        return determination.situation
    if determination.is_marker:
        return None if is_spiked else MARKER
    if determination.kind != "fossil":
        return None if taxon_key(determination.kind) in classes else determination.kind
    if determination.names:
        return None
    return UNCERTAIN if determination.is_uncertain else UNNAMED


def _count_called(
    con: Connection | None,
    determinations: Determinations,
    row_of: Mapping[str, int],
    samples: int,
    labels: Sequence[str],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the predictions (samples, labels) of determined objects, and the number (samples,) of those without."""
    called = np.zeros((samples, len(labels)), np.int64)
    without = np.zeros(samples, np.int64)
    keys: list[_ObjectKey] = [key for key in determinations.by_object if key[0] in row_of]
    if con is None or not keys:
        return called, without
    con.register(
        "determined_objects",
        pa.table(
            {
                "slide_id": pa.array([slide_id for slide_id, _ in keys], pa.string()),
                "object_id": pa.array([object_id for _, object_id in keys], pa.int32()),
            }
        ),
    )
    rows = query_table(
        con,
        "SELECT slide_id, genus, count(*) AS count FROM objects JOIN determined_objects USING (slide_id, object_id) "
        "GROUP BY ALL",
    ).to_pylist()
    column_of = {label: column for column, label in enumerate(labels)}
    for row in rows:
        if row["genus"] is None:
            without[row_of[row["slide_id"]]] += row["count"]
        else:
            called[row_of[row["slide_id"]], column_of[row["genus"]]] += row["count"]
    return called, without
