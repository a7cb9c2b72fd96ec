"""Commands that read a run and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fossilray.cli.options import (
    ConfigOption,
    DeterminedOption,
    JsonOption,
    PredictionsOption,
    RunArgument,
    SetOption,
    TableFileOption,
    TableFormatOption,
    open_store,
    outside_runs,
    settings,
)
from fossilray.cli.output import choose_table_format, out, print_line, warn, write_rows


def run_status(
    run: RunArgument,
    as_json: JsonOption = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Print again and again until the run is done; with --json, a line each."
        ),
    ] = False,
    every: Annotated[
        float,
        typer.Option(min=1, help="Seconds between two reports of --watch; each lists the run directory."),
    ] = 30.0,
    alarm_minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Exit with code 4 and a message when slides are left and none was committed for so many minutes.",
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Show what is committed, in progress and failed, at what rate and cost, from the run directory alone."""
    from fossilray.jobs.watch import check_alarm, watch_run
    from fossilray.store.status import read_status, render_status, status_as_json

    store, chosen = open_store(run, config, set_), settings(config, set_)
    if watch:
        alarm = watch_run(
            store, out, every_s=every, as_json=as_json, alarm_minutes=alarm_minutes, config=chosen
        )
    else:
        report = read_status(store, config=chosen)
        alarm = check_alarm(report, minutes=alarm_minutes)
        if as_json:
            typer.echo(status_as_json(report))
        else:
            out.print(render_status(report))
    if alarm is not None:
        warn(alarm)
        raise typer.Exit(4)


def report(
    run: RunArgument,
    out_file: Annotated[
        Path, typer.Option("--out", callback=outside_runs, help="Output file (.html).")
    ] = Path("report.html"),
    predictions: PredictionsOption = None,
    labels: DeterminedOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write a self-contained HTML page: figures, slides, depths, genera, contact sheets, losses, provenance."""
    from fossilray.analysis.report import write_report

    written = write_report(open_store(run, config, set_), out_file, head=predictions, labels=labels)
    print_line(f"report: {written}")


def query_run(
    run: RunArgument,
    sql: Annotated[
        str,
        typer.Argument(
            help="SQL over the views objects, slides, samples, failures, catalog, predictions and embeddings."
        ),
    ],
    form: TableFormatOption = None,
    out_file: TableFileOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Query a run in SQL, with DuckDB."""
    from fossilray.store.query.connection import run_query

    form = choose_table_format(form, out_file)
    write_rows(run_query(open_store(run, config, set_), sql), form, out_file)
