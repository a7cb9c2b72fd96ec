"""Outcomes of an audit's draws: whether a label confirms the call, contradicts it, or leaves it open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fossilray.analysis.stratigraphy.determined import name_at
from fossilray.core.config.choices import TaxonRank
from fossilray.labels.audit.audit_record import Audit, AuditDraw
from fossilray.labels.determinations import Determination, Determinations
from fossilray.labels.taxonomy import Taxonomy, lineage_of, taxon_key

OutcomeKind = Literal["right", "wrong", "unlabelled", "doubtful", "coarser", "without a name", "contradicted"]
OPEN_KINDS: tuple[OutcomeKind, ...] = ("unlabelled", "doubtful", "coarser", "without a name", "contradicted")
"""Outcomes that decide nothing. `coarser`: the label names a taxon that the called one belongs to."""


@dataclass(frozen=True)
class AuditOutcome:
    """What the labels of a drawn object make of its call."""

    kind: OutcomeKind
    name: str | None = None
    """What the object is: the called taxon if the call is right, else the taxon or kind that the label states; None:
    open."""
    is_fossil: bool = True
    """False: it is labelled as what is not a whole fossil."""


def outcomes_of(
    audit: Audit,
    determinations: Determinations,
    *,
    taxonomy: Taxonomy | None = None,
    rank: TaxonRank = "genus",
) -> list[AuditOutcome]:
    """Return the outcome of each draw, in the order of the draws.

    A call is right if the label names it, or a finer taxon of it; the kind of what is not a fossil counts as its name.

    Args:
        taxonomy: synonyms are one taxon, and coarser taxa are known.
        rank: at which other taxa are named where the head lacks them.
    """
    classes = {taxon_key(taxon): taxon for stratum in audit.record.strata for taxon in stratum.taxa}

    def outcome(draw: AuditDraw) -> AuditOutcome:
        if draw.key in determinations.conflicts:
            return AuditOutcome("contradicted")
        if draw.key not in determinations.by_object:
            return AuditOutcome("unlabelled")
        determination = determinations.by_object[draw.key]
        open_kind = _open_kind(draw.call, determination, taxonomy)
        if open_kind is not None:
            return AuditOutcome(open_kind, is_fossil=determination.kind == "fossil")
        if determination.kind != "fossil":
            name = classes.get(taxon_key(determination.kind), determination.kind)
        elif _is_named(draw.call, determination, taxonomy):
            name = draw.call
        else:
            name = name_at(determination.names, classes, taxonomy=taxonomy, rank=rank)
        is_right = taxon_key(name) == taxon_key(draw.call)
        return AuditOutcome("right" if is_right else "wrong", name, determination.kind == "fossil")

    return [outcome(draw) for draw in audit.draws]


def reached_draws(outcomes: Sequence[AuditOutcome]) -> int:
    """Return how many draws were reached: up to the last labelled one in the random order.

    The draws after it are no part of the sample so far, and those before it without a label were passed over.
    """
    return max((number for number, each in enumerate(outcomes, 1) if each.kind != "unlabelled"), default=0)


def _open_kind(call: str, determination: Determination, taxonomy: Taxonomy | None) -> OutcomeKind | None:
    """Return why a determination decides nothing about a call; None if it decides."""
    if determination.kind != "fossil":
        return "doubtful" if determination.is_uncertain else None
    if not determination.names:
        return "doubtful" if determination.is_uncertain else "without a name"
    if _is_named(call, determination, taxonomy):
        return None
    lineage = lineage_of(call, taxonomy)
    common = determination.names.keys() & lineage.keys()
    is_coarser = common and all(
        taxon_key(determination.names[level]) == taxon_key(lineage[level]) for level in common
    )
    return "coarser" if is_coarser else None


def _is_named(call: str, determination: Determination, taxonomy: Taxonomy | None) -> bool:
    """Whether a label of a fossil names the called taxon, or a finer one of it."""
    if determination.kind != "fossil":
        return False
    row = None if taxonomy is None else taxonomy.find(call)
    key = taxon_key(call if row is None else row.name)
    return any(taxon_key(name) == key for name in determination.names.values())
