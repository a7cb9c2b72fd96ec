"""Evaluations whose protocol may train the network itself: karaderi2021 and liu2022, from labels to files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.evaluation.evaluate import Evaluation
from fossilray.evaluation.figures import draw_recall_against_size, draw_roc, lay_out_by_tsne, lay_out_by_umap
from fossilray.evaluation.karaderi2021 import Karaderi2021, Vectors, draw_groups, judge_metric_space
from fossilray.evaluation.liu2022 import METRICS, Liu2022, Taught, judge_transfer
from fossilray.evaluation.martinsen2024 import Told
from fossilray.evaluation.morphology_map import choose_shown, render_map
from fossilray.evaluation.page import csv_file, json_file, render_template, write_files
from fossilray.evaluation.protocol_training import ProtocolTraining
from fossilray.labels.embed import EmbeddedCrops
from fossilray.labels.load import LabelledSet
from fossilray.models.heads import Head, train_head

_CLUSTER_FIGURES = ("accuracy", "f1", "nmi", "ari")


@dataclass(frozen=True)
class ProtocolRequest:
    """What both protocols are told."""

    out: Path
    labels: str
    """What the page says the labels are."""
    splits: int
    seed: int = 0
    told: Told = lambda _done, _of: None


def evaluate_metric_space(
    labelled: LabelledSet,
    given: EmbeddedCrops | ProtocolTraining,
    asked: ProtocolRequest,
    *,
    withhold: Sequence[Sequence[str]] = (),
    withheld_size: int | None = None,
    maps: bool = True,
) -> Evaluation:
    """Judge a backbone's vectors, or trainings of our own, by karaderi2021; write page, tables and morphology map.

    withhold: the groups of the open set; none: drawn, `withheld_size` classes each.

    Raises:
        UsageError: there are too few labels for the protocol, or the folder cannot be written.
    """
    label, classes, group = labelled.crops.label, labelled.crops.classes, labelled.group
    groups = tuple(tuple(names) for names in withhold) or draw_groups(
        label, classes, group=group, repetitions=asked.splits, size=withheld_size, seed=asked.seed
    )
    made: list[Any] = []

    def learned(rows: NDArray[np.int64], name: str) -> Vectors:
        if isinstance(given, EmbeddedCrops):
            return given.vectors
        made.append(given(rows, name=name))
        vectors: Vectors = made[-1].vectors
        return vectors

    found = judge_metric_space(
        learned,
        label,
        classes,
        group=group,
        repetitions=asked.splits,
        withheld=groups,
        seed=asked.seed,
        told=asked.told,
    )
    backbone = given.backbone if isinstance(given, EmbeddedCrops) else made[-1].backbone
    facts = _facts(labelled, given, asked, "karaderi2021", backbone.model_dump(), found.last.shape[1])
    facts["withheld"] = [list(one.withheld) for one in found.opened]
    figures = _metric_figures(found)
    files = _metric_tables(found, labelled)
    if maps:
        rows = choose_shown(label, seed=asked.seed)
        laid = {"UMAP": lay_out_by_umap(found.last[rows]), "t-SNE": lay_out_by_tsne(found.last[rows])}
        layouts = {name: places for name, places in laid.items() if places is not None}
        own = isinstance(given, ProtocolTraining)
        files["morphology.html"] = render_map(
            labelled,
            layouts,
            rows=rows,
            title=f"Morphology map: {backbone.name}",
            says="Near each other means alike to the network."
            + (" Squares and dashed frames: classes withheld from its training." if own else ""),
            withheld=found.opened[-1].withheld if own else (),
        ).encode()
        files["maps.csv"] = csv_file(
            ["name", "genus", *(f"{name}_{axis}" for name in layouts for axis in "xy")],
            (
                (labelled.names[r], classes[label[r]], *(float(v) for at in layouts.values() for v in at[i]))
                for i, r in enumerate(rows.tolist())
            ),
        )
    return _write(
        "karaderi2021.html.j2", labelled, asked, facts, figures, files, found=found, trained=facts["training"]
    )


def evaluate_transfer(
    labelled: LabelledSet,
    given: EmbeddedCrops | ProtocolTraining,
    asked: ProtocolRequest,
    *,
    reduced: Sequence[int] = (),
    others: Mapping[str, ProtocolTraining] | None = None,
) -> Evaluation:
    """Judge a linear classifier on a backbone's vectors, or trainings of our own, by liu2022; write page and tables.

    reduced: most crops of a class, each once more. others: other ways of training, compared on the smallest of them.

    Raises:
        UsageError: there are too few labels for the protocol, or the folder cannot be written.
    """
    made: list[Any] = []
    teaching = {
        name: _teach(labelled, other, asked.seed, made, name) for name, other in (others or {}).items()
    }
    found = judge_transfer(
        _teach(labelled, given, asked.seed, made, ""),
        labelled.crops.label,
        labelled.crops.classes,
        group=labelled.group,
        repetitions=asked.splits,
        reduced=reduced,
        others=teaching,
        seed=asked.seed,
        told=asked.told,
    )
    first = given if isinstance(given, EmbeddedCrops) else made[0]
    facts = _facts(
        labelled, given, asked, "liu2022", first.backbone.model_dump(), int(first.vectors.shape[1])
    )
    files = {
        **_transfer_tables(found, labelled),
        "roc.svg": draw_roc(found),
        "recall_by_size.svg": draw_recall_against_size(found),
    }
    return _write(
        "liu2022.html.j2",
        labelled,
        asked,
        facts,
        _transfer_figures(found),
        files,
        found=found,
        metrics=METRICS,
        trained=facts["training"],
    )


def _teach(
    labelled: LabelledSet, given: EmbeddedCrops | ProtocolTraining, seed: int, made: list[Any], prefix: str
) -> Taught:
    classes = labelled.crops.classes

    def taught(rows: NDArray[np.int64], name: str) -> NDArray[np.float32]:
        if isinstance(given, EmbeddedCrops):
            head = train_head(
                given.vectors[rows],
                labelled.crops.label[rows],
                classes,
                kind="logistic",
                backbone=given.backbone,
                seed=seed,
            )
            return _of_all_classes(head, given.vectors, classes)
        trained = given(rows, name=f"{prefix}-{name}".strip("-").replace(" ", "-"))
        made.append(trained)
        assert trained.head is not None, "a transfer leaves its head"
        return _of_all_classes(trained.head, trained.vectors, classes)

    return taught


def _of_all_classes(head: Head, vectors: NDArray[np.floating], classes: Sequence[str]) -> NDArray[np.float32]:
    """Probabilities (n, classes), 0 of those that the head never saw."""
    share = np.zeros((len(vectors), len(classes)), np.float32)
    share[:, [classes.index(name) for name in head.classes]] = head.predict(vectors)
    return share


def _facts(
    labelled: LabelledSet,
    given: EmbeddedCrops | ProtocolTraining,
    asked: ProtocolRequest,
    protocol: str,
    backbone: dict[str, Any],
    dimension: int,
) -> dict[str, Any]:
    counts = np.bincount(labelled.crops.label, minlength=len(labelled.crops.classes)).tolist()
    return {
        "protocol": protocol,
        "labels": asked.labels,
        "backbone": backbone,
        "dimension": int(dimension),
        "splits": asked.splits,
        "seed": asked.seed,
        "crops": len(labelled),
        "classes": dict(zip(labelled.crops.classes, counts, strict=True)),
        "training": None if isinstance(given, EmbeddedCrops) else given.config.what_changes_results(),
        "findings": asdict(labelled.findings),
    }


def _metric_figures(found: Karaderi2021) -> dict[str, float]:
    named = {
        "closed set: accuracy": found.closed.accuracy,
        "closed set: F1": found.closed.f1,
        "open set: accuracy": tuple(one.accuracy for one in found.opened),
        "open set: F1": tuple(one.f1 for one in found.opened),
        "open set: NMI": tuple(one.nmi for one in found.opened),
        "open set: ARI": tuple(one.ari for one in found.opened),
        "open set: accuracy by chance": tuple(one.by_chance for one in found.opened),
    }
    figures = {}
    for name, values in named.items():
        figures[name] = float(np.mean(values))
        if len(values) > 1:
            figures[f"{name} deviation"] = float(np.std(values, ddof=1))
    return figures


def _metric_tables(found: Karaderi2021, labelled: LabelledSet) -> dict[str, bytes]:
    classes = labelled.crops.classes
    counts = np.bincount(labelled.crops.label, minlength=len(classes)).tolist()
    opened: dict[str, list[float]] = {name: [] for name in classes}
    for one in found.opened:
        for name, f1 in zip(one.withheld, one.per_class, strict=True):
            opened[name].append(f1)
    return {
        "closed_set.csv": csv_file(
            ("repetition", "accuracy", "f1"),
            ((n, *both) for n, both in enumerate(zip(found.closed.accuracy, found.closed.f1, strict=True))),
        ),
        "open_set.csv": csv_file(
            ("repetition", "withheld", "crops", *_CLUSTER_FIGURES, "accuracy_by_chance"),
            (
                (
                    n,
                    "; ".join(one.withheld),
                    one.crops,
                    *(getattr(one, figure) for figure in _CLUSTER_FIGURES),
                    one.by_chance,
                )
                for n, one in enumerate(found.opened)
            ),
        ),
        "per_class.csv": csv_file(
            ("genus", "crops", "closed_f1", "times_withheld", "open_f1"),
            (
                (
                    name,
                    counts[c],
                    found.closed.per_class[c],
                    len(opened[name]),
                    float(np.mean(opened[name])) if opened[name] else None,
                )
                for c, name in enumerate(classes)
            ),
        ),
        "confusion.csv": csv_file(
            ("truth", *classes),
            ((name, *row) for name, row in zip(classes, found.closed.confusion.tolist(), strict=True)),
        ),
    }


def _transfer_figures(found: Liu2022) -> dict[str, float]:
    figures = {}
    for metric in METRICS:
        figures[metric] = found.test.mean(metric)
        deviation = found.test.deviation(metric)
        if deviation is not None:
            figures[f"{metric} deviation"] = deviation
    figures["validation top1"] = float(np.nanmean(found.validation.values["top1"]))
    figures |= {"micro AUC": found.micro.auc, "macro AUC": found.macro.auc}
    if found.size_correlation is not None:
        figures["recall against size, Spearman"] = found.size_correlation
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def _transfer_tables(found: Liu2022, labelled: LabelledSet) -> dict[str, bytes]:
    classes = labelled.crops.classes
    empty = ("", None)
    return {
        "repetitions.csv": csv_file(
            ("part", "repetition", *METRICS),
            (
                (part, n, *(scores.values[metric][n] for metric in METRICS))
                for part, scores in (("test", found.test), ("validation", found.validation))
                for n in range(len(scores.values["top1"]))
            ),
        ),
        "per_class.csv": csv_file(
            (
                *("genus", "crops_learned_from", "asked", "precision", "recall", "f1", "auc"),
                *(f"{what}_{n}" for n in (1, 2, 3) for what in ("taken_for", "share")),
            ),
            (
                (
                    *(row.name, row.trained, row.asked, row.precision, row.recall, row.f1, row.auc),
                    *(
                        cell
                        for n in range(3)
                        for cell in (
                            (row.confusions[n].name, row.confusions[n].share)
                            if n < len(row.confusions)
                            else empty
                        )
                    ),
                )
                for row in found.per_class
            ),
        ),
        "confusion.csv": csv_file(
            ("truth", *classes),
            ((name, *row) for name, row in zip(classes, found.confusion.tolist(), strict=True)),
        ),
        "roc.csv": csv_file(
            ("average", "false_positive_rate", "true_positive_rate"),
            (
                (name, float(x), float(y))
                for name, curve in (("micro", found.micro), ("macro", found.macro))
                for x, y in zip(curve.false_positive, curve.true_positive, strict=True)
            ),
        ),
        "conditions.csv": csv_file(
            ("condition", "most_of_a_class", "crops_learned_from", *METRICS),
            (
                (one.name, one.most_of_a_class, one.crops, *(one.scores.mean(metric) for metric in METRICS))
                for one in found.conditions
            ),
        ),
    }


def _write(
    template: str,
    labelled: LabelledSet,
    asked: ProtocolRequest,
    facts: dict[str, Any],
    figures: dict[str, float],
    files: dict[str, bytes],
    **shown: Any,
) -> Evaluation:
    files["evaluation.json"] = json_file({**facts, "figures": figures})
    page = render_template(template, labelled, facts=facts, figures=figures, files=files, **shown)
    files["evaluation.html"] = page.encode()
    write_files(asked.out, files)
    return Evaluation(asked.out / "evaluation.html", figures)
