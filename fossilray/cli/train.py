"""The command that chooses which crops of runs to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fossilray.cli.options import ConfigOption, SetOption, err, out, outside_runs, settings


def curate(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Run directories or compacted datasets, local or s3://…, with embeddings."
        ),
    ],
    out_file: Annotated[
        str,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="Table to write, local or s3://…; the page is named alike, .html.",
        ),
    ] = "curation.parquet",
    rules: Annotated[
        Path | None, typer.Option("--rules", help="YAML file of thresholds and numbers of clusters.")
    ] = None,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="One of them, e.g. black_opacity=0.5; may be repeated.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Sort crops into clusters of look-alikes, leave out black, empty, blurry and crowded ones, balance the rest."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from fossilray.core.config import load_curation_config
    from fossilray.core.kept_places import refuse_inside
    from fossilray.store import open_run
    from fossilray.training.curation.curate import curate as curate_runs
    from fossilray.training.curation.sample import slides_with_objects

    chosen = load_curation_config(rules, rule or [])
    access = settings(config, set_).store
    stores = [open_run(run, access) for run in runs]
    refuse_inside(out_file, [store.files.url for store in stores])
    columns = (TextColumn("curating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=sum(len(slides_with_objects(store)) for store in stores))
        record = curate_runs(stores, out_file, chosen, access=access, on_slide=lambda: progress.advance(task))
    kept = sum(one.reason is None for one in record.clusters)
    out.print(
        f"{record.kept:,} of {record.objects:,} objects kept, {kept} of {len(record.clusters)} clusters -> {out_file}, "
        f"{out_file.removesuffix('.parquet')}.html",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
