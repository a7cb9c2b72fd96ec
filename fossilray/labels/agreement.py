"""The class that the labels of an object give it, at a rank and by a taxonomy, and whether annotators contradict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fossilray.core.config.choices import NotFossils, TaxonRank, UncertainLabels
from fossilray.labels.occurrence import Occurrence
from fossilray.labels.taxonomy import RANKS, Lineage, Taxonomy, lineage_of, name_key


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
    """What the labels of one object say together."""

    name: str | None
    """The class; None if there is none."""
    reason: str = ""
    """Why there is no class, as a clause that follows a number of labels: `coarser than species`."""
    is_conflict: bool = False


def agree(occurrences: Sequence[Occurrence], naming: Naming) -> Agreement:
    """Return the class on which all labels of one object agree.

    Labels contradict each other if their kinds differ, or if they name two taxa of one rank, at the rank of `naming` or
    above it. The class is the finest name that all of them state as certain; a qualifier (cf., aff., ?) and the mark
    `unsure` leave a name uncertain, and all finer ones.
    """
    kinds = {one.kind for one in occurrences}
    if len(kinds) > 1:
        return Agreement(None, "contradicted", is_conflict=True)
    (kind,) = kinds
    lineages = [_lineage(one.taxon, one, naming) for one in occurrences]
    if _contradict(lineages, exact=naming.taxonomy is None):
        return Agreement(None, "contradicted", is_conflict=True)
    if kind != "fossil" and naming.not_fossils == "leave-out":
        return Agreement(None, f"of what is not a whole fossil ({kind})")
    is_plain_fossil = naming.rank is None and not any(one.taxon or one.qualifier for one in occurrences)
    if kind != "fossil" or is_plain_fossil:
        is_certain = naming.uncertain == "train" or not any(one.is_unsure for one in occurrences)
        return Agreement(kind) if is_certain else Agreement(None, "uncertain")
    stated = (
        lineages
        if naming.uncertain == "train"
        else [_lineage(one.certain_taxon, one, naming) for one in occurrences]
    )
    return _common_name(lineages, stated, naming.rank)


def class_of(occurrence: Occurrence, naming: Naming) -> Agreement:
    """Return the class that one label gives."""
    return agree([occurrence], naming)


def _common_name(
    lineages: Sequence[Lineage], certain: Sequence[Lineage], rank: TaxonRank | None
) -> Agreement:
    """Return the finest name that all lineages share, if it is certain and of the rank."""
    shared, sure = _shared(lineages), _shared(certain)
    if not shared:
        return Agreement(None, "without a taxon")
    if rank is not None and rank not in shared:
        return Agreement(None, f"coarser than {rank}" if _has_coarser(shared, rank) else f"without a {rank}")
    wanted = rank if rank is not None else next(one for one in RANKS if one in shared)
    return Agreement(sure[wanted]) if wanted in sure else Agreement(None, "uncertain")


def _lineage(taxon: str, occurrence: Occurrence, naming: Naming) -> Lineage:
    """Return the names of a taxon at the rank of `naming` and above."""
    # The certain part of a species is its genus.
    rank = occurrence.rank if taxon == occurrence.taxon else None
    if naming.rank is None and naming.taxonomy is None:
        # Names as given stay whole; the genus of a species tells whether two names can be of one object.
        lineage = lineage_of(taxon, None, rank=rank)
    else:
        lineage = lineage_of(taxon, naming.taxonomy, rank=rank)
    first = 0 if naming.rank is None else RANKS.index(naming.rank)
    return {one: name for one, name in lineage.items() if RANKS.index(one) >= first}


def _contradict(lineages: Sequence[Lineage], *, exact: bool) -> bool:
    """Whether two lineages have different names at a rank, or none of their ranks in common."""
    for number, one in enumerate(lineages):
        for other in lineages[number + 1 :]:
            common = one.keys() & other.keys()
            pairs = [(one[rank], other[rank]) for rank in common]
            if any(a != b and (exact or name_key(a) != name_key(b)) for a, b in pairs):
                return True
            if one and other and not common:
                return True
    return False


def _shared(lineages: Sequence[Lineage]) -> Lineage:
    """Return the names that all lineages have."""
    first = lineages[-1]
    return {rank: first[rank] for rank in RANKS if all(rank in one for one in lineages)}


def _has_coarser(lineage: Lineage, rank: TaxonRank) -> bool:
    return any(RANKS.index(one) > RANKS.index(rank) for one in lineage)
