"""Commands that run a backbone or a head over the stored crops of a run, without opening a slide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fossilray.cli.options import (
    BackboneOption,
    ClusterOption,
    ConfigOption,
    CoverageOption,
    EmbeddingsOption,
    HeadOption,
    NameOption,
    RunArgument,
    SetOption,
    WorkersOption,
    settings,
)
from fossilray.cli.output import out
from fossilray.cli.running import print_result, stop_on_sigterm

if TYPE_CHECKING:
    from fossilray.core.config import RunConfig
    from fossilray.jobs.run_items import JobResult


def embed(
    run: RunArgument,
    backbone: BackboneOption,
    name: NameOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    workers: WorkersOption = None,
    address: ClusterOption = "local",
) -> None:
    """Embed every stored crop by another backbone, beside the run's own embeddings; the same command resumes."""
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


def classify_objects(
    run: RunArgument,
    head: HeadOption,
    embeddings: EmbeddingsOption = None,
    coverage: CoverageOption = 0.9,
    name: NameOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    workers: WorkersOption = None,
    address: ClusterOption = "local",
) -> None:
    """Predict the genus of every object of a run from its embedding; the same command resumes."""
    result = classify_run_and_print(
        run,
        head,
        settings(config, set_, workers),
        embeddings=embeddings,
        coverage=coverage,
        name=name,
        address=address,
    )
    raise typer.Exit(result.strict_exit_code)


def classify_run_and_print(
    run: str,
    head: Path,
    config: RunConfig,
    *,
    embeddings: str | None = None,
    coverage: float,
    name: str | None,
    address: str,
) -> JobResult:
    """Classify a run by a head with the progress on the terminal, print how the job ended, and return that."""
    from fossilray.jobs.inference import classify_run
    from fossilray.jobs.progress import choose_display

    result = classify_run(
        run,
        head,
        config,
        embeddings=embeddings,
        coverage=coverage,
        name=name,
        address=address,
        display=choose_display(out),
        stop=stop_on_sigterm(),
    )
    print_result(result, run, things="objects classified")
    return result
