"""Commands that look into a run and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fossilray.cli.shared import ConfigOption, RunArgument, SetOption, open_store, out

TableForm = Literal["table", "csv", "json", "parquet"]
ExportForm = Literal["geojson", "coco", "csv"]
OutOption = Annotated[Path | None, typer.Option("--out", help="File instead of the terminal.")]


def status(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """What is committed, in flight and failed, at what rate; read from the run directory alone."""
    from fossilray.status import describe, render, to_json

    report = describe(open_store(run, config, set_))
    if as_json:
        typer.echo(to_json(report))
    else:
        out.print(render(report))


def report(
    run: RunArgument,
    out_file: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("report.html"),
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write one self-contained HTML page: figures, pictures, contact sheets, depths, losses, provenance."""
    from fossilray.report import write_report

    out.print(
        f"report: {write_report(open_store(run, config, set_), out_file)}", highlight=False, soft_wrap=True
    )


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
    out_path: Annotated[Path, typer.Option("--out", help="File, or folder for one GeoJSON per slide.")],
    form: Annotated[ExportForm, typer.Option("--format", help="GeoJSON opens in QuPath.")] = "geojson",
    where: Annotated[str, typer.Option(help="SQL condition on objects.")] = "true",
    slide: Annotated[str | None, typer.Option(help="One slide_id.")] = None,
    keep_bounds: Annotated[
        bool,
        typer.Option("--keep-bounds", help="OpenSlide's frame; default subtracts the bounds as QuPath does."),
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write the boxes for other programs."""
    from fossilray.export import export_objects

    count = export_objects(
        open_store(run, config, set_),
        out_path,
        form=form,
        where=where,
        slide=slide,
        subtract_bounds=not keep_bounds,
    )
    out.print(f"{count} objects -> {out_path}", markup=False, highlight=False, soft_wrap=True)
