"""Commands about what a head knows and does not know: calls to keep, and objects that are like no label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fossilray.cli.options import (
    ConfigOption,
    RunArgument,
    SetOption,
    err,
    open_store,
    out,
    outside_runs,
    settings,
)

NoveltyOption = Annotated[
    float,
    typer.Option(
        "--novelty-p",
        min=0.0001,
        max=0.5,
        help="Share of labelled crops that may lie as far from the other labels as what is taken for new.",
    ),
]


def calls(
    run: RunArgument,
    head: Annotated[
        str | None, typer.Option(help="Name of predictions of `fossilray classify run`; default: the newest.")
    ] = None,
    wrong: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="Share of wrong calls to expect among those kept.")
    ] = 0.05,
    novelty_p: NoveltyOption = 0.01,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", callback=outside_runs, help="CSV of the counts by genus; default: print them."),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Say up to which entropy to keep calls so that few are wrong, and what that leaves of each genus."""
    from fossilray.analysis.discovery.confident_predictions import select_confident
    from fossilray.core.text_table import print_table
    from fossilray.render.tables import write_table

    found = select_confident(open_store(run, config, set_), head=head, wrong_share=wrong, novelty_p=novelty_p)
    if out_file is None:
        print_table(found.genera, console=out)
    else:
        write_table(found.genera, form="csv", out=out_file)
    if found.entropy is None:
        told = f"no call of {found.head} can be kept: too many wrong calls were as sure as the surest here"
    else:
        told = (
            f"{found.kept:,} of {found.objects:,} calls of {found.head} kept, at entropies up to {found.entropy:.4g}; "
            f"{found.known:,} of them are of objects that are close to a label"
        )
    out.print(told, markup=False, highlight=False, soft_wrap=True)
    out.print(f"SQL: {found.condition(novelty_p)}", markup=False, highlight=False, soft_wrap=True)


def discover(
    run: RunArgument,
    head: Annotated[
        Path, typer.Option(help="File that `fossilray classify train` made; its labels are what is known.")
    ],
    out_file: Annotated[
        str,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="Table to write, local or s3://…; the page is named alike, .html.",
        ),
    ] = "discovery.parquet",
    embeddings: Annotated[
        str | None,
        typer.Option(help="Name of the embeddings to read, of `fossilray embed`; default: the run's own."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="SQL condition on the columns of objects, e.g. 'isolated AND opacity < 0.6'."),
    ] = None,
    novelty_p: NoveltyOption = 0.01,
    clusters: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 30,
    shown: Annotated[int, typer.Option(min=1, max=200, help="Crops on a sheet.")] = 24,
    seed: Annotated[int, typer.Option(help="Of samples, clusters and sheets.")] = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Sort what is like no label into clusters, with sheets and counts by well and depth: genera nobody labelled?"""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from fossilray.analysis.discovery.discover import discover as look
    from fossilray.analysis.discovery.novel_objects import NovelObjects
    from fossilray.core.kept_places import refuse_inside
    from fossilray.models.heads import load_head
    from fossilray.store.query.slide_objects import slides_with_objects

    store = open_store(run, config, set_)
    refuse_inside(out_file, [store.files.url])
    objects = NovelObjects.open(
        store, load_head(head), novelty_p=novelty_p, where=where, embeddings=embeddings
    )
    columns = (TextColumn("discovering"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=2 * len(slides_with_objects(store)))
        record = look(
            objects,
            out_file,
            clusters=clusters,
            shown=shown,
            seed=seed,
            access=settings(config, set_).store,
            on_slide=lambda: progress.advance(task),
        )
    out.print(
        f"{record.novel:,} of {record.objects:,} objects are novel, in {len(record.candidates)} clusters -> "
        f"{out_file}, {out_file.removesuffix('.parquet')}.html",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
