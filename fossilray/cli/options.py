"""Options that several commands share, one definition each, and what is opened from them.

An option has one meaning, one kind of value and one help text in all commands: `tests/cli/test_help.py` holds the
exceptions with their reasons.
"""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from fossilray.cli.output import report_later
from fossilray.core.config.choices import NO_PREDICTIONS, FocusPlanes, HeadKind, ResultFormat, UncertainLabels
from fossilray.core.errors import UsageError
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
TrainConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--train-config",
        help="Configuration file (YAML) of the training; docs/reference/configuration/training.md lists its fields.",
    ),
]
TrainSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--train-set", help="Override one field of the training, e.g. metric.loss=supcon; may be repeated."
    ),
]
MppOption = Annotated[
    float | None,
    typer.Option(
        "--mpp", help="um per px of slides and fields of view that state none; replaces slides.mpp."
    ),
]
SingleWriterOption = Annotated[
    bool,
    typer.Option(
        "--single-writer", help="Promise that this driver alone commits to the run (store.single_writer)."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", help="Number of workers; default: the configured number, or as many as fit."),
]
ClusterOption = Annotated[
    str,
    typer.Option("--address", help="Ray cluster: `local` starts a private one, `auto` joins a running one."),
]
RunToWriteOption = Annotated[
    str | None,
    typer.Option(
        "--run", help="Run directory to write: s3://…, or a path that every node sees; default: store.run."
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be done; write nothing and delete nothing.")
]
FollowOption = Annotated[
    bool,
    typer.Option(
        "--follow/--no-follow",
        help="Show the log until the job ends, and exit with its code; or return at once.",
    ),
]
PlanesOption = Annotated[
    FocusPlanes | None,
    typer.Option(
        help="Focus planes to read: middle (the one that OpenSlide reads), best (detect in extended focus, crop where "
        "each object is sharpest) or all (detect in every plane); replaces slides.planes.",
    ),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Exit with code 4 when any slide failed.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object, for programs.")]
TableFormatOption = Annotated[
    ResultFormat | None,
    typer.Option("--format", help="Output format of the table; default: by the suffix of --out."),
]
TableFileOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        callback=outside_runs,
        help="Output file for the table (.csv, .json, .parquet); default: the terminal.",
    ),
]
HEAD_HELP = "Head: a classifier file that `fossilray classify train` made."
HeadOption = Annotated[Path, typer.Option("--head", help=HEAD_HELP)]
NamingHeadOption = Annotated[Path | None, typer.Option("--head", help=HEAD_HELP)]
SearchedIndexOption = Annotated[
    str | None,
    typer.Option("--index", help="Index to search for similar objects, which `fossilray index build` made."),
]
PredictionsOption = Annotated[
    str | None,
    typer.Option(
        "--predictions",
        help="Name of the predictions to use, from `fossilray classify run`; `none` leaves them out; default: the "
        "newest.",
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
SlidesOption = Annotated[
    list[str] | None,
    typer.Option("--slide", help="slide_id of a slide to take; may be repeated; default: all slides."),
]
ObjectsOption = Annotated[
    list[str] | None,
    typer.Option("--object", metavar="SLIDE:ID", help="Object, by slide_id and object_id; may be repeated."),
]
CropsOption = Annotated[Path | None, typer.Option("--crops", help="Folder of crops, as image files.")]
OBJECTS_RUN_HELP = "Run directory that holds the objects, local or s3://…"
ObjectsRunOption = Annotated[str | None, typer.Option("--run", help=OBJECTS_RUN_HELP)]
BackboneOption = Annotated[
    str,
    typer.Option(
        "--backbone",
        help="Backbone that embeds the crops, that of the head or index if there is one: bundled, a weights file, or "
        "timm:NAME.",
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="Name of the new embeddings or predictions; default: that of the file of the backbone or head.",
    ),
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
TaxonomyOption = Annotated[
    Path | None,
    typer.Option(
        "--taxonomy",
        help="Table (.csv, .xlsx, .ods, .parquet) or YAML of species, genus, family, group and synonyms, by which "
        "labels are grouped into taxa.",
    ),
]
DeterminedOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="Labelled crops of the run, a label set; they are counted as labelled, and the rest by predictions, if "
        "there are any.",
    ),
]
AnnotatorOption = Annotated[
    str | None,
    typer.Option(
        help="Annotator of the labels; default: the one that the source names, else your login name."
    ),
]
UncertainOption = Annotated[
    UncertainLabels,
    typer.Option(
        "--uncertain",
        help="Labels with cf., aff., ? or `unsure` at the rank: left out, or taken under their names (train).",
    ),
]
RANK_HELP = "Rank of the taxa."
AUDIT_HELP = "Folder of an audit, from `fossilray audit draw`."
LIMIT_HELP = "Maximum number of objects."
SLIDES_HELP = "Number of slides."
SlidesCountOption = Annotated[int, typer.Option("--slides", min=1, help=SLIDES_HELP)]
SlideSizeOption = Annotated[
    int, typer.Option("--size", min=1024, help="Side of each slide in level-0 pixels.")
]


def require_predictions(name: str | None, *, because: str) -> None:
    """Refuse `--predictions none` in a command that needs some.

    because: the first half of the message: what needs predictions.

    Raises:
        UsageError: `--predictions` is `none`.
    """
    if name == NO_PREDICTIONS:
        raise UsageError(f"{because}, and --predictions is {name}; leave it out, or name some")


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


def login() -> str:
    """The login name of the user, by which a round of labels or samples names who made it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
