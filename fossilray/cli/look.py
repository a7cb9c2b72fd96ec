"""Commands that look into a run and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fossilray.cli.shared import ConfigOption, RunArgument, SetOption, err, open_store, out, settings
from fossilray.tables import printable

TableForm = Literal["table", "csv", "json", "parquet"]
ExportForm = Literal["geojson", "coco", "csv", "yolo", "imagefolder", "anndata"]
HeadOption = Annotated[
    str | None,
    typer.Option(
        "--head", help="Name of the predictions of `fossilray classify run` to show; default: the newest."
    ),
]
OutOption = Annotated[Path | None, typer.Option("--out", help="File instead of the terminal.")]


def status(
    run: RunArgument,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object, for programs; with --watch one a line.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again until the run is done.")
    ] = False,
    every: Annotated[
        float, typer.Option(min=1, help="Seconds between two looks; each lists the run directory.")
    ] = 30.0,
    alarm_minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Exit with 4 and say so if slides are left and none was committed for this long; ends --watch.",
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """What is committed, in flight and failed, at what rate and cost; read from the run directory alone."""
    from fossilray.status import describe, render, to_json
    from fossilray.watching import alarm_of, watch_run

    store, chosen = open_store(run, config, set_), settings(config, set_)
    if watch:
        alarm = watch_run(
            store, out, every_s=every, as_json=as_json, alarm_minutes=alarm_minutes, config=chosen
        )
    else:
        report = describe(store, config=chosen)
        alarm = alarm_of(report, minutes=alarm_minutes)
        if as_json:
            typer.echo(to_json(report))
        else:
            out.print(render(report))
    if alarm is not None:
        err.print(printable(alarm), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(4)


def report(
    run: RunArgument,
    out_file: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("report.html"),
    head: HeadOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write one self-contained HTML page: figures, pictures, depths, genera, contact sheets, losses, provenance."""
    from fossilray.report import write_report

    written = write_report(open_store(run, config, set_), out_file, head=head)
    out.print(f"report: {written}", highlight=False, soft_wrap=True)


def query(
    run: RunArgument,
    sql: Annotated[
        str,
        typer.Argument(
            help="SQL over the views objects, slides, failures, catalog, predictions and embeddings."
        ),
    ],
    form: Annotated[TableForm, typer.Option("--format", help="How to print the answer.")] = "table",
    out_file: OutOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Ask DuckDB."""
    from fossilray.query import run_query
    from fossilray.tables import print_table, write_table

    table = run_query(open_store(run, config, set_), sql)
    if form == "table" and out_file is None:
        print_table(table, console=out)
    else:
        write_table(table, form="csv" if form == "table" else form, out=out_file)


def crops(
    run: RunArgument,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the images.")],
    where: Annotated[str, typer.Option(help='SQL condition on objects, e.g. "width_um > 50".')] = "true",
    limit: Annotated[int | None, typer.Option(help="Most images to write.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write matching crops as image files."""
    from fossilray.export import save_crops

    count = save_crops(open_store(run, config, set_), where=where, out=out_dir, limit=limit)
    out.print(f"{count} crops -> {out_dir}", markup=False, highlight=False, soft_wrap=True)


def export(
    run: RunArgument,
    out_path: Annotated[
        Path,
        typer.Option(
            "--out", help="File, or folder (yolo, imagefolder, and one GeoJSON per slide); .h5ad of anndata."
        ),
    ],
    form: Annotated[
        ExportForm,
        typer.Option(
            "--format",
            help="GeoJSON opens in QuPath; yolo cuts images from the slides; imagefolder holds crops by genus; anndata "
            "holds vectors.",
        ),
    ] = "geojson",
    where: Annotated[str, typer.Option(help="SQL condition on objects.")] = "true",
    slide: Annotated[str | None, typer.Option(help="One slide_id.")] = None,
    head: Annotated[
        str | None,
        typer.Option("--head", help="Name of predictions of `fossilray classify run` to write along."),
    ] = None,
    keep_bounds: Annotated[
        bool,
        typer.Option("--keep-bounds", help="OpenSlide's frame; default subtracts the bounds as QuPath does."),
    ] = False,
    embeddings: Annotated[
        str | None,
        typer.Option(help="anndata: vectors of `fossilray embed` by name; default: the run's own."),
    ] = None,
    tile_px: Annotated[int, typer.Option(min=32, help="yolo: side of an image.")] = 640,
    um_per_px: Annotated[float, typer.Option(help="yolo: scale of the images.")] = 1.0,
    validation: Annotated[
        float, typer.Option(help="yolo: share of slides for `val`; whole wells where there are several.")
    ] = 0.2,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write objects for other programs: boxes, images to train on, or vectors."""
    from fossilray.errors import UsageError
    from fossilray.export import export_objects
    from fossilray.export_anndata import export_anndata
    from fossilray.export_folder import export_image_folder
    from fossilray.export_yolo import YoloTiles, export_yolo

    store = open_store(run, config, set_)
    if embeddings is not None and form != "anndata":
        raise UsageError(f"--embeddings is of --format anndata, and {form} holds no vectors")
    told = ""
    match form:
        case "yolo":
            tiles = YoloTiles(tile_px=tile_px, um_per_px=um_per_px, validation=validation)
            made = export_yolo(store, out_path, tiles=tiles, where=where, slide=slide, head=head)
            count, told = made.boxes, f" in {made.images} images, {made.unreadable} more unreadable"
        case "imagefolder":
            if head is None:
                raise UsageError(
                    "an image folder has a folder for each genus; say with --head which predictions name them"
                )
            count = export_image_folder(store, out_path, head=head, where=where, slide=slide)
        case "anndata":
            count = export_anndata(
                store, out_path, where=where, slide=slide, head=head, embeddings=embeddings
            )
        case _:
            count = export_objects(
                store,
                out_path,
                form=form,
                where=where,
                slide=slide,
                head=head,
                subtract_bounds=not keep_bounds,
            )
    out.print(f"{count} objects{told} -> {out_path}", markup=False, highlight=False, soft_wrap=True)
