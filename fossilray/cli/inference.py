"""Commands that run a backbone or a head over the stored crops of a run, without opening a slide."""

from __future__ import annotations

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
    from fossilray.jobs.inference import classify_run as run_classifier
    from fossilray.jobs.progress import choose_display

    result = run_classifier(
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
