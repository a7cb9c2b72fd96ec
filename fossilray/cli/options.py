"""Options that several commands share, one definition each, and what is opened from them.

An option has one meaning in all commands: `tests/cli/test_options.py` holds the table.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from fossilray.cli.output import report_later
from fossilray.core.config.choices import HeadKind, ResultFormat
from fossilray.core.folder_kinds import refuse_output_inside

if TYPE_CHECKING:
    from fossilray.core.config import RunConfig
    from fossilray.store import RunStore

OutputPath = TypeVar("OutputPath", str, Path, None)


def outside_runs(path: OutputPath) -> OutputPath:
    """Return the path of an output; refuse one inside a run, a dataset, an index or a label set."""
    if path is not None:
        refuse_output_inside(path)
    return path


RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Run directory or compacted dataset: a local path or s3://…")
]
RunOnlyArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Run directory, not a compacted dataset: a local path or s3://…"),
]
RunsArgument = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="Run directories or compacted datasets: local paths or s3://…"),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        help="Configuration file (YAML), local or s3://…; `fossilray config` prints the defaults.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override one configuration field, e.g. detector.confidence=0.3; may be repeated."
    ),
]
SingleWriterOption = Annotated[
    bool,
    typer.Option(
        "--single-writer", help="Promise that this driver alone commits to the run (store.single_writer)."
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", help="Number of workers; default: as many as fit.")
]
ClusterOption = Annotated[
    str,
    typer.Option("--address", help="Ray cluster: `local` starts a private one, `auto` joins a running one."),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Exit with code 4 when any slide failed.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object, for programs.")]
TableFormatOption = Annotated[ResultFormat, typer.Option("--format", help="Output format of the table.")]
TableFileOption = Annotated[
    Path | None,
    typer.Option("--out", callback=outside_runs, help="Output file for the table; default: the terminal."),
]
HeadOption = Annotated[
    Path, typer.Option("--head", help="Head: a classifier file that `fossilray classify train` made.")
]
PredictionsOption = Annotated[
    str | None,
    typer.Option(
        "--predictions",
        help="Name of the predictions to use, from `fossilray classify run`; default: the newest.",
    ),
]
EmbeddingsOption = Annotated[
    str | None,
    typer.Option(
        "--embeddings",
        help="Name of the embeddings to use, from `fossilray embed`; default: the run's own.",
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option("--where", help="SQL condition on the columns of `objects`, e.g. 'width_um > 50'."),
]
ObjectsOption = Annotated[
    list[str] | None,
    typer.Option("--object", metavar="SLIDE:ID", help="Object, by slide_id and object_id; may be repeated."),
]
CropsOption = Annotated[Path | None, typer.Option("--crops", help="Folder of crops, as image files.")]
LabelledRunOption = Annotated[
    str | None,
    typer.Option("--run", help="Run directory of the objects that the labels name, local or s3://…"),
]
HeadKindOption = Annotated[
    HeadKind,
    typer.Option("--kind", help="Kind of classifier; logistic and svm give all classes the same weight."),
]
CoverageOption = Annotated[
    float,
    typer.Option(
        "--coverage", min=0.5, max=0.999, help="Probability that a prediction set holds the true genus."
    ),
]
WrongOption = Annotated[
    float,
    typer.Option(
        "--wrong", min=0.001, max=0.9, help="Share of wrong predictions to accept among those that are kept."
    ),
]
NoveltyPOption = Annotated[
    float,
    typer.Option(
        "--novelty-p",
        min=0.0001,
        max=0.5,
        help="Novelty p-value at which an object counts as novel: the share of labelled crops that lie at least as "
        "far from the other labels.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Random seed; the same seed gives the same result.")]
SlidesCountOption = Annotated[int, typer.Option("--slides", min=1, help="Number of slides to make.")]
SlideSizeOption = Annotated[
    int, typer.Option("--size", min=1024, help="Side of each slide in level-0 pixels.")
]


def settings(config: str | None, assignments: list[str] | None, workers: int | None = None) -> RunConfig:
    """Read the configuration that a command's options name."""
    from fossilray.store.config_file import read_config

    extra = [] if workers is None else [f"workers.count={workers}"]
    return read_config(config, [*(assignments or []), *extra])


def open_store(run: str, config: str | None, assignments: list[str] | None) -> RunStore:
    """Open the run directory or compacted dataset that a command's options name."""
    from fossilray.store import open_run

    store = open_run(run, settings(config, assignments).store)
    report_later(store.left_out)
    return store
