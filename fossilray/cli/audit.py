"""Commands of audits: draw a random sample of a head's calls, and report what its labels show."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.chart import ConfidenceOption, LeaveOutOption, RankOption
from fossilray.cli.classify import NotFossilsOption
from fossilray.cli.options import (
    AUDIT_HELP,
    LIMIT_HELP,
    ConfigOption,
    JsonOption,
    NoveltyPOption,
    PredictionsOption,
    RunArgument,
    SeedOption,
    SetOption,
    TaxonomyOption,
    UncertainOption,
    WhereOption,
    open_store,
    outside_runs,
    require_predictions,
)
from fossilray.cli.output import out, print_line, working
from fossilray.core.errors import UsageError
from fossilray.core.text import counted, format_percent
from fossilray.core.text_table import TextColumn, TextTable

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from fossilray.labels.audit.audit_record import AuditRecord
    from fossilray.labels.audit.draw import DrawnAudit
    from fossilray.labels.audit.population import KeptCalls
    from fossilray.store import RunStore

BoundOption = Annotated[
    float | None,
    typer.Option(
        "--bound",
        min=0.0001,
        max=0.9,
        help="Share of wrong predictions that is to be shown; the number of objects needed for it is printed.",
    ),
]


def draw_sample(
    run: RunArgument,
    out_dir: Annotated[
        Path,
        typer.Option(
            "--out", callback=outside_runs, help="Output folder for images, tables and the record; a new one."
        ),
    ],
    limit: Annotated[int, typer.Option("--limit", min=2, max=20_000, help=LIMIT_HELP)] = 300,
    predictions: PredictionsOption = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Labelled crops so far, a label set; its objects are not audited."),
    ] = None,
    well: Annotated[
        str | None,
        typer.Option("--well", help="Name of the well, as the catalog has it.", show_default="all wells"),
    ] = None,
    where: WhereOption = None,
    leave_out: LeaveOutOption = None,
    not_fossils: NotFossilsOption = "classes",
    taxonomy: TaxonomyOption = None,
    wrong: Annotated[
        float | None,
        typer.Option(
            "--wrong",
            min=0.001,
            max=0.9,
            help="Share of wrong predictions to accept among those that are kept.",
            show_default="all predictions",
        ),
    ] = None,
    novelty_p: NoveltyPOption = 0.01,
    per_taxon: Annotated[
        int,
        typer.Option(
            "--per-taxon", min=1, help="Minimum number of objects of each predicted taxon, if --limit allows."
        ),
    ] = 10,
    show_predictions: Annotated[
        bool,
        typer.Option(
            "--show-predictions", help="Write predicted names into the tables, which biases the annotator."
        ),
    ] = False,
    bound: BoundOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Draw a random sample of predictions, spread over samples and taxa, to label without seeing the predictions."""
    from fossilray.labels.audit.draw import draw_audit
    from fossilray.labels.audit.population import AuditRequest
    from fossilray.labels.taxonomy import read_taxonomy

    require_predictions(predictions, because="an audit draws predictions")
    store = open_store(run, config, set_)
    with working("drawing"):
        drawn = draw_audit(
            store,
            out_dir,
            AuditRequest(
                predictions=predictions,
                well=well,
                where=where,
                leave_out=tuple(leave_out or ()),
                not_fossils=not_fossils,
                taxonomy=None if taxonomy is None else read_taxonomy(taxonomy),
                kept=None if wrong is None else _kept_calls(store, predictions, wrong, novelty_p),
                labels=labels,
            ),
            count=limit,
            per_taxon=per_taxon,
            shows_calls=show_predictions,
            seed=seed,
        )
    _print_drawn(drawn, out_dir, bound)


def report_wrong(
    run: RunArgument,
    audit: Annotated[Path, typer.Option("--audit", help=AUDIT_HELP)],
    labels: Annotated[
        Path,
        typer.Option("--labels", help="Labelled crops of the audit: a label set, imported from its folder."),
    ],
    bound: BoundOption = None,
    level: ConfidenceOption = 0.95,
    taxonomy: TaxonomyOption = None,
    rank: RankOption = "genus",
    uncertain: UncertainOption = "leave-out",
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", callback=outside_runs, help="Output folder for the tables, also as JSON."),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Report how many predictions are wrong at most, in all and by taxon, and shares of taxa corrected for them."""
    from fossilray.analysis.audit.report import (
        audit_json,
        describe_audit,
        report_audit,
        shares_table,
        write_audit_report,
        wrong_calls_table,
    )
    from fossilray.labels.audit.audit_record import read_audit
    from fossilray.labels.determinations import read_determinations
    from fossilray.labels.taxonomy import read_taxonomy

    drawn = read_audit(audit)
    taxa = None if taxonomy is None else read_taxonomy(taxonomy)
    store = open_store(run, config, set_)
    determinations = read_determinations(labels, store, taxonomy=taxa, rank=rank, uncertain=uncertain)
    audited = report_audit(store, drawn, determinations, taxonomy=taxa, rank=rank, level=level, bound=bound)
    if out_dir is not None:
        write_audit_report(audited, out_dir)
    if as_json:
        typer.echo(audit_json(audited))
        return
    for sentence in describe_audit(audited):
        print_line(sentence)
    _print_shares(wrong_calls_table(audited))
    _print_shares(shares_table(audited))
    if out_dir is not None:
        print_line(f"tables: {out_dir}")


def _print_shares(table: pa.Table) -> None:
    """Print a table, shares in per cent; bounds are rounded outwards."""
    from fossilray.analysis.audit.report import format_high, format_low

    formats: dict[str, Callable[[float], str]] = {
        **dict.fromkeys(("at_most", "share_high"), format_high),
        **dict.fromkeys(("at_least", "share_low"), format_low),
        **dict.fromkeys(("wrong_share", "called_share", "share"), partial(format_percent, decimals=1)),
    }
    first, *others = table.column_names
    shown = TextTable(first, *(TextColumn(name, is_number=True) for name in others))
    for row in table.to_pylist():
        numbers = (
            "" if row[name] is None else formats[name](row[name]) if name in formats else f"{row[name]:,}"
            for name in others
        )
        shown.add_row(row[first], *numbers)
    out.print(shown)


def _kept_calls(store: RunStore, predictions: str | None, wrong: float, novelty_p: float) -> KeptCalls:
    """Return the threshold that `fossilray calls` chooses.

    Raises:
        UsageError: no prediction can be kept.
    """
    from fossilray.analysis.discovery.confident_predictions import select_confident
    from fossilray.labels.audit.population import KeptCalls

    confident = select_confident(store, head=predictions, wrong_share=wrong, novelty_p=novelty_p)
    if confident.wrong_p is None:
        raise UsageError(
            f"no prediction of {confident.head} can be kept at --wrong {wrong:g}, so there is none to audit; accept a "
            "larger share"
        )
    return KeptCalls(wrong, confident.wrong_p, novelty_p)


def _print_drawn(drawn: DrawnAudit, out_dir: Path, bound: float | None) -> None:
    record = drawn.record
    draws = sum(stratum.draws for stratum in record.strata)
    print_line(
        f"audit {record.id} of {record.predictions}: {drawn.objects:,} of {record.objects:,} objects -> {out_dir}; "
        f"{record.population.describe()}"
    )
    taxa = counted(sum(len(stratum.taxa) for stratum in record.strata), "predicted taxon").replace(
        "taxons", "taxa"
    )
    print_line(
        f"in {taxa}; from wells "
        + ", ".join(f"{name}: {count}" for name, count in sorted(drawn.wells.items()))
    )
    if drawn.without_predictions:
        print_line(f"{drawn.without_predictions} slides without current predictions are not part of it")
    if draws == record.objects:
        print_line("these are all, so their labels give shares without a sampling error")
    else:
        _print_planned(record, bound)
    print_line(
        f"sort the images of {out_dir}/crops into one folder per genus, or fill in the column genus of "
        f"{out_dir}/audit.csv, in its order; then `fossilray labels import` and `fossilray audit report`"
    )


def _print_planned(record: AuditRecord, bound: float | None) -> None:
    """Print what a sample can show, before it is labelled."""
    from fossilray.analysis.audit.bounds import draws_needed, upper_bound
    from fossilray.analysis.audit.report import format_high
    from fossilray.analysis.stratigraphy.intervals import LEVEL

    draws, tail = sum(stratum.draws for stratum in record.strata), 1 - LEVEL
    scale = max(stratum.objects / stratum.draws for stratum in record.strata) * draws / record.objects
    least = min(scale * upper_bound(0, draws, tail=tail), 1.0)
    print_line(
        f"if none of them is wrong, at most {format_high(least)} of all are, at {100 * LEVEL:g} % confidence"
    )
    if bound is None:
        return
    shown = ", ".join(
        f"{number:,} if {format_percent(share)} are wrong"
        for share in (0.0, bound / 4, bound / 2)
        if (number := draws_needed(share, bound, tail=tail, scale=scale)) is not None
    )
    print_line(f"to show that at most {format_percent(bound)} are wrong, label {shown}")
