"""The command from labels to charts: it trains a head, classifies a run, states how good that is, and charts wells."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.chart import NO_WELLS, LeaveOutOption, depths_by_well
from fossilray.cli.classify import (
    ClassRankOption,
    HoldOutOption,
    NotFossilsOption,
    naming_of,
    print_scores,
)
from fossilray.cli.inference import classify_run_and_print
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
from fossilray.core.errors import UsageError
from fossilray.core.text import list_some

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    wells = _wells_to_chart(store, well)
    out_dir.mkdir(parents=True, exist_ok=True)
    naming = naming_of(rank, taxonomy, not_fossils, uncertain)
    head_file = out_dir / "head.safetensors"
    head = _train(labels, run, config, set_, head_file, naming=naming, kind=kind, over=hold_out, seed=seed)
    name = _name_of(head_file)
    result = classify_run_and_print(
        run, head_file, settings(config, set_, workers), coverage=coverage, name=name, address=address
    )
    if result.stopped:
        raise typer.Exit(result.strict_exit_code)
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
    _chart_wells(store, wells, options, out_dir / "charts", is_named=well is not None)
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


def _print_confident(store: RunStore, name: str, *, wrong_share: float) -> None:
    from fossilray.analysis.discovery.confident_predictions import select_confident

    selected = select_confident(store, head=name, wrong_share=wrong_share)
    share = selected.known / max(selected.objects, 1)
    print_line(
        f"{selected.known:,} of {selected.objects:,} objects ({100 * share:.0f} %) have a confident genus: at most "
        f"{100 * wrong_share:g} % of them are expected to be wrong, if the labels are like the run; `fossilray calls` "
        "lists them by genus"
    )


def _wells_to_chart(store: RunStore, well: str | None) -> list[str]:
    """Return the wells to chart: the one that is named, or those with depths; print which are left out.

    Raises:
        UsageError: the run has no well of this name.
    """
    depths = depths_by_well(store)
    if well is not None and well not in depths:
        raise UsageError(f"the run has no well {well!r}; it has {list_some(depths, most=12) or 'none'}")
    if well is not None:
        return [well]
    if not depths:
        print_line(f"no chart: {NO_WELLS}")
    without = [name for name, number in depths.items() if not number]
    if without:
        print_line(f"no chart of {len(without)} wells whose slides have no depth; see `fossilray samples`")
    wells = [name for name, number in depths.items() if number]
    if len(wells) > MOST_WELLS:
        print_line(f"charts of {MOST_WELLS} of {len(wells)} wells; name another by --well")
    return wells[:MOST_WELLS]


def _chart_wells(
    store: RunStore, wells: Sequence[str], options: ChartOptions, out_dir: Path, *, is_named: bool
) -> None:
    """Chart wells, each into a folder of its own; one that cannot be charted is named with the reason.

    Raises:
        UsageError: the only well, which the user named, cannot be charted.
    """
    from fossilray.analysis.export.image_folder import folder_names
    from fossilray.analysis.stratigraphy.chart import compute_chart
    from fossilray.analysis.stratigraphy.page import describe_basis, write_chart

    is_first = True
    for name, folder in folder_names(wells).items():
        try:
            with working(f"chart of {name}"):
                charted = compute_chart(store, name, options)
                page = write_chart(charted, out_dir / folder)
        except UsageError as error:
            if is_named:
                raise
            print_line(f"no chart of well {name}: {error}")
            continue
        for sentence in describe_basis(charted) if is_first else ():
            print_line(sentence)
        is_first = False
        samples = len(charted.well_samples.samples)
        print_line(f"chart of well {name}, {samples} samples, {len(charted.taxa)} taxa: {page}")
