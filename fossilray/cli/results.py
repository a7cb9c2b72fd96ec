"""Commands that look into a run and change nothing."""

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
from fossilray.core.config.choices import ResultFormat
from fossilray.core.text import strip_control_characters

HeadOption = Annotated[
    str | None,
    typer.Option(
        "--head", help="Name of the predictions of `fossilray classify run` to show; default: the newest."
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", callback=outside_runs, help="File instead of the terminal.")
]


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
    from fossilray.jobs.watch import check_alarm, watch_run
    from fossilray.store.status import read_status, render, to_json

    store, chosen = open_store(run, config, set_), settings(config, set_)
    if watch:
        alarm = watch_run(
            store, out, every_s=every, as_json=as_json, alarm_minutes=alarm_minutes, config=chosen
        )
    else:
        report = read_status(store, config=chosen)
        alarm = check_alarm(report, minutes=alarm_minutes)
        if as_json:
            typer.echo(to_json(report))
        else:
            out.print(render(report))
    if alarm is not None:
        err.print(strip_control_characters(alarm), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(4)


def report(
    run: RunArgument,
    out_file: Annotated[
        Path, typer.Option("--out", callback=outside_runs, help="HTML file to write.")
    ] = Path("report.html"),
    head: HeadOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write one self-contained HTML page: figures, pictures, depths, genera, contact sheets, losses, provenance."""
    from fossilray.analysis.report import write_report

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
    form: Annotated[ResultFormat, typer.Option("--format", help="How to print the answer.")] = "table",
    out_file: OutOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Ask DuckDB."""
    from fossilray.core.text_table import print_table
    from fossilray.render.tables import write_table
    from fossilray.store.query.connection import run_query

    table = run_query(open_store(run, config, set_), sql)
    if form == "table" and out_file is None:
        print_table(table, console=out)
    else:
        write_table(table, form="csv" if form == "table" else form, out=out_file)
