"""The command from labels to charts: it trains a head, classifies a run, states how good that is, and charts wells."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.chart import LeaveOutOption
from fossilray.cli.classify import (
    ClassRankOption,
    HoldOutOption,
    NotFossilsOption,
    naming_of,
    print_scores,
)
from fossilray.cli.labelled import embed_crops, load_labelled, print_label_report
from fossilray.cli.options import (
    ClusterOption,
    ConfigOption,
    CoverageOption,
    DeterminedOption,
    HeadKindOption,
    RunArgument,
    SeedOption,
    SetOption,
    TaxonomyOption,
    UncertainOption,
    WorkersOption,
    WrongOption,
    open_store,
    outside_runs,
    settings,
)
from fossilray.cli.output import print_line, working
from fossilray.cli.running import print_result, stop_on_sigterm
from fossilray.core.errors import UsageError

if TYPE_CHECKING:
    from fossilray.analysis.stratigraphy.chart import ChartOptions
    from fossilray.labels.agreement import Naming
    from fossilray.models.heads import Head
    from fossilray.store import RunStore

MOST_WELLS = 20
"""Wells that are charted unless one is named; a run of an archive has 1,900."""


def classify_by_labels(
    run: RunArgument,
    labels: DeterminedOption = None,
    out_dir: Annotated[
        Path,
        typer.Option(
            "--out", callback=outside_runs, help="Output folder for the head, the report and the charts."
        ),
    ] = Path("classified"),
    well: Annotated[
        str | None,
        typer.Option(
            "--well", help="Name of the well, as the catalog has it.", show_default=f"all, up to {MOST_WELLS}"
        ),
    ] = None,
    kind: HeadKindOption = "logistic",
    taxonomy: TaxonomyOption = None,
    rank: ClassRankOption = None,
    not_fossils: NotFossilsOption = "classes",
    uncertain: UncertainOption = "leave-out",
    leave_out: LeaveOutOption = None,
    hold_out: HoldOutOption = "crops",
    coverage: CoverageOption = 0.9,
    wrong_share: WrongOption = 0.05,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
    workers: WorkersOption = None,
    address: ClusterOption = "local",
) -> None:
    """Train on a run's labels, classify the run, measure how good it is, and chart its wells; `all` may be left out."""
    from fossilray.analysis.report import write_report
    from fossilray.analysis.stratigraphy.chart import ChartOptions
    from fossilray.labels.determinations import read_determinations
    from fossilray.labels.taxonomy import read_taxonomy

    if labels is None:
        raise UsageError(
            "labels are missing: give --labels FOLDER, a label set that `fossilray serve` or "
            "`fossilray labels import` made"
        )
    store = open_store(run, config, set_)
    out_dir.mkdir(parents=True, exist_ok=True)
    naming = naming_of(rank, taxonomy, not_fossils, uncertain)
    head_file = out_dir / "head.safetensors"
    head = _train(labels, run, config, set_, head_file, naming=naming, kind=kind, over=hold_out, seed=seed)
    name = _name_of(head_file)
    _classify(run, head_file, name, config, set_, workers=workers, coverage=coverage, address=address)
    if head.meta.uncertainty is not None:
        _print_confident(store, name, wrong_share=wrong_share)
    taxa = None if taxonomy is None else read_taxonomy(taxonomy)
    chosen_rank = rank or "genus"
    options = ChartOptions(
        taxonomy=taxa,
        rank=chosen_rank,
        leave_out=tuple(leave_out or ()),
        seed=seed,
        head=name,
        determinations=read_determinations(
            labels, store, taxonomy=taxa, rank=chosen_rank, uncertain=uncertain
        ),
    )
    with working("report"):
        page = write_report(store, out_dir / "report.html", head=name, labels=labels)
    print_line(f"report: {page}")
    _chart_wells(store, well, options, out_dir)
    print_line(
        f"label what helps most next: `fossilray suggest {shlex.quote(run)} --labels {shlex.quote(str(labels))} "
        f"--head {shlex.quote(str(head_file))} --out suggestions`"
    )


def _train(
    labels: Path,
    run: str,
    config: str | None,
    set_: list[str] | None,
    head_file: Path,
    *,
    naming: Naming | None,
    kind: HeadKindOption,
    over: HoldOutOption,
    seed: int,
) -> Head:
    """Train a head on the run's own vectors, write it, and print how good it is."""
    from fossilray.models.heads import save_head
    from fossilray.training.heads import train_and_cross_validate

    labelled = load_labelled(labels, run, config, set_, naming=naming)
    if labelled.vectors is None or labelled.backbone_sha256 is None:
        raise UsageError(
            f"{run} holds no vectors of a known backbone to train on; embed it by `fossilray embed`, then use "
            "`classify train` with the same --backbone, and `classify run` with --embeddings"
        )
    embedded = embed_crops(labelled, "run", input_px=None, seed=seed)
    print_label_report(labelled)
    with working(f"{kind} head"):
        head, scores = train_and_cross_validate(
            labelled, embedded, kind=kind, k=10, seed=seed, over=over, naming=naming
        )
    save_head(head_file, head)
    print_scores(head, scores, kind=kind, path=head_file)
    return head


def _name_of(head_file: Path) -> str:
    """Return a name for a head's predictions that another head does not have, so that each is kept beside the last."""
    from fossilray.models.heads import head_digest

    return f"labels-{head_digest(head_file)[:8]}"


def _classify(
    run: str,
    head_file: Path,
    name: str,
    config: str | None,
    set_: list[str] | None,
    *,
    workers: int | None,
    coverage: float,
    address: str,
) -> None:
    """Classify the run by a head, and end the command if the job stopped before its end."""
    from fossilray.cli.output import out
    from fossilray.jobs.inference import classify_run
    from fossilray.jobs.progress import choose_display

    result = classify_run(
        run,
        head_file,
        settings(config, set_, workers),
        coverage=coverage,
        name=name,
        address=address,
        display=choose_display(out),
        stop=stop_on_sigterm(),
    )
    print_result(result, run, things="objects classified")
    if result.stopped:
        raise typer.Exit(result.strict_exit_code)


def _print_confident(store: RunStore, name: str, *, wrong_share: float) -> None:
    from fossilray.analysis.discovery.confident_predictions import select_confident

    selected = select_confident(store, head=name, wrong_share=wrong_share)
    share = selected.known / max(selected.objects, 1)
    print_line(
        f"{selected.known:,} of {selected.objects:,} objects ({100 * share:.0f} %) have a confident genus: at most "
        f"{100 * wrong_share:g} % of them are expected to be wrong, if the labels are like the run; `fossilray calls` "
        "lists them by genus"
    )


def _chart_wells(store: RunStore, well: str | None, options: ChartOptions, out_dir: Path) -> None:
    """Chart one well, or all; a well that cannot be charted is named with the reason."""
    from fossilray.analysis.stratigraphy.chart import compute_chart
    from fossilray.analysis.stratigraphy.page import describe_basis, write_chart
    from fossilray.store.query.connection import run_query

    if well is None:
        rows = run_query(
            store,
            "SELECT well, count(DISTINCT measured_depth_m) AS depths FROM slides WHERE well IS NOT NULL GROUP BY well "
            "ORDER BY well",
        ).to_pylist()
        wells = [row["well"] for row in rows if row["depths"]]
        without = [row["well"] for row in rows if not row["depths"]]
        if without:
            print_line(
                f"no chart of {len(without)} wells whose slides have no depth; see `fossilray samples`"
            )
        if len(wells) > MOST_WELLS:
            print_line(f"charts of {MOST_WELLS} of {len(wells)} wells; name another by --well")
            wells = wells[:MOST_WELLS]
    else:
        wells = [well]
    is_first = True
    for name in wells:
        try:
            with working(f"chart of {name}"):
                charted = compute_chart(store, name, options)
                page = write_chart(charted, out_dir / "charts" / _folder_name(name))
        except UsageError as error:
            if well is not None:
                raise
            print_line(f"no chart of well {name}: {error}")
            continue
        for sentence in describe_basis(charted) if is_first else ():
            print_line(sentence)
        is_first = False
        samples = len(charted.well_samples.samples)
        print_line(f"chart of well {name}, {samples} samples, {len(charted.taxa)} taxa: {page}")


def _folder_name(well: str) -> str:
    return re.sub(r"[^\w.-]+", "_", well).strip("._") or "well"
