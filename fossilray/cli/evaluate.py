"""Commands that evaluate a backbone on labelled crops, one for each published protocol.

Each writes a page, tables (CSV, JSON) and pictures into a folder, and prints the main figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fossilray.cli.labelled import (
    InputOption,
    LabelledBackboneOption,
    LabelsOption,
    embed_crops,
    load_labelled,
    print_label_report,
)
from fossilray.cli.options import (
    ConfigOption,
    CoverageOption,
    HeadKindOption,
    ObjectsRunOption,
    SeedOption,
    SetOption,
    TrainConfigOption,
    TrainSetOption,
    WrongOption,
    outside_runs,
)
from fossilray.cli.output import out, print_line, working
from fossilray.core.config.choices import Distance
from fossilray.core.errors import UsageError
from fossilray.core.text_table import TextColumn, TextTable

if TYPE_CHECKING:
    from fossilray.evaluation.output import Evaluation
    from fossilray.evaluation.protocol_training import ProtocolTraining
    from fossilray.labels.load import LabelledSet


EvaluationFolderOption = Annotated[
    Path,
    typer.Option("--out", callback=outside_runs, help="Output folder for the page, tables and pictures."),
]
SplitsOption = Annotated[int, typer.Option("--splits", min=1, max=100, help="Number of random splits.")]
MapsOption = Annotated[bool, typer.Option("--maps/--no-maps", help="Draw t-SNE and UMAP maps of the crops.")]
TrainOption = Annotated[
    bool, typer.Option("--train", help="Train the network in every split, starting from --backbone.")
]


def classification(
    labels: LabelsOption,
    out_dir: EvaluationFolderOption,
    backbone: LabelledBackboneOption = "bundled",
    run: ObjectsRunOption = None,
    splits: SplitsOption = 10,
    maps: MapsOption = True,
    input_px: InputOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Evaluate embeddings by classification: nearest neighbours and logistic regression (martinsen2024)."""
    from fossilray.evaluation.classification import evaluate_classification

    labelled = load_labelled(labels, run, config, set_)
    embedded = embed_crops(labelled, backbone, input_px=input_px, seed=seed)
    with _counting("classification") as on_progress:
        evaluation = evaluate_classification(
            labelled,
            embedded,
            out=out_dir,
            labels=str(labels),
            splits=splits,
            maps=maps,
            on_progress=on_progress,
        )
    _print_evaluation(labelled, evaluation)


def retrieval(
    labels: LabelsOption,
    out_dir: EvaluationFolderOption,
    backbone: LabelledBackboneOption = "bundled",
    run: ObjectsRunOption = None,
    splits: SplitsOption = 10,
    distance: Annotated[
        Distance, typer.Option(help="Distance of embeddings; the published one is euclidean.")
    ] = "euclidean",
    input_px: InputOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Evaluate embeddings by retrieval: how many of each crop's nearest neighbours are of its class (scampi)."""
    from fossilray.evaluation.retrieval import evaluate_retrieval

    labelled = load_labelled(labels, run, config, set_)
    embedded = embed_crops(labelled, backbone, input_px=input_px, seed=seed)
    with _counting("retrieval") as on_progress:
        evaluation = evaluate_retrieval(
            labelled,
            embedded,
            out=out_dir,
            labels=str(labels),
            splits=splits,
            distance=distance,
            on_progress=on_progress,
        )
    _print_evaluation(labelled, evaluation)


def metric_learning(
    labels: LabelsOption,
    out_dir: EvaluationFolderOption,
    backbone: LabelledBackboneOption = "bundled",
    run: ObjectsRunOption = None,
    splits: Annotated[
        int | None,
        typer.Option(
            "--splits",
            min=1,
            max=100,
            help="Number of random splits.",
            show_default="10, or 3 with --train",
        ),
    ] = None,
    maps: MapsOption = True,
    train: TrainOption = False,
    train_config: TrainConfigOption = None,
    train_set: TrainSetOption = None,
    withhold: Annotated[
        list[str] | None,
        typer.Option(
            "--withhold",
            help="Classes of the open set, separated by commas; may be repeated for further groups.",
        ),
    ] = None,
    withhold_count: Annotated[
        int | None,
        typer.Option(
            "--withhold-count", min=2, help="Number of classes in each random open set; default: 2 in 7."
        ),
    ] = None,
    input_px: InputOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Evaluate a metric space on known classes and on classes withheld from training (karaderi2021)."""
    from fossilray.evaluation.metric_learning import evaluate_metric_learning

    if withhold and withhold_count:
        raise UsageError(
            "--withhold names the classes and --withhold-count draws them at random; give one of them"
        )
    groups = [[name.strip() for name in names.split(",") if name.strip()] for names in withhold or ()]
    trainer = _Trainer("metric", backbone, train, train_config, train_set, input_px, seed, out_dir)
    labelled = load_labelled(labels, run, config, set_)
    subject = (
        trainer.make(labelled) if train else embed_crops(labelled, backbone, input_px=input_px, seed=seed)
    )
    with _counting("metric learning") as on_progress:
        evaluation = evaluate_metric_learning(
            labelled,
            subject,
            out=out_dir,
            labels=str(labels),
            splits=splits,
            withhold=groups,
            withheld_size=withhold_count,
            maps=maps,
            seed=seed,
            on_progress=on_progress,
        )
    _print_evaluation(labelled, evaluation)


def transfer(
    labels: LabelsOption,
    out_dir: EvaluationFolderOption,
    backbone: LabelledBackboneOption = "bundled",
    run: ObjectsRunOption = None,
    splits: SplitsOption = 1,
    train: TrainOption = False,
    train_config: TrainConfigOption = None,
    train_set: TrainSetOption = None,
    reduced: Annotated[
        list[int] | None,
        typer.Option(
            "--reduced", min=1, help="Repeat with at most so many training crops of a class; may be repeated."
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Compare, with --train on the smallest --reduced: deep half and all layers, with and without random "
            "crop.",
        ),
    ] = False,
    input_px: InputOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Evaluate transfer learning: a classifier of new classes on a pre-trained network (liu2022)."""
    from fossilray.evaluation.transfer import COMPARED_SETTINGS, evaluate_transfer

    if compare and not train:
        raise UsageError("--compare compares ways of training, and nothing is trained; add --train")
    trainer = _Trainer("transfer", backbone, train, train_config, train_set, input_px, seed, out_dir)
    labelled = load_labelled(labels, run, config, set_)
    subject = (
        trainer.make(labelled) if train else embed_crops(labelled, backbone, input_px=input_px, seed=seed)
    )
    conditions = COMPARED_SETTINGS if compare else {}
    compared = {name: trainer.make(labelled, *fields) for name, fields in conditions.items()}
    with _counting("transfer") as on_progress:
        evaluation = evaluate_transfer(
            labelled,
            subject,
            out=out_dir,
            labels=str(labels),
            splits=splits,
            reduced=reduced or (),
            compared=compared,
            seed=seed,
            on_progress=on_progress,
        )
    _print_evaluation(labelled, evaluation)


def uncertainty(
    labels: LabelsOption,
    out_dir: EvaluationFolderOption,
    backbone: LabelledBackboneOption = "bundled",
    run: ObjectsRunOption = None,
    kind: HeadKindOption = "logistic",
    splits: SplitsOption = 5,
    coverage: CoverageOption = 0.9,
    wrong: WrongOption = 0.05,
    input_px: InputOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Evaluate a head's uncertainty on held-out crops: calibration, prediction sets, kept predictions, novelty."""
    from fossilray.evaluation.uncertainty import evaluate_uncertainty

    labelled = load_labelled(labels, run, config, set_)
    embedded = embed_crops(labelled, backbone, input_px=input_px, seed=seed)
    with _counting("uncertainty") as on_progress:
        evaluation = evaluate_uncertainty(
            labelled,
            embedded,
            kind=kind,
            out=out_dir,
            labels=str(labels),
            splits=splits,
            coverage=coverage,
            wrong_share=wrong,
            on_progress=on_progress,
        )
    _print_evaluation(labelled, evaluation)


@dataclass(frozen=True)
class _Trainer:
    """The trainings of `--train`, always from the same initial weights.

    Raises:
        UsageError: an option of a training was given without `--train`.
    """

    method: Literal["metric", "transfer"]
    backbone: str
    is_on: bool
    config: Path | None
    assignments: list[str] | None
    input_px: int | None
    seed: int
    folder: Path

    def __post_init__(self) -> None:
        for name, value in {"--train-config": self.config, "--train-set": self.assignments}.items():
            if value and not self.is_on:
                raise UsageError(f"{name} configures a training, and nothing is trained; add --train")

    def make(self, labelled: LabelledSet, *fields: str) -> ProtocolTraining:
        """Return a training on some of these crops, with these fields beside those of the options."""
        from fossilray.evaluation.protocol_training import ProtocolTraining, protocol_train_config

        config = protocol_train_config(
            self.backbone,
            method=self.method,
            path=self.config,
            assignments=[f"seed={self.seed + 1}", *(self.assignments or []), *fields],
            input_px=self.input_px,
        )
        return ProtocolTraining(labelled, config, folder=self.folder / "trainings")


@contextmanager
def _counting(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal which repetition is in progress."""
    with working(label) as relabel:
        yield lambda done, total: relabel(f"{label}: repetition {done} of {total}")


def _print_evaluation(labelled: LabelledSet, evaluation: Evaluation) -> None:
    print_label_report(labelled)
    table = TextTable("figure", TextColumn("value", is_number=True), TextColumn("±", is_number=True))
    for name, value in evaluation.figures.items():
        if not name.endswith(" deviation"):
            spread = evaluation.figures.get(f"{name} deviation")
            table.add_row(name, f"{value:.3f}", "" if spread is None else f"{spread:.3f}")
    out.print(table)
    print_line(f"page: {evaluation.page}")
