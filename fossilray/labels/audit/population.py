"""Populations of audits: the calls that a request leaves, and the SQL that selects them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fossilray.core.config.choices import NotFossils
from fossilray.core.errors import UsageError
from fossilray.core.text import list_some
from fossilray.labels.audit.audit_record import AuditPopulation
from fossilray.labels.current import labels_of_run
from fossilray.labels.label_set import LabelSet
from fossilray.labels.occurrence import OBJECT_KINDS
from fossilray.labels.taxonomy import Taxonomy, lineage_of, taxon_key
from fossilray.store import RunStore
from fossilray.store.derived.listing import DerivedListing
from fossilray.store.query.views import quote


@dataclass(frozen=True)
class KeptCalls:
    """The calls that a threshold keeps, as `select_confident` chooses it."""

    wrong: float
    """Share of wrong calls that was accepted."""
    wrong_p: float
    """Highest p-value that is kept."""
    novelty_p: float
    """Objects with a p-value of novelty up to this one are not kept."""


@dataclass(frozen=True)
class AuditRequest:
    """What to draw from."""

    predictions: str | None = None
    """A name; None: the newest."""
    well: str | None = None
    where: str | None = None
    """SQL condition on the columns of `objects`."""
    leave_out: tuple[str, ...] = ()
    """Called taxa, or groups of the taxonomy, that are left out."""
    not_fossils: NotFossils = "classes"
    """`leave-out`: calls of kinds such as wood and dirt are left out."""
    taxonomy: Taxonomy | None = None
    kept: KeptCalls | None = None
    labels: Path | None = None
    """A label set, whose objects are left out."""


def limit_population(
    store: RunStore, request: AuditRequest, predictions: DerivedListing
) -> tuple[AuditPopulation, Sequence[tuple[str, int]]]:
    """Return the population, and the labelled objects that are left out of it."""
    classes = tuple((predictions.results.record.head or {}).get("classes", ()))
    left_out = _left_out_classes(classes, request)
    labelled: Sequence[tuple[str, int]] = ()
    version = None
    if request.labels is not None:
        version = LabelSet.open(request.labels).labels().version
        labelled = labels_of_run(request.labels, store, version=version or None).labelled
    kept = request.kept
    return (
        AuditPopulation(
            well=request.well,
            where=request.where,
            left_out=left_out,
            wrong=None if kept is None else kept.wrong,
            wrong_p=None if kept is None else kept.wrong_p,
            novelty_p=None if kept is None else kept.novelty_p,
            label_set=None if request.labels is None else request.labels.resolve().name,
            label_version=version,
        ),
        labelled,
    )


def _left_out_classes(classes: Sequence[str], request: AuditRequest) -> tuple[str, ...]:
    """Return the classes of a head that are left out by their names, their taxa, or as no fossils.

    Raises:
        UsageError: a name is neither a class nor a taxon of one.
    """
    names = {
        name: {taxon_key(name), *map(taxon_key, lineage_of(name, request.taxonomy).values())}
        for name in classes
    }
    wanted = {taxon_key(name): name for name in request.leave_out}
    known = set().union(*names.values()) if names else set()
    if missing := [name for key, name in wanted.items() if key not in known]:
        raise UsageError(
            f"{list_some(missing)} is no class of the head and cannot be left out; its classes are "
            f"{list_some(classes, most=20)}"
        )
    kinds = {taxon_key(kind) for kind in OBJECT_KINDS if kind != "fossil"}
    unwanted = set(wanted) | (kinds if request.not_fossils == "leave-out" else set())
    return tuple(name for name in classes if names[name] & unwanted)


def population_sql(population: AuditPopulation, predictions: str, *, has_labels: bool) -> str:
    """Return SQL of the population's objects: the part that follows `SELECT … `."""
    conditions = ["genus IS NOT NULL"]
    joins = ""
    if population.where:
        # The line breaks keep a comment at the end of the condition from swallowing what follows.
        conditions.append(f"(\n{population.where}\n)")
    if population.well is not None:
        conditions.append(f"well = {quote(population.well)}")
    if population.left_out:
        conditions.append(f"genus NOT IN ({', '.join(map(quote, population.left_out))})")
    if population.wrong is not None:
        joins += (
            f" SEMI JOIN (SELECT slide_id, object_id FROM predictions WHERE head = {quote(predictions)} "
            f"AND wrong_p <= {population.wrong_p!r} AND novelty_p > {population.novelty_p!r}) "
            "USING (slide_id, object_id)"
        )
    if has_labels:
        joins += " ANTI JOIN labelled USING (slide_id, object_id)"
    return f"FROM (SELECT * FROM objects WHERE {' AND '.join(conditions)}){joins}"
