"""Commands about what a head's predictions are worth: which to keep, and which objects no label resembles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fossilray.cli.options import (
    ConfigOption,
    EmbeddingsOption,
    HeadOption,
    NoveltyPOption,
    PredictionsOption,
    RunArgument,
    SeedOption,
    SetOption,
    WhereOption,
    WrongOption,
    open_store,
    outside_runs,
    require_predictions,
    settings,
)
from fossilray.cli.output import out, print_line, progress_bar


def calls(
    run: RunArgument,
    predictions: PredictionsOption = None,
    wrong: WrongOption = 0.05,
    novelty_p: NoveltyPOption = 0.01,
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="Output file (.csv) for the counts by genus; default: the terminal.",
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Choose an entropy threshold that bounds the share of wrong predictions, and count what is kept per genus."""
    from fossilray.analysis.discovery.confident_predictions import select_confident
    from fossilray.render.tables import print_table, write_table

    require_predictions(predictions, because="an entropy threshold selects predictions")
    confident = select_confident(
        open_store(run, config, set_), head=predictions, wrong_share=wrong, novelty_p=novelty_p
    )
    if out_file is None:
        print_table(confident.genera, console=out)
    else:
        write_table(confident.genera, form="csv", out=out_file)
    if confident.entropy is None:
        print_line(
            f"no prediction of {confident.head} can be kept: even the lowest entropies hold too many wrong ones"
        )
    else:
        print_line(
            f"{confident.kept:,} of {confident.objects:,} predictions of {confident.head} kept, at entropies up to "
            f"{confident.entropy:.4g}; {confident.known:,} of them are of objects that are close to a label"
        )
    print_line(f"SQL: {confident.condition(novelty_p)}")


def discover(
    run: RunArgument,
    head: HeadOption,
    out_file: Annotated[
        str,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="Output file (.parquet), local or s3://…; a page of the same name (.html) is written beside it.",
        ),
    ] = "discovery.parquet",
    embeddings: EmbeddingsOption = None,
    where: WhereOption = None,
    novelty_p: NoveltyPOption = 0.01,
    clusters: Annotated[int, typer.Option(min=1, max=500, help="Maximum number of clusters.")] = 30,
    shown: Annotated[int, typer.Option(min=1, max=200, help="Crops on each contact sheet.")] = 24,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Cluster novel objects (far from every label), with contact sheets and counts by well and depth."""
    from fossilray.analysis.discovery.discover import write_discovery
    from fossilray.analysis.discovery.novel_objects import NovelObjects
    from fossilray.core.folder_kinds import refuse_inside
    from fossilray.models.heads import load_head
    from fossilray.store.query.slide_objects import slides_with_objects

    store = open_store(run, config, set_)
    refuse_inside(out_file, [store.files.url])
    objects = NovelObjects.open(
        store, load_head(head), novelty_p=novelty_p, where=where, embeddings=embeddings
    )
    with progress_bar("discovering", 2 * len(slides_with_objects(store))) as advance:
        record = write_discovery(
            objects,
            out_file,
            clusters=clusters,
            shown=shown,
            seed=seed,
            access=settings(config, set_).store,
            on_slide=advance,
        )
    print_line(
        f"{record.novel:,} of {record.objects:,} objects are novel, in {len(record.candidates)} clusters -> "
        f"{out_file}, {out_file.removesuffix('.parquet')}.html"
    )
