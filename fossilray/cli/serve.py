"""The command that serves the pages: look at slides and label in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fossilray.cli.options import (
    AUDIT_HELP,
    AnnotatorOption,
    BackboneOption,
    ConfigOption,
    NamingHeadOption,
    PredictionsOption,
    RunsArgument,
    SearchedIndexOption,
    SetOption,
    login,
    open_store,
    settings,
)
from fossilray.cli.output import print_line, working
from fossilray.cli.specimens import SlideFolderOption
from fossilray.core.errors import UsageError


def serve(
    runs: RunsArgument,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="Labelled crops go to the label set in this folder, which is created if it is missing; without it "
            "nothing is labelled.",
        ),
    ] = None,
    predictions: PredictionsOption = None,
    head: NamingHeadOption = None,
    index: SearchedIndexOption = None,
    backbone: BackboneOption = "bundled",
    audit: Annotated[Path | None, typer.Option("--audit", help=AUDIT_HELP)] = None,
    slides: SlideFolderOption = None,
    annotator: AnnotatorOption = None,
    annotators: Annotated[
        Path | None,
        typer.Option(
            "--annotators",
            help="Table (.csv, .xlsx, .ods, .parquet) of name, token and role (viewer or annotator): who may open the "
            "pages; needed with --host beyond this machine.",
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to serve on; 0 takes a free one.")
    ] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Name under which browsers reach this server; may be repeated."),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Serve pages on which to look at slides, label objects and identify photographs in a browser."""
    try:
        from fossilray.serve.identification_desk import IdentificationSettings
        from fossilray.serve.server import serve_runs
    except ModuleNotFoundError as error:
        raise UsageError(
            f"serving pages needs {error.name}, which is not installed: pip install 'fossilray[serve]'"
        ) from None
    from fossilray.labels.audit.audit_record import read_audit

    if audit is not None and labels is None:
        raise UsageError("--audit serves objects to be labelled; give --labels FOLDER for their labels")
    with working("runs"):
        stores = [open_store(run, config, set_) for run in runs]
    serve_runs(
        stores,
        host=host,
        port=port,
        name=annotator or login(),
        folder=slides,
        labels=labels,
        predictions=predictions,
        audit=None if audit is None else read_audit(audit),
        annotators_file=annotators,
        allowed_hosts=tuple(allow_host or ()),
        identification=IdentificationSettings(
            head=head, index=index, backbone=backbone, access=settings(config, set_).store
        ),
        ready=lambda address: print_line(f"open {address} in a browser; Ctrl+C ends"),
    )
