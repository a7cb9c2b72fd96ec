"""The class that the labels of an object give it, at a rank and by a taxonomy, and whether annotators contradict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fossilray.core.config.choices import NotFossils, TaxonRank, UncertainLabels
from fossilray.labels.occurrence import Occurrence
from fossilray.labels.taxonomy import RANKS, Lineage, Taxonomy, lineage_of, taxon_key


@dataclass(frozen=True)
class Naming:
    """How labels are turned into classes."""

    rank: TaxonRank | None = None
    """None: each taxon as it is given, whatever its rank."""
    taxonomy: Taxonomy | None = None
    not_fossils: NotFossils = "classes"
    uncertain: UncertainLabels = "leave-out"


@dataclass(frozen=True)
class Agreement:
    """The class that the labels of one object give together."""

    name: str | None
    """The class; None if there is none."""
    reason: str = ""
    """Why there is no class, as a clause that follows a number of labels: `coarser than species`."""
    is_conflict: bool = False


def agree(occurrences: Sequence[Occurrence], naming: Naming) -> Agreement:
    """Return the class on which all labels of one object agree.

    Labels contradict each other if their kinds differ, or if they name two taxa of one rank, at the rank of `naming` or
    above it. The class is the finest name that all of them state without doubt; a qualifier (cf., aff., ?) and the mark
    `unsure` leave a name uncertain, and all finer ones.
    """
    kinds = {occurrence.kind for occurrence in occurrences}
    if len(kinds) > 1:
        return Agreement(None, "contradicted", is_conflict=True)
    (kind,) = kinds
    lineages = [_lineage(occurrence.taxon, occurrence, naming) for occurrence in occurrences]
    if _contradict(lineages):
        return Agreement(None, "contradicted", is_conflict=True)
    if kind != "fossil" and naming.not_fossils == "leave-out":
        return Agreement(None, f"of what is not a whole fossil ({kind})")
    is_plain_fossil = naming.rank is None and not any(
        occurrence.taxon or occurrence.qualifier for occurrence in occurrences
    )
    if kind != "fossil" or is_plain_fossil:
        is_certain = naming.uncertain == "train" or not any(
            occurrence.is_unsure for occurrence in occurrences
        )
        return Agreement(kind) if is_certain else Agreement(None, "uncertain")
    stated = (
        lineages
        if naming.uncertain == "train"
        else [_lineage(occurrence.definite_taxon, occurrence, naming) for occurrence in occurrences]
    )
    return _common_name(lineages, stated, naming.rank)


def class_of(occurrence: Occurrence, naming: Naming) -> Agreement:
    """Return the class that one label gives."""
    return agree([occurrence], naming)


def shared_names(occurrences: Sequence[Occurrence], naming: Naming) -> tuple[Lineage, Lineage]:
    """Return the names that all labels of one object state, by rank, and those of them that are stated without doubt.

    Without `naming.rank` names of all ranks are returned. With `naming.uncertain` of `train` doubts are not regarded.
    """
    stated = _shared([_lineage(occurrence.taxon, occurrence, naming) for occurrence in occurrences])
    if naming.uncertain == "train":
        return stated, stated
    return stated, _shared(
        [_lineage(occurrence.definite_taxon, occurrence, naming) for occurrence in occurrences]
    )


def _common_name(
    lineages: Sequence[Lineage], definite: Sequence[Lineage], rank: TaxonRank | None
) -> Agreement:
    """Return the finest name that all lineages share, if it is of the rank and definite."""
    shared, sure = _shared(lineages), _shared(definite)
    if not shared:
        return Agreement(None, "without a taxon")
    if rank is not None and rank not in shared:
        return Agreement(None, f"coarser than {rank}" if _has_coarser(shared, rank) else f"without a {rank}")
    wanted = rank if rank is not None else next(level for level in RANKS if level in shared)
    return Agreement(sure[wanted]) if wanted in sure else Agreement(None, "uncertain")


def _lineage(taxon: str, occurrence: Occurrence, naming: Naming) -> Lineage:
    """Return the names of a taxon at the rank of `naming` and above."""
    # The definite part of a species is its genus.
    rank = occurrence.rank if taxon == occurrence.taxon else None
    if naming.rank is None and naming.taxonomy is None:
        # Names as given stay whole; the genus of a species shows whether two names can be of one object.
        lineage = lineage_of(taxon, None, rank=rank)
    else:
        lineage = lineage_of(taxon, naming.taxonomy, rank=rank)
    first = 0 if naming.rank is None else RANKS.index(naming.rank)
    return {level: name for level, name in lineage.items() if RANKS.index(level) >= first}


def _contradict(lineages: Sequence[Lineage]) -> bool:
    """Whether two lineages have different names at a rank, or none of their ranks in common."""
    for number, lineage in enumerate(lineages):
        for other in lineages[number + 1 :]:
            common = lineage.keys() & other.keys()
            pairs = [(lineage[rank], other[rank]) for rank in common]
            if any(taxon_key(a) != taxon_key(b) for a, b in pairs):
                return True
            if lineage and other and not common:
                return True
    return False


def _shared(lineages: Sequence[Lineage]) -> Lineage:
    """Return the names that all lineages have."""
    first = lineages[-1]
    return {rank: first[rank] for rank in RANKS if all(rank in lineage for lineage in lineages)}


def _has_coarser(lineage: Lineage, rank: TaxonRank) -> bool:
    return any(RANKS.index(level) > RANKS.index(rank) for level in lineage)
