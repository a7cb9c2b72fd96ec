"""Commands about labels that people give: what to label next, import into a label set, and its contents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.options import (
    HEAD_HELP,
    LIMIT_HELP,
    OBJECTS_RUN_HELP,
    ConfigOption,
    EmbeddingsOption,
    RunArgument,
    SeedOption,
    SetOption,
    WhereOption,
    login,
    open_store,
    outside_runs,
)
from fossilray.cli.output import out, print_line, working
from fossilray.core.config.choices import SuggestionStrategy
from fossilray.core.text_table import TextColumn, TextTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fossilray.labels.label_set import Conflict
    from fossilray.labels.suggest.suggest import SuggestionReport


_MAX_CONFLICTS = 20

LabelSetArgument = Annotated[
    Path,
    typer.Argument(metavar="LABELS", help="Folder of a label set, which `fossilray labels import` made."),
]
SuggestionsOption = Annotated[
    Path,
    typer.Option("--out", callback=outside_runs, help="Output folder for images and tables; a new one."),
]
_LimitOption = Annotated[int, typer.Option("--limit", min=1, max=20_000, help=LIMIT_HELP)]
StrategyOption = Annotated[
    SuggestionStrategy,
    typer.Option(
        "--strategy",
        help="Selection strategy: mixed takes low-confidence predictions (badge), typical unlabelled objects (typical) "
        "and objects far from every label (far); or one of them alone, uncertain (smallest margin), or random.",
    ),
]
_HeadOption = Annotated[
    Path | None,
    typer.Option("--head", help=HEAD_HELP, show_default="one trained on --labels"),
]
LabelledOption = Annotated[
    Path | None,
    typer.Option("--labels", help="Labelled crops so far, a label set; they are not suggested again."),
]
PoolOption = Annotated[
    int,
    typer.Option(
        "--pool", min=1, max=1_000_000, help="Size of the random sample, from all wells, to choose from."
    ),
]


def suggest(
    run: RunArgument,
    out_dir: SuggestionsOption,
    limit: _LimitOption = 200,
    strategy: StrategyOption = "mixed",
    head: _HeadOption = None,
    labels: LabelledOption = None,
    embeddings: EmbeddingsOption = None,
    where: WhereOption = None,
    pool: PoolOption = 20_000,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Suggest objects to label next, evenly from all wells: images to sort into folders, and a table to fill in."""
    from fossilray.labels.suggest.suggest import suggest_objects
    from fossilray.models.heads import load_head

    store = open_store(run, config, set_)
    with working("choosing"):
        report = suggest_objects(
            store,
            out_dir,
            count=limit,
            strategy=strategy,
            head=None if head is None else load_head(head),
            labels=labels,
            embeddings=embeddings,
            where=where,
            pool=pool,
            seed=seed,
        )
    _print_suggestions(report, out_dir, limit)


def _print_suggestions(report: SuggestionReport, out_dir: Path, limit: int) -> None:
    print_line(f"{report.objects} of {report.pool:,} objects -> {out_dir}")
    if report.objects < limit:
        print_line(f"there are no more than these {report.objects}")
    if report.labelled:
        trained = "; a head was trained on them" if report.trained_here else ""
        print_line(f"{report.labelled} objects have a label already{trained}")
    print_line("chosen by " + ", ".join(f"{name}: {count}" for name, count in report.by_strategy.items()))
    print_line("from wells " + ", ".join(f"{name}: {count}" for name, count in sorted(report.wells.items())))
    print_line(
        f"sort the images of {out_dir}/crops into one folder per genus, or fill in the column genus of "
        f"{out_dir}/suggestions.csv; then `fossilray labels import`"
    )


def import_labels(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of <genus>/<image>, table (.csv, .xlsx, .ods, .parquet) of slide_id, object_id and genus or "
            "of images and names, or ParticleTrieur project (.xml).",
        ),
    ],
    run: Annotated[str, typer.Option("--run", help=OBJECTS_RUN_HELP)],
    to: Annotated[Path, typer.Option("--to", help="Create or extend the label set in this folder.")],
    annotator: Annotated[
        str | None,
        typer.Option(help="Annotator, where the source does not name one; default: your login name."),
    ] = None,
    override: Annotated[
        bool, typer.Option("--override", help="Override all earlier labels of the same objects.")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Import labels into a label set as a new round, all or nothing, and list objects with conflicting labels."""
    from fossilray.labels.importing import import_label_round

    store = open_store(run, config, set_)
    with working("labels"):
        report = import_label_round(source, store, to, who=annotator or login(), overrides=override)
    if report.round is None:
        print_line(f"nothing new in {source}: all {report.already} labels are in {to} already")
    else:
        print_line(f"round {report.round.number}: {report.round.labels} labels -> {to}")
        if report.already:
            print_line(f"{report.already} more were there already")
        if report.changed:
            print_line(f"{report.changed} of them correct earlier ones of the same annotator")
    if report.unlabelled:
        print_line(f"{report.unlabelled} have no label yet")
    if report.automatic:
        print_line(f"{report.automatic} were labelled by ParticleTrieur itself and not validated; left out")
    _print_conflicts(report.conflicts)


def show(
    labels: LabelSetArgument,
    round_: Annotated[
        int | None,
        typer.Option("--round", min=1, help="Show the label set after this round; default: after the last."),
    ] = None,
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="Output file (.csv) for the current labels: slide_id, object_id, genus, who.",
        ),
    ] = None,
) -> None:
    """Show a label set: its rounds, its genera, and objects with conflicting labels."""
    from collections import Counter

    from fossilray.labels.current import write_current_labels
    from fossilray.labels.label_set import LabelSet

    label_set = LabelSet.open(labels)
    current = label_set.labels(version=round_)
    rounds = TextTable("round", "at (UTC)", TextColumn("labels", is_number=True), "from", "")
    for record in label_set.rounds()[: current.version]:
        rounds.add_row(
            str(record.number),
            record.at[:19],
            str(record.labels),
            record.source,
            "overrides" if record.overrides else "",
        )
    out.print(rounds)
    genera = TextTable("genus", TextColumn("labels", is_number=True))
    for genus, count in sorted(Counter(label.genus for label in current.consensus.values()).items()):
        genera.add_row(genus, str(count))
    out.print(genera)
    print_line(f"after round {current.version}: {len(current.consensus)} objects with a label")
    _print_conflicts(current.conflicts)
    if out_file is not None:
        write_current_labels(current, out_file)
        print_line(f"-> {out_file}")


def _print_conflicts(conflicts: Sequence[Conflict]) -> None:
    if not conflicts:
        return
    print_line(
        f"{len(conflicts)} objects have conflicting labels and are left out of training until the right one is "
        "imported with --override:"
    )
    for conflict in conflicts[:_MAX_CONFLICTS]:
        print_line(f"  {conflict.text}")
    if len(conflicts) > _MAX_CONFLICTS:
        print_line(f"  and {len(conflicts) - _MAX_CONFLICTS} more")
