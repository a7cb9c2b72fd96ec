"""One evaluation from labelled vectors to files: a page to read, tables to count with, pictures to print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fossilray.evaluation.figures import draw_curve, draw_map, lay_out_by_tsne, lay_out_by_umap
from fossilray.evaluation.martinsen2024 import METRICS, SPLITS, Martinsen2024, Told, judge_classification
from fossilray.evaluation.page import Rows, csv_file, json_file, render_page, write_files
from fossilray.evaluation.scampi import Scampi, judge_retrievals
from fossilray.labels.embed import EmbeddedCrops
from fossilray.labels.load import LabelledSet
from fossilray.models.retrieval_metrics import Distance

Protocol = Literal["martinsen2024", "scampi"]


@dataclass(frozen=True)
class Evaluation:
    """Where an evaluation lies, and its chief figures."""

    page: Path
    figures: dict[str, float]


def evaluate_backbone(
    labelled: LabelledSet,
    described: EmbeddedCrops,
    *,
    protocol: Protocol,
    out: Path,
    labels: str,
    splits: int = SPLITS,
    distance: Distance = "euclidean",
    maps: bool = True,
    told: Told = lambda _done, _of: None,
) -> Evaluation:
    """Judge vectors by a protocol and write evaluation.html, evaluation.json, tables as CSV and pictures as SVG.

    labels: what the page says the labels are. distance: of scampi alone. maps: whether martinsen2024 draws t-SNE
    and UMAP, which take longer than all else.

    Raises:
        UsageError: there are too few labels for the protocol, or the folder cannot be written.
    """
    files: dict[str, bytes]
    if protocol == "martinsen2024":
        classified = judge_classification(
            described.vectors,
            labelled.crops.label,
            labelled.crops.classes,
            group=labelled.group,
            splits=splits,
            told=told,
        )
        figures = _chief_of_classification(classified)
        files = {
            **_classification_tables(classified, labelled.crops.classes),
            **(draw_maps(labelled, described) if maps else {}),
        }
        shown: dict[str, Any] = {"classified": classified, "metrics": METRICS}
    else:
        retrieved = judge_retrievals(
            described.vectors,
            labelled.crops.label,
            labelled.crops.classes,
            group=labelled.group,
            distance=distance,
            splits=splits,
        )
        figures = _chief_of_retrieval(retrieved)
        files = {**_retrieval_tables(retrieved, labelled), "precision_recall.svg": draw_curve(retrieved)}
        shown = {"retrieved": retrieved}
    facts = _facts(labelled, described, protocol, labels, splits, distance)
    files["evaluation.json"] = json_file({**facts, "figures": figures})
    files["evaluation.html"] = render_page(
        labelled, facts=facts, figures=figures, files=files, **shown
    ).encode()
    write_files(out, files)
    return Evaluation(out / "evaluation.html", figures)


def _facts(
    labelled: LabelledSet,
    described: EmbeddedCrops,
    protocol: Protocol,
    labels: str,
    splits: int,
    distance: Distance,
) -> dict[str, Any]:
    counts = np.bincount(labelled.crops.label, minlength=len(labelled.crops.classes)).tolist()
    return {
        "protocol": protocol,
        "labels": labels,
        "backbone": described.backbone.model_dump(),
        "dimension": int(described.vectors.shape[1]),
        "splits": splits,
        "distance": distance if protocol == "scampi" else "euclidean",
        "crops": len(labelled),
        "classes": dict(zip(labelled.crops.classes, counts, strict=True)),
        "findings": asdict(labelled.findings),
    }


def _chief_of_classification(found: Martinsen2024) -> dict[str, float]:
    """Mean and deviation of every method's figures, by `method: metric`."""
    figures = {}
    for one in found.methods:
        for metric in METRICS:
            spread = one.spread(metric)
            if spread is not None:
                figures[f"{one.method}: {metric}"] = spread.mean
                figures[f"{one.method}: {metric} deviation"] = spread.deviation
    return figures


def _chief_of_retrieval(found: Scampi) -> dict[str, float]:
    deviation = float(np.std(found.nn_f1, ddof=1)) if len(found.nn_f1) > 1 else 0.0
    return {
        "NN F1": float(np.mean(found.nn_f1)),
        "NN F1 deviation": deviation,
        "P@N_k": found.precision_at_nk,
        "PR AUC": found.pr_auc,
    }


def _classification_tables(found: Martinsen2024, classes: Sequence[str]) -> dict[str, bytes]:
    def by_split() -> Rows:
        for one in found.methods:
            for row in range(len(one.values["accuracy"])):
                yield (
                    one.method,
                    row,
                    *(one.values[metric][row] if one.values[metric] else None for metric in METRICS),
                )

    def summary() -> Rows:
        for one in found.methods:
            for metric in METRICS:
                spread = one.spread(metric)
                if spread is not None:
                    yield one.method, metric, spread.mean, spread.deviation, spread.lowest, spread.highest

    return {
        "splits.csv": csv_file(("method", "split", *METRICS), by_split()),
        "summary.csv": csv_file(("method", "metric", "mean", "deviation", "lowest", "highest"), summary()),
        "per_class.csv": csv_file(
            ("method", "genus", "crops", "asked", "precision", "recall", "f1"),
            ((c.method, c.name, c.crops, c.asked, c.precision, c.recall, c.f1) for c in found.per_class),
        ),
        "confusion.csv": csv_file(
            ("truth", *classes),
            ((name, *row) for name, row in zip(classes, found.confusion.tolist(), strict=True)),
        ),
    }


def _retrieval_tables(found: Scampi, labelled: LabelledSet) -> dict[str, bytes]:
    crops = labelled.crops
    genera = [crops.classes[c] for c in crops.label.tolist()]
    counts = np.bincount(crops.label, minlength=len(crops.classes)).tolist()
    return {
        "per_crop.csv": csv_file(
            ("name", "genus", "precision_at_nk"),
            zip(labelled.names, genera, found.per_crop.tolist(), strict=True),
        ),
        "per_class.csv": csv_file(
            ("genus", "crops", "precision_at_nk"), zip(crops.classes, counts, found.per_class, strict=True)
        ),
        "curve.csv": csv_file(
            ("k", "recall", "precision"),
            (("N_k" if point.k is None else point.k, point.recall, point.precision) for point in found.curve),
        ),
        "nn_f1.csv": csv_file(("split", "nn_f1"), enumerate(found.nn_f1)),
    }


def draw_maps(labelled: LabelledSet, described: EmbeddedCrops) -> dict[str, bytes]:
    """Both pictures, and where every crop lies on them."""
    label, classes = labelled.crops.label, labelled.crops.classes
    laid = {"t-SNE": lay_out_by_tsne(described.vectors), "UMAP": lay_out_by_umap(described.vectors)}
    drawn = {name: places for name, places in laid.items() if places is not None}
    names = {"t-SNE": "tsne", "UMAP": "umap"}
    files = {f"{names[name]}.svg": draw_map(at, label, classes, title=name) for name, at in drawn.items()}
    header = ["name", "genus", *(f"{names[name]}_{axis}" for name in drawn for axis in "xy")]
    rows = (
        (labelled.names[row], classes[label[row]], *(float(v) for at in drawn.values() for v in at[row]))
        for row in range(len(label))
    )
    return {**files, "maps.csv": csv_file(header, rows)}
