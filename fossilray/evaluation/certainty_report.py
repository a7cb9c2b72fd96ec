"""An evaluation of certainty as files: a page to read, tables to count with, pictures to print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fossilray.evaluation.certainty import (
    ALL_NOVELTY,
    SetCoverage,
    Told,
    UncertaintyScores,
    evaluate_uncertainty,
)
from fossilray.evaluation.evaluate import Evaluation
from fossilray.evaluation.figures import new_figure, picture_style, save_svg
from fossilray.evaluation.page import csv_file, json_file, write_files
from fossilray.labels.embed import EmbeddedCrops
from fossilray.labels.load import LabelledSet
from fossilray.models.heads import HeadKind
from fossilray.models.heads.calibration import Bin
from fossilray.render.html import svg_uri, template_environment


def evaluate_certainty(
    labelled: LabelledSet,
    described: EmbeddedCrops,
    *,
    kind: HeadKind,
    out: Path,
    labels: str,
    splits: int = 5,
    coverage: float = 0.9,
    wrong_share: float = 0.05,
    told: Told = lambda _done, _of: None,
) -> Evaluation:
    """Measure how well certainty holds and write evaluation.html, evaluation.json, tables as CSV, reliability.svg.

    Raises:
        UsageError: there are too few labels to leave any out, or the folder cannot be written.
    """
    found = evaluate_uncertainty(
        labelled,
        described,
        kind=kind,
        splits=splits,
        coverage=coverage,
        wrong_share=wrong_share,
        told=told,
    )
    counts = np.bincount(labelled.crops.label, minlength=len(labelled.crops.classes)).tolist()
    facts: dict[str, Any] = {
        "protocol": "certainty",
        "labels": labels,
        "backbone": described.backbone.model_dump(),
        "head": kind,
        "splits": splits,
        "coverage": coverage,
        "wrong_share": wrong_share,
        "crops": len(labelled),
        "classes": dict(zip(labelled.crops.classes, counts, strict=True)),
        "findings": asdict(labelled.findings),
    }
    files = {
        "evaluation.json": json_file({**facts, "figures": found.figures}),
        "coverage.csv": _coverage(("genus", found.classes)),
        "wells.csv": _coverage(("crops held out", found.wells), ("wells held out", found.wells_by_wells)),
        "reliability.csv": csv_file(
            ("temperature", "low", "high", "calls", "confidence", "accuracy"),
            (
                (name, one.low, one.high, one.count, one.confidence, one.accuracy)
                for name, bins in (("fitted", found.bins), ("none", found.bins_uncalibrated))
                for one in bins
            ),
        ),
        "novelty.csv": csv_file(
            ("genus withheld", "crops", *(f"auroc_{name}" for name in ALL_NOVELTY)),
            ((one.name, one.crops, *(one.auroc[name] for name in ALL_NOVELTY)) for one in found.withheld),
        ),
        "reliability.svg": draw_reliability(found),
    }
    files["evaluation.html"] = _render(found, facts, files["reliability.svg"], sorted(files)).encode()
    write_files(out, files)
    return Evaluation(out / "evaluation.html", found.figures)


def draw_reliability(found: UncertaintyScores) -> bytes:
    """Share of calls that are right against their probability, without and with the temperature, as an SVG file."""
    figures = found.figures
    sides = (
        ("as the head says", found.bins_uncalibrated, figures["ECE before the temperature"]),
        ("with its temperature", found.bins, figures["ECE"]),
    )
    with picture_style("reliability"):
        figure = new_figure(9.0, 4.9)
        grid = figure.subplots(2, 2, height_ratios=(4, 1), sharex=True, sharey="row")
        for column, (title, bins, error) in enumerate(sides):
            _draw_bins(grid[0, column], grid[1, column], bins)
            grid[0, column].set_title(f"{title}: ECE {error:.3f}", loc="left")
        grid[0, 0].set_ylabel("share that is right")
        grid[1, 0].set_ylabel("calls")
        figure.tight_layout()
        return save_svg(figure)


def _draw_bins(above: Any, below: Any, bins: Sequence[Bin]) -> None:
    filled = [one for one in bins if one.count]
    width = bins[0].high - bins[0].low
    above.plot([0, 1], [0, 1], color="#999", linewidth=0.8, linestyle=(0, (4, 3)))
    above.bar(
        [(one.low + one.high) / 2 for one in filled],
        [one.accuracy for one in filled],
        width=0.92 * width,
        color="#3f6f94",
        alpha=0.75,
        linewidth=0,
    )
    above.plot(
        [one.confidence for one in filled],
        [one.accuracy for one in filled],
        "o",
        color="#9a5b13",
        markersize=4,
        linestyle="none",
    )
    above.set(xlim=(0, 1), ylim=(0, 1.03))
    below.bar(
        [(one.low + one.high) / 2 for one in bins],
        [one.count for one in bins],
        width=0.92 * width,
        color="#b9b2a5",
        linewidth=0,
    )
    below.set_xlabel("probability of the call")


def _coverage(*tables: tuple[str, Sequence[SetCoverage]]) -> bytes:
    return csv_file(
        ("of", "name", "asked", "covered", "genera_in_a_set"),
        ((of, one.name, one.asked, one.covered, one.mean_size) for of, rows in tables for one in rows),
    )


def _render(found: UncertaintyScores, facts: dict[str, Any], picture: bytes, files: Sequence[str]) -> str:
    environment = template_environment()
    environment.filters["third"] = lambda value: f"{value:.3f}"
    # Of two wells the one that is left cannot be held out once more.
    by_wells = {one.name: one for one in found.wells_by_wells}
    return environment.get_template("certainty.html.j2").render(
        found=found,
        facts=facts,
        figures=found.figures,
        picture=svg_uri(picture),
        files=files,
        wells=[(one, by_wells.get(one.name)) for one in found.wells],
        kinds=ALL_NOVELTY,
    )
