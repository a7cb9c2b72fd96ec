"""What the commands share: consoles, options, and the way from options to configuration and run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from fossilray.config import RunConfig
    from fossilray.store import RunStore

out = Console()
err = Console(stderr=True)

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Run directory or compacted dataset: a local path or s3://…")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML file; `fossilray config` prints the defaults.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="One field, e.g. detector.confidence=0.3; may be repeated.")
]


def settings(config: Path | None, assignments: list[str] | None, workers: int | None = None) -> RunConfig:
    """The configuration that a command's options ask for."""
    from fossilray.config import load_config

    extra = [] if workers is None else [f"workers.count={workers}"]
    return load_config(config, [*(assignments or []), *extra])


def open_store(run: str, config: Path | None, assignments: list[str] | None) -> RunStore:
    """The run directory, or the compacted dataset, that a command's options name."""
    from fossilray.store import open_run

    return open_run(run, settings(config, assignments).store)
