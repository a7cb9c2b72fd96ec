"""The command that trains a classifier on labelled crops."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    RANK_HELP,
    ConfigOption,
    HeadKindOption,
    ObjectsRunOption,
    SeedOption,
    SetOption,
    TaxonomyOption,
    UncertainOption,
    outside_runs,
)
from fossilray.cli.output import print_line, working
from fossilray.core.config.choices import (
    HeadKind,
    HoldOutUnit,
    NotFossils,
    NoveltyKind,
    TaxonRank,
    UncertainLabels,
)

if TYPE_CHECKING:
    from fossilray.labels.agreement import Naming
    from fossilray.models.heads import Head
    from fossilray.training.heads import CrossValidationScores

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

ClassRankOption = Annotated[
    TaxonRank | None,
    typer.Option("--rank", help=RANK_HELP, show_default="names as given; with --taxonomy genus"),
]
NotFossilsOption = Annotated[
    NotFossils,
    typer.Option(
        "--non-fossils", help="Labels of wood, dirt and other kinds: classes of their own, or left out."
    ),
]
RankAccuracyOption = Annotated[
    float,
    typer.Option(
        "--rank-accuracy",
        min=0.5,
        max=0.999,
        help="Share of correct predictions that a rank must have on held-out crops; else a coarser one is predicted.",
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
    rank: ClassRankOption = None,
    taxonomy: TaxonomyOption = None,
    not_fossils: NotFossilsOption = "classes",
    uncertain: UncertainOption = "leave-out",
    rank_accuracy: RankAccuracyOption = 0.9,
    input_px: InputOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Train a classifier on labelled crops and print its scores on held-out crops; `classify run` applies it."""
    from fossilray.models.heads import save_head
    from fossilray.training.heads import train_and_cross_validate

    naming = naming_of(rank, taxonomy, not_fossils, uncertain)
    labelled = load_labelled(labels, run, config, set_, naming=naming)
    embedded = embed_crops(labelled, backbone, input_px=input_px, seed=seed)
    with working(f"{kind} head"):
        head, scores = train_and_cross_validate(
            labelled,
            embedded,
            kind=kind,
            k=neighbours,
            seed=seed,
            over=hold_out,
            novelty=novelty,
            naming=naming,
            accuracy=rank_accuracy,
        )
    save_head(out_file, head)
    print_label_report(labelled)
    print_scores(head, scores, kind=kind, path=out_file)


def print_scores(head: Head, scores: CrossValidationScores | None, *, kind: HeadKind, path: Path) -> None:
    """Print how good a head is, on held-out crops, and where it was written."""
    from fossilray.models.heads import head_digest
    from fossilray.models.heads.uncertainty import describe_uncertainty

    if scores is None:
        print_line("no scores: there are too few crops of each class to hold any out")
    else:
        print_line(
            f"on held-out crops, {scores.splits} times a fifth: recall {scores.recall:.3f}, precision "
            f"{scores.precision:.3f}, accuracy {scores.accuracy:.3f}, log loss before calibration "
            f"{scores.log_loss:.3f}"
        )
    if head.meta.uncertainty is not None:
        print_line(describe_uncertainty(head))
    digest = head_digest(path)[:12]
    print_line(f"{kind} head for {len(head.classes)} classes, sha256 {digest}… -> {path}")


def naming_of(
    rank: TaxonRank | None, taxonomy: Path | None, not_fossils: NotFossils, uncertain: UncertainLabels
) -> Naming | None:
    """Return how labels become classes; None without such an option, which leaves names of folders as written."""
    from fossilray.labels.agreement import Naming
    from fossilray.labels.taxonomy import read_taxonomy

    if (rank, taxonomy, not_fossils, uncertain) == (None, None, "classes", "leave-out"):
        return None
    read = None if taxonomy is None else read_taxonomy(taxonomy)
    return Naming(rank or (None if read is None else "genus"), read, not_fossils, uncertain)
