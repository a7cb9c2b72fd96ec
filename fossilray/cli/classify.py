"""The command that trains a classifier on labelled crops."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    HeadKindOption,
    ObjectsRunOption,
    SeedOption,
    SetOption,
    outside_runs,
)
from fossilray.cli.output import print_line, working
from fossilray.core.config.choices import HoldOutUnit, NoveltyKind

HoldOutOption = Annotated[
    HoldOutUnit,
    typer.Option(
        "--hold-out",
        help="Unit held out to calibrate the head's uncertainty; take wells for a head that is run on other wells.",
    ),
]
NoveltyOption = Annotated[
    NoveltyKind,
    typer.Option(
        "--novelty",
        help="Novelty score: distance from the nearest labels (knn), or from the centre of each genus (mahalanobis).",
    ),
]


def classify_train(
    labels: LabelsOption,
    out_file: Annotated[
        Path,
        typer.Option("--out", callback=outside_runs, help="Output file (.safetensors) for the trained head."),
    ],
    backbone: LabelledBackboneOption = "bundled",
    kind: HeadKindOption = "logistic",
    run: ObjectsRunOption = None,
    neighbours: Annotated[
        int, typer.Option("--neighbours", min=1, help="Number of neighbours, for --kind knn.")
    ] = 10,
    hold_out: HoldOutOption = "crops",
    novelty: NoveltyOption = "knn",
    input_px: InputOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Train a classifier on labelled crops and print its scores on held-out crops; `classify run` applies it."""
    from fossilray.models.heads import head_digest, save_head
    from fossilray.models.heads.uncertainty import describe_uncertainty
    from fossilray.training.heads import train_and_cross_validate

    labelled = load_labelled(labels, run, config, set_)
    embedded = embed_crops(labelled, backbone, input_px=input_px, seed=seed)
    with working(f"{kind} head"):
        head, scores = train_and_cross_validate(
            labelled, embedded, kind=kind, k=neighbours, seed=seed, over=hold_out, novelty=novelty
        )
    save_head(out_file, head)
    print_label_report(labelled)
    if scores is None:
        print_line("no scores: there are too few crops of each class to hold any out")
    else:
        print_line(
            f"on held-out crops, {scores.splits} times a fifth: recall {scores.recall:.3f}, precision "
            f"{scores.precision:.3f}, accuracy {scores.accuracy:.3f}, log loss {scores.log_loss:.3f}"
        )
    if head.meta.uncertainty is not None:
        print_line(describe_uncertainty(head))
    digest = head_digest(out_file)[:12]
    print_line(f"{kind} head for {len(head.classes)} classes, sha256 {digest}… -> {out_file}")
