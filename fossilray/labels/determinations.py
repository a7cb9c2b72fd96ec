"""Determinations by experts: what the labels of each object of a run state together, for counts of samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fossilray.core.config.choices import TaxonRank, UncertainLabels
from fossilray.labels.agreement import Naming, agree, shared_names
from fossilray.labels.current import attempts_of, labels_of_run
from fossilray.labels.occurrence import Kind, Situation
from fossilray.labels.taxonomy import Lineage, Taxonomy
from fossilray.store import RunStore


@dataclass(frozen=True)
class Determination:
    """What the labels of one object state together."""

    kind: Kind
    situation: Situation | None
    """Of the newest label that states one."""
    is_marker: bool
    """Whether it is a grain of the spike that was added to the sample."""
    names: Lineage
    """The names that all labels state, by rank, without doubt; empty if there are none."""
    is_uncertain: bool
    """Whether labels name a taxon, and none without doubt."""


@dataclass(frozen=True)
class Determinations:
    """The determinations of a run's objects."""

    source: str
    """Name of the label set."""
    version: int
    uncertain: UncertainLabels
    by_object: Mapping[tuple[str, int], Determination]
    """By slide_id and object_id."""
    conflicts: Mapping[tuple[str, int], str]
    """Objects whose labels contradict each other, in words; they are not determined."""
    moved: int
    """Objects whose labels are of another attempt or run, and were matched by their position."""
    without: Mapping[str, int]
    """Number of labelled objects that the run does not have, by reason."""


def read_determinations(
    folder: Path,
    store: RunStore,
    *,
    taxonomy: Taxonomy | None = None,
    rank: TaxonRank = "genus",
    uncertain: UncertainLabels = "leave-out",
) -> Determinations:
    """Return what the labels of a label set determine of a run's objects, with the names of all ranks.

    Args:
        taxonomy: synonyms are one taxon; labels contradict each other where they name two taxa of `rank` or of a
            coarser one. None: where they name two taxa of any rank, as `labels status` counts them.
        uncertain: `train`: names with cf., aff., ? or a doubt count as well.

    Raises:
        UsageError: the folder is not a label set.
        StoreError: the label set is damaged, or the run cannot be read.
    """
    naming = Naming(None if taxonomy is None else rank, taxonomy, uncertain=uncertain)
    of_run = labels_of_run(folder, store, naming=naming)
    all_ranks = Naming(taxonomy=naming.taxonomy, uncertain=naming.uncertain)
    attempts = attempts_of(store)
    determined: dict[tuple[str, int], Determination] = {}
    conflicts: dict[tuple[str, int], str] = {}
    for key, labels in of_run.merged.by_object.items():
        if attempts.get(key[0]) != key[2]:
            continue
        occurrences = [label.occurrence for label in labels]
        if agree(occurrences, naming).is_conflict:
            conflicts[key[0], key[1]] = of_run.merged.conflicts[key].text
            continue
        stated, names = shared_names(occurrences, all_ranks)
        is_unsure = naming.uncertain == "leave-out" and any(each.is_unsure for each in occurrences)
        determined[key[0], key[1]] = Determination(
            kind=occurrences[-1].kind,
            situation=next((each.situation for each in reversed(occurrences) if each.situation), None),
            is_marker=any(each.specimen == "marker" for each in occurrences),
            names=names,
            is_uncertain=not names and (is_unsure or bool(stated)),
        )
    return Determinations(
        folder.name,
        of_run.merged.version,
        naming.uncertain,
        determined,
        conflicts,
        len(of_run.matches.moved),
        of_run.matches.reasons,
    )
