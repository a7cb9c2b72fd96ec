"""Backbones side by side on labelled crops, by the published protocols: the table of docs/guide/backbones.md.

python benchmarks/backbones.py LABELS [--genera a,b,c] [--backbone NAME=SPEC ...] [--splits 10] [--markdown FILE]

LABELS is what `evaluate retrieval --labels` takes. NAME=SPEC adds a row; SPEC is what `--backbone` takes, so what
`fossilray train backbone` left is `SimCLR=FOLDER/backbone.safetensors`. Always there: the hand-crafted vectors, the
bundled network with random weights (mean over three seeds), and the shipped backbone. --genera keeps these
classes alone: a backbone that was trained on labels should be evaluated on other genera. Printed, and written between
the marks of the --markdown file: P@N_k, PR AUC and NN F1 (scampi), accuracy of 1 and 9 neighbours and of logistic
regression, its average recall and its log loss (martinsen2024), each the mean over splits with its deviation if there
is one, and the CPU-seconds that describing the crops took.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from fossilray.core.errors import UsageError
from fossilray.evaluation.martinsen2024 import LOGISTIC, score_classification
from fossilray.evaluation.scampi import score_retrieval
from fossilray.labels.embed import embed_labelled
from fossilray.labels.load import LabelledSet, load_labels

ALWAYS = ("hand-crafted=handcrafted", "random=random:bundled", "shipped=bundled")
RANDOM_SEEDS = 3
MARKS = ("<!-- table: begin -->", "<!-- table: end -->")
COLUMNS = ("P@N_k", "PR AUC", "NN F1", "1-NN acc.", "9-NN acc.", "LR acc.", "LR recall", "LR log loss")


@dataclass(frozen=True)
class Row:
    """One backbone: figures (seeds or splits, COLUMNS) averaged, their spread over splits, and what they cost."""

    name: str
    spec: str
    dimension: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    seconds: float


def main(
    labels: Annotated[Path, typer.Argument(help="Folder of <class>/<image>, or a CSV of path and genus.")],
    backbone: Annotated[list[str] | None, typer.Option(help="NAME=SPEC; may be repeated.")] = None,
    genera: Annotated[str | None, typer.Option(help="Classes to evaluate on, separated by commas.")] = None,
    splits: int = 10,
    threads: int = 1,
    markdown: Annotated[Path | None, typer.Option(help="File whose table is replaced.")] = None,
) -> None:
    torch.set_num_threads(threads)
    labelled = load_labels(labels)
    if genera is not None:
        labelled = keep_classes(labelled, [name.strip() for name in genera.split(",")])
    specs = [pair.partition("=")[::2] for pair in (*ALWAYS[:2], *(backbone or ()), ALWAYS[2])]
    rows = []
    for name, spec in specs:
        rows.append(measure(labelled, name, spec, splits=splits))
        print(f"{name}: {rows[-1].seconds:.0f} s", file=sys.stderr)
    summary = (
        f"{len(labelled)} crops of {len(labelled.crops.classes)} classes, {splits} splits: "
        f"`python benchmarks/backbones.py {' '.join(['LABELS', *sys.argv[2:]])}`"
    )
    text = "\n".join([summary, "", *table(rows)])
    print(text)
    if markdown is not None:
        begin, end = MARKS
        page = markdown.read_text(encoding="utf-8")
        markdown.write_text(
            re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", page, flags=re.DOTALL),
            encoding="utf-8",
        )


def keep_classes(labelled: LabelledSet, names: list[str]) -> LabelledSet:
    """The crops of these classes alone."""
    absent = [name for name in names if name not in labelled.crops.classes]
    if absent:
        raise UsageError(f"no crops of {', '.join(absent)}; there are {', '.join(labelled.crops.classes)}")
    rows = np.flatnonzero(np.isin(np.array(labelled.crops.classes)[labelled.crops.label], names))
    crops = labelled.crops
    number = {name: new for new, name in enumerate(sorted(names))}
    label = np.array([number[crops.classes[old]] for old in crops.label[rows].tolist()], np.int64)
    return replace(
        labelled,
        crops=replace(
            crops,
            pixels=crops.pixels[rows],
            shape=crops.shape[rows],
            label=label,
            classes=tuple(sorted(names)),
        ),
        names=tuple(labelled.names[row] for row in rows.tolist()),
        group=labelled.group[rows],
    )


def measure(labelled: LabelledSet, name: str, spec: str, *, splits: int) -> Row:
    """The figures of one backbone; a random one is drawn three times."""
    by_seed, seconds, dimension = [], 0.0, 0
    for seed in range(RANDOM_SEEDS if spec.startswith("random:") else 1):
        began = time.process_time()
        described = embed_labelled(labelled, spec, seed=seed)
        seconds += time.process_time() - began
        dimension = described.vectors.shape[1]
        crops = labelled.crops
        retrieval = score_retrieval(
            described.vectors, crops.label, crops.classes, group=labelled.group, splits=splits
        )
        classified = score_classification(
            described.vectors, crops.label, crops.classes, group=labelled.group, splits=splits
        )
        scores = {scored.method: scored.values for scored in classified.methods}
        by_split = [
            (retrieval.precision_at_nk,) * splits,
            (retrieval.pr_auc,) * splits,
            retrieval.nn_f1,
            scores["kNN, k = 1"]["accuracy"],
            scores["kNN, k = 9"]["accuracy"],
            *(scores[LOGISTIC][metric] for metric in ("accuracy", "recall", "log_loss")),
        ]
        by_seed.append(np.array(by_split))
    figures = np.stack(by_seed)
    deviation = figures.std(axis=2, ddof=1).mean(axis=0) if splits > 1 else np.zeros(len(COLUMNS))
    return Row(
        name, spec, dimension, tuple(figures.mean(axis=(0, 2))), tuple(deviation), seconds / len(by_seed)
    )


def table(rows: list[Row]) -> list[str]:
    """Markdown, a row a backbone."""
    lines = [
        f"| backbone | numbers | {' | '.join(COLUMNS)} | CPU s |",
        f"| --- | --- | {' | '.join('---' for _ in COLUMNS)} | --- |",
    ]
    for row in rows:
        cells = [
            f"{mean:.3f}" + (f" ± {spread:.3f}" if spread > 1e-9 else "")
            for mean, spread in zip(row.mean, row.deviation, strict=True)
        ]
        lines.append(f"| {row.name} | {row.dimension} | {' | '.join(cells)} | {row.seconds:.1f} |")
    return lines


if __name__ == "__main__":
    typer.run(main)
