"""Reports of audits: how many calls are wrong at most, in all and by called taxon, and the corrected shares of taxa."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from fossilray.analysis.audit.bounds import MOST_TAIL, draws_needed
from fossilray.analysis.audit.estimates import (
    BoundedShare,
    WrongCalls,
    corrected_shares,
    sample_of,
    unseen_bound,
    wrong_calls,
)
from fossilray.analysis.audit.outcomes import OPEN_KINDS, outcomes_of, reached_draws
from fossilray.analysis.stratigraphy.intervals import LEVEL
from fossilray.core.atomic_files import make_folder, write_atomically
from fossilray.core.config.choices import TaxonRank
from fossilray.core.errors import UsageError
from fossilray.core.text import counted, format_percent
from fossilray.labels.audit.audit_record import Audit, AuditRecord
from fossilray.labels.audit.audited_run import refuse_other_objects
from fossilray.labels.determinations import Determinations
from fossilray.labels.taxonomy import Taxonomy
from fossilray.render.tables import encode_table
from fossilray.store import RunStore

_OPEN_TEXTS: Mapping[str, str] = {
    "unlabelled": "passed over without a label",
    "doubtful": "with cf., aff., ? or a doubt (--uncertain train counts their names)",
    "coarser": "labelled coarser than the call",
    "without a name": "labelled as a fossil without a name",
    "contradicted": "with labels that contradict each other",
}


@dataclass(frozen=True)
class TaxonWrongCalls:
    """Wrong calls of one called taxon, or of rare ones that are one stratum."""

    call: str
    objects: int
    """Calls in the population."""
    found: WrongCalls
    draws_needed: int | None
    """Draws that would show the stated bound on the share of wrong calls; None: no number does, or none is stated."""


@dataclass(frozen=True)
class AuditedShare:
    """Share of one taxon, or kind of what is no fossil, in the population."""

    name: str
    called: float
    """Share of the calls."""
    corrected: BoundedShare


@dataclass(frozen=True)
class AuditReport:
    """What an audit found so far."""

    record: AuditRecord
    labels: str
    """Name of the label set."""
    label_version: int
    level: float
    bound: float | None
    """The stated bound on the share of wrong calls."""
    drawn: int
    """Draws."""
    outcomes: Mapping[str, int]
    """Number of reached draws by outcome."""
    no_fossils: int
    """Reached draws that are labelled as what is not a whole fossil."""
    total: WrongCalls
    draws_needed: int | None
    """As of a taxon, for all calls."""
    by_call: tuple[TaxonWrongCalls, ...]
    shares: tuple[AuditedShare, ...]
    unseen_high: float
    """Share that a taxon has at most that no draw shows."""

    @property
    def reached(self) -> int:
        """Draws up to the last labelled one."""
        return self.total.draws


def report_audit(
    store: RunStore,
    audit: Audit,
    determinations: Determinations,
    *,
    taxonomy: Taxonomy | None = None,
    rank: TaxonRank = "genus",
    level: float = LEVEL,
    bound: float | None = None,
) -> AuditReport:
    """Return what the labels of an audit's objects show.

    Args:
        determinations: labels of the run's objects.
        level: confidence level of each bound on a share of wrong calls, and of each interval of a corrected share.
        bound: a share of wrong calls, for which the numbers of draws needed are computed.

    Raises:
        UsageError: no draw has a label, the audit is of other objects than the run's, or `level` is below 0.75.
    """
    if 1 - level > MOST_TAIL:
        raise UsageError(
            f"--confidence-level is {level:g}, and the bounds of audits are exact from {1 - MOST_TAIL:g} on; give "
            "a higher one"
        )
    refuse_other_objects(audit, store)
    outcomes = outcomes_of(audit, determinations, taxonomy=taxonomy, rank=rank)
    reached = reached_draws(outcomes)
    if not reached:
        raise UsageError(
            f"none of the {len(audit.objects)} objects of the audit {audit.record.id} has a label in "
            f"{determinations.source}; label them and import them with `fossilray labels import`"
        )
    pairs = list(zip(audit.draws, outcomes, strict=True))[:reached]
    strata = audit.record.strata
    sample = sample_of(strata, [(draw.stratum, draw.is_marked, draw.call, each.name) for draw, each in pairs])
    total, of_strata = wrong_calls(sample, level=level)

    def needed(calls: WrongCalls, scale: float = 1.0) -> int | None:
        if bound is None or calls.share.share is None:
            return None
        return draws_needed(calls.share.share, bound, tail=1 - level, scale=scale)

    called = {
        name: size / audit.record.objects
        for stratum in strata
        for name, size in zip(stratum.taxa, stratum.sizes, strict=True)
    }
    return AuditReport(
        record=audit.record,
        labels=determinations.source,
        label_version=determinations.version,
        level=level,
        bound=bound,
        drawn=len(audit.draws),
        outcomes=dict(sorted(Counter(each.kind for _, each in pairs).items())),
        no_fossils=sum(not each.is_fossil for _, each in pairs),
        total=total,
        draws_needed=needed(total, sample.scale),
        by_call=tuple(
            TaxonWrongCalls(" + ".join(stratum.taxa), stratum.objects, of_it, needed(of_it))
            for stratum, of_it in zip(strata, of_strata, strict=True)
        ),
        shares=tuple(
            AuditedShare(name, called.get(name, 0.0), share)
            for name, share in zip(sample.names, corrected_shares(sample, level=level), strict=True)
        ),
        unseen_high=unseen_bound(sample, level=level),
    )


def describe_audit(report: AuditReport) -> Iterator[str]:
    """Describe an audit and what it found, in sentences."""
    record, total = report.record, report.total
    yield (
        f"audit {record.id} of the predictions {record.predictions}, head {record.head_sha256[:12]}…: "
        f"{record.population.describe()}; {record.objects:,} objects"
    )
    yield (
        f"{report.reached:,} of {report.drawn:,} draws are labelled in their random order, in {report.labels}, "
        f"version {report.label_version}"
    )
    if report.reached < report.drawn:
        yield (
            f"{report.drawn - report.reached:,} draws after the last labelled one are not part of the sample yet; "
            "bounds hold as they are, and narrow with more labels"
        )
    for kind in OPEN_KINDS:
        if number := report.outcomes.get(kind):
            yield (
                f"{number:,} {_OPEN_TEXTS[kind]}: in no estimate, and in each bound as right or wrong, whichever "
                "widens it"
            )
    if report.no_fossils:
        yield (
            f"{report.no_fossils:,} are labelled as what is not a whole fossil: a call of that kind is right, any "
            "other is wrong"
        )
    share = total.share
    estimate = (
        "no draw decides" if share.share is None else f"estimate {format_percent(share.share, decimals=1)}"
    )
    yield (
        f"wrong calls: {total.wrong:,} of {total.draws:,} draws; {estimate}; at most {format_high(share.high)} and "
        f"at least {format_low(share.low)}, each at {100 * report.level:g} % confidence"
    )
    if report.bound is not None:
        yield _describe_need(report, report.bound)
    yield f"a taxon that no draw shows has at most {format_high(report.unseen_high)} of the objects"


def format_high(bound: float) -> str:
    """Return an upper bound in per cent, rounded up."""
    return format_percent(min(math.ceil(1000 * bound - 1e-6) / 1000, 1.0), decimals=1)


def format_low(bound: float) -> str:
    """Return a lower bound in per cent, rounded down."""
    return format_percent(math.floor(1000 * bound + 1e-6) / 1000, decimals=1)


def _describe_need(report: AuditReport, bound: float) -> str:
    stated = f"a bound of {format_percent(bound)} on all calls"
    share = report.total.share.share
    if report.total.share.high <= bound:
        return f"{stated} holds already"
    if share is None or share >= bound:
        return f"{stated} cannot be shown, because the estimated share is not below it"
    if report.draws_needed is None:
        return f"{stated} needs more draws than can be labelled, because the estimated share is close to it"
    if report.draws_needed >= report.record.objects:
        return (
            f"{stated} needs labels of all {report.record.objects:,} objects, if as many are wrong as so far"
        )
    return (
        f"{stated} needs about {counted(report.draws_needed, 'draw')}, if as many of them are wrong as so far; "
        "draw a new audit of that size"
    )


def wrong_calls_table(report: AuditReport) -> pa.Table:
    """Return one row per called taxon, the most frequent first, after one of all calls."""
    ranked = sorted(report.by_call, key=lambda row: (-row.objects, row.call))
    every = TaxonWrongCalls("all calls", report.record.objects, report.total, report.draws_needed)
    rows = [
        {
            "call": row.call,
            "objects": row.objects,
            "draws": row.found.draws,
            "wrong": row.found.wrong,
            "open": row.found.open,
            "wrong_share": row.found.share.share,
            "at_least": row.found.share.low,
            "at_most": row.found.share.high,
            "draws_needed": row.draws_needed,
        }
        for row in (every, *ranked)
    ]
    table = pa.Table.from_pylist(rows, schema=_WRONG_SCHEMA)
    return table if report.bound is not None else table.drop_columns(["draws_needed"])


def shares_table(report: AuditReport) -> pa.Table:
    """Return one row per taxon or kind, with its share of the population as called and as corrected by the audit."""
    ranked = sorted(report.shares, key=lambda row: (-(row.corrected.share or 0.0), -row.called, row.name))
    columns = {
        "taxon": [row.name for row in ranked],
        "called_share": [row.called for row in ranked],
        "share": [row.corrected.share for row in ranked],
        "share_low": [row.corrected.low for row in ranked],
        "share_high": [row.corrected.high for row in ranked],
    }
    return pa.table({name: pa.array(values, _type_of(name)) for name, values in columns.items()})


def audit_json(report: AuditReport) -> str:
    """Return the whole report as JSON, on one line."""
    return json.dumps({"audit": report.record.id, **asdict(report)})


def write_audit_report(report: AuditReport, folder: Path) -> None:
    """Write wrong_calls.csv, shares.csv and report.json into a folder, which may exist.

    Raises:
        UsageError: they cannot be written.
    """
    make_folder(folder)
    write_atomically(folder / "wrong_calls.csv", encode_table(wrong_calls_table(report), "csv"))
    write_atomically(folder / "shares.csv", encode_table(shares_table(report), "csv"))
    write_atomically(folder / "report.json", audit_json(report) + "\n")


_WRONG_SCHEMA = pa.schema(
    [
        ("call", pa.string()),
        *((name, pa.int64()) for name in ("objects", "draws", "wrong", "open")),
        *((name, pa.float64()) for name in ("wrong_share", "at_least", "at_most")),
        ("draws_needed", pa.int64()),
    ]
)


def _type_of(column: str) -> pa.DataType:
    return pa.string() if column == "taxon" else pa.float64()
