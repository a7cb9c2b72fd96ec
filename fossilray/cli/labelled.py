"""Labelled crops for `classify train` and `evaluate`: their options, loaded, embedded, and what was noticed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.options import open_store
from fossilray.cli.output import print_line, working
from fossilray.core.text import list_some

if TYPE_CHECKING:
    from fossilray.labels.agreement import Naming
    from fossilray.labels.embed import EmbeddedCrops
    from fossilray.labels.load import LabelledSet

LABELS_HELP = (
    "Labelled crops: a folder of <class>/<image>; a table (.csv, .xlsx, .ods, .parquet) of path and genus; or, of "
    "objects of --run, a table of slide_id, object_id and genus, or a label set."
)
LabelsOption = Annotated[Path, typer.Option("--labels", help=LABELS_HELP)]
LabelledBackboneOption = Annotated[
    str,
    typer.Option(
        "--backbone",
        help="Backbone that embeds the crops: bundled, a weights file, timm:NAME, random:NAME (untrained), handcrafted "
        "(gradients, colours, shape), or run (the embeddings that --run holds).",
    ),
]
InputOption = Annotated[
    int | None,
    typer.Option(
        "--input-px",
        min=16,
        max=1024,
        help="Input size of the network in pixels; default: that of its weights.",
    ),
]


def load_labelled(
    labels: Path,
    run: str | None,
    config: str | None,
    set_: list[str] | None,
    *,
    naming: Naming | None = None,
) -> LabelledSet:
    """Read the labelled crops that `--labels` and `--run` name."""
    from fossilray.labels.load import load_labels

    with working("labels"):
        return load_labels(labels, run=None if run is None else open_store(run, config, set_), naming=naming)


def embed_crops(labelled: LabelledSet, backbone: str, *, input_px: int | None, seed: int) -> EmbeddedCrops:
    """Embed the crops by what `--backbone` names."""
    from fossilray.labels.embed import embed_labelled

    with working("embeddings"):
        return embed_labelled(labelled, backbone, input_px=input_px, seed=seed)


def print_label_report(labelled: LabelledSet) -> None:
    """Print how many crops there are, and which of them were left out or need a look."""
    report = labelled.findings
    print_line(f"{len(labelled)} labelled crops of {len(labelled.crops.classes)} classes")
    if report.unreadable:
        reasons = [f"{name}: {reason}" for name, reason in report.unreadable]
        print_line(f"{len(report.unreadable)} left out: {_few(reasons)}")
    if report.unlabelled:
        print_line(f"{report.unlabelled} rows have no genus")
    if report.moved:
        print_line(f"{report.moved} were labelled in other attempts or runs and found by position")
    for reason, count in report.unnamed.items():
        print_line(f"{count} are {reason}; left out")
    if report.singletons:
        print_line(f"classes of a single crop, trained on but not evaluated: {_few(report.singletons)}")
    if report.duplicates:
        groups = [" = ".join(group) for group in report.duplicates]
        print_line(f"{len(groups)} images occur more than once, kept on one side of a split: {_few(groups)}")
    if report.conflicts:
        groups = [" = ".join(group) for group in report.conflicts]
        print_line(f"{len(groups)} of them have different labels: {_few(groups)}")


def _few(names: Iterable[str]) -> str:
    return list_some(names, separator="; ")
