"""Commands that ask about the crops of a run once more, without opening a slide."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fossilray.cli.options import (
    ClusterOption,
    ConfigOption,
    RunArgument,
    SetOption,
    WorkersOption,
    out,
    print_result,
    settings,
    stop_on_sigterm,
)


def embed(
    run: RunArgument,
    backbone: Annotated[
        str, typer.Option(help="File of weights, or what embedder.weights takes: bundled, timm:<name>.")
    ],
    name: Annotated[str | None, typer.Option(help="Of the new embeddings; default: the file's name.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    workers: WorkersOption = None,
    address: ClusterOption = "local",
) -> None:
    """Describe every stored crop by another backbone, beside the run's own vectors; the same command resumes."""
    from fossilray.jobs.inference import embed_run
    from fossilray.jobs.progress import choose_display

    result = embed_run(
        run,
        backbone,
        settings(config, set_, workers),
        name=name,
        address=address,
        display=choose_display(out),
        stop=stop_on_sigterm(),
    )
    print_result(result, run, things="objects embedded")
    raise typer.Exit(result.strict_exit_code)


def classify_run(
    run: RunArgument,
    head: Annotated[Path, typer.Option(help="File that `fossilray classify train` made.")],
    embeddings: Annotated[
        str | None,
        typer.Option(help="Name of the embeddings to read, of `fossilray embed`; default: the run's own."),
    ] = None,
    coverage: Annotated[
        float,
        typer.Option(
            min=0.5, max=0.999, help="How often the set of genera of an object is to hold the right one."
        ),
    ] = 0.9,
    name: Annotated[str | None, typer.Option(help="Of the predictions; default: the file's name.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    workers: WorkersOption = None,
    address: ClusterOption = "local",
) -> None:
    """Name the genus of every object of a run from its vectors; the same command resumes."""
    from fossilray.jobs.inference import classify_run as classify
    from fossilray.jobs.progress import choose_display

    result = classify(
        run,
        head,
        settings(config, set_, workers),
        embeddings=embeddings,
        coverage=coverage,
        name=name,
        address=address,
        display=choose_display(out),
        stop=stop_on_sigterm(),
    )
    print_result(result, run, things="objects classified")
    raise typer.Exit(result.strict_exit_code)
