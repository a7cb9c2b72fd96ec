"""The command that suggests what to label next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.options import (
    HEAD_HELP,
    LIMIT_HELP,
    ConfigOption,
    EmbeddingsOption,
    RunArgument,
    SeedOption,
    SetOption,
    WhereOption,
    open_store,
    outside_runs,
)
from fossilray.cli.output import print_line, working
from fossilray.core.config.choices import SuggestionStrategy

if TYPE_CHECKING:
    from fossilray.labels.suggest.suggest import SuggestionReport


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
