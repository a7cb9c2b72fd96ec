"""Commands about labels that people give: what to label next, taking labels in, and what stands."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.options import ConfigOption, RunArgument, SetOption, err, open_store, out, outside_runs
from fossilray.core.config.choices import SuggestionStrategy
from fossilray.core.text_table import Column, TextTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fossilray.labels.label_set import Conflict

LabelSetArgument = Annotated[
    Path, typer.Argument(metavar="LABELS", help="Folder of a label set, as `labels import --into` keeps it.")
]


def suggest(
    run: RunArgument,
    out_dir: Annotated[
        Path, typer.Option("--out", callback=outside_runs, help="New folder for images and tables.")
    ],
    n: Annotated[int, typer.Option("--n", min=1, max=20_000, help="How many objects.")] = 200,
    by: Annotated[
        SuggestionStrategy,
        typer.Option(
            help="mixed: what a head doubts, what is typical and unlabelled, and what is unlike any label; or one of "
            "these: badge, uncertain, typical, far; or random."
        ),
    ] = "mixed",
    head: Annotated[
        Path | None,
        typer.Option(help="File that `classify train` made; default: one taught here on --labels."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Label set so far: its objects are not asked about again.")
    ] = None,
    embeddings: Annotated[
        str | None, typer.Option(help="Name of embeddings of `fossilray embed`; default: the run's own.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="SQL condition on `objects`, e.g. 'isolated AND sharpness > 100'.")
    ] = None,
    pool: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Objects drawn from all wells to choose from.")
    ] = 20_000,
    seed: Annotated[int, typer.Option(help="Of all drawing by lot.")] = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Choose what to label next, evenly from all wells: images to sort into folders, and a table to fill in."""
    from fossilray.labels.suggest.suggest import suggest as choose
    from fossilray.models.heads import load_head

    store = open_store(run, config, set_)
    with err.status("choosing …"):
        found = choose(
            store,
            out_dir,
            count=n,
            strategy=by,
            head=None if head is None else load_head(head),
            labels=labels,
            embeddings=embeddings,
            where=where,
            pool=pool,
            seed=seed,
        )
    _say(f"{found.objects} of {found.pool:,} objects -> {out_dir}")
    if found.objects < n:
        _say(f"there are no more than these {found.objects}")
    if found.labelled:
        taught = "; a head was taught on them" if found.taught_here else ""
        _say(f"{found.labelled} objects have a label already{taught}")
    _say("chosen as " + ", ".join(f"{name}: {count}" for name, count in found.by.items()))
    _say("from wells " + ", ".join(f"{name}: {count}" for name, count in sorted(found.wells.items())))
    _say(
        f"sort the images of {out_dir}/crops into one folder a genus, or fill in the column genus of "
        f"{out_dir}/suggestions.csv; then `fossilray labels import`"
    )


def import_labels(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of <genus>/<image>, CSV (slide_id, object_id, genus; or images and names), or ParticleTrieur "
            "project (.xml).",
        ),
    ],
    run: Annotated[str, typer.Option("--run", help="Run whose objects are labelled: a local path or s3://…")],
    into: Annotated[Path, typer.Option("--into", help="Folder of the label set; begun where it is new.")],
    who: Annotated[
        str | None,
        typer.Option(help="Who labelled, where the source does not say; default: your login name."),
    ] = None,
    settle: Annotated[
        bool, typer.Option("--settle", help="These labels overrule all earlier ones of the same objects.")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Take labels into a label set as a new round; all or nothing, and objects under two names are shown."""
    from fossilray.labels.importing import import_labels as take

    store = open_store(run, config, set_)
    with err.status("labels …"):
        found = take(source, store, into, who=who or _login(), settles=settle)
    if found.round is None:
        _say(f"nothing new in {source}: all {found.already} labels are in {into} already")
    else:
        _say(f"round {found.round.number}: {found.round.labels} labels -> {into}")
        if found.already:
            _say(f"{found.already} more were there already")
        if found.changed:
            _say(f"{found.changed} of them correct earlier ones of the same person")
    if found.unlabelled:
        _say(f"{found.unlabelled} have no label yet")
    if found.automatic:
        _say(f"{found.automatic} were labelled by ParticleTrieur itself and validated by nobody; left out")
    _print_conflicts(found.conflicts)


def show(
    labels: LabelSetArgument,
    version: Annotated[
        int | None, typer.Option(min=1, help="As it was after this round; default: after the last.")
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            callback=outside_runs,
            help="Write the labels that stand: slide_id, object_id, genus, who.",
        ),
    ] = None,
) -> None:
    """Say what a label set holds: rounds, genera, and objects under two names."""
    from collections import Counter

    from fossilray.labels.current import write_current_labels
    from fossilray.labels.label_set import LabelSet

    book = LabelSet.open(labels)
    said = book.labels(version=version)
    rounds = TextTable("round", "at (UTC)", Column("labels", is_number=True), "from", "")
    for one in book.rounds()[: said.version]:
        rounds.add_row(
            str(one.number),
            one.at[:19],
            str(one.labels),
            one.source,
            "settles" if one.settles else "",
        )
    out.print(rounds)
    genera = TextTable("genus", Column("labels", is_number=True))
    for genus, count in sorted(Counter(one.genus for one in said.agreed.values()).items()):
        genera.add_row(genus, str(count))
    out.print(genera)
    _say(f"version {said.version}: {len(said.agreed)} objects with a label")
    _print_conflicts(said.conflicts)
    if csv is not None:
        write_current_labels(said, csv)
        _say(f"-> {csv}")


def _print_conflicts(conflicts: Sequence[Conflict]) -> None:
    if not conflicts:
        return
    _say(
        f"{len(conflicts)} objects bear two names and are not taught, until somebody imports the right one with "
        "--settle:"
    )
    for one in conflicts[:20]:
        _say(f"  {one.text}")
    if len(conflicts) > 20:
        _say(f"  and {len(conflicts) - 20} more")


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def _say(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
