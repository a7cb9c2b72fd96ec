"""The command that shows where one slide's time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fossilray.cli.options import ConfigOption, SetOption, out, outside_runs, settings
from fossilray.core.text import strip_control_characters


def trace(
    slide: Annotated[str, typer.Argument(help="One slide, on a disk or s3://….")],
    out_file: Annotated[
        Path,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="Chrome trace to write; opens in ui.perfetto.dev and chrome://tracing.",
        ),
    ] = Path("trace.json"),
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Work on one slide here, commit nothing, and write what each thread did and when."""
    from fossilray.processing.trace import trace_slide

    traced = trace_slide(slide, settings(config, set_), out_file)
    usage = traced.usage
    took = f" in {usage.seconds:,.1f} s, {usage.networks_s / usage.seconds:.0%} at networks" if usage else ""
    ended = f"failed: {traced.failure.message}" if traced.failure else "done"
    objects = f", {traced.summary.objects:,} objects" if traced.summary else ""
    out.print(
        strip_control_characters(f"{traced.slide_id} {ended}{took}{objects} -> {traced.path}"),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if traced.failure is not None:
        raise typer.Exit(3)
