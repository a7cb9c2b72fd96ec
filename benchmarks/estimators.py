"""Error and coverage of charted shares on drawn wells, beside the raw calls and the full correction.

python benchmarks/estimators.py
python benchmarks/estimators.py --wells 40 --csv grid.csv

A well has eight samples whose compositions are drawn around a common, uneven one. A drawn classifier calls their
objects. Validation crops are drawn from the well at random, from another well, or as a suggestion would choose them:
rare classes more often, and crops on which the classifier errs nearly twice as often. With drift the samples are called
by another matrix, drawn around that of the validation crops. The error is the share of an assemblage under wrong taxa
(total variation distance). A cell fails if the charted error exceeds that of the raw calls by more than two standard
errors of their difference.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.confusion import Confusion, correct_confusion
from fossilray.analysis.stratigraphy.intervals import LEVEL, estimate_shares

SAMPLES = 8
Choice = Literal["random", "other well", "suggested"]
_SUGGESTED_ERRORS = 1.8
"""How many times more often the classifier errs on suggested crops."""
_DRIFT = 30.0
"""Dirichlet weight of a row of the drifted matrix: smaller is farther."""


@dataclass(frozen=True)
class Cell:
    """A kind of well, classifier and validation."""

    classes: int
    accuracy: float
    crops: int
    choice: Choice
    objects: int
    has_drift: bool = False


@dataclass(frozen=True)
class CellResult:
    """Means over the wells of a cell."""

    raw: float
    corrected: float
    """Error of the full correction."""
    charted: float
    standard_error: float
    """Of the difference between charted and raw."""
    weight: float
    """Weight of the correction."""
    coverage: float
    """Share of the intervals that hold the true share."""


GRID = [
    *(
        Cell(classes, accuracy, crops, choice, objects)
        for classes, accuracy, crops, choice, objects in itertools.product(
            (6, 15, 30),
            (0.65, 0.85, 0.95),
            (60, 240, 1000),
            ("random", "other well", "suggested"),
            (50, 3000),
        )
    ),
    *(
        Cell(classes, accuracy, 1000, "random", objects, has_drift=True)
        for classes, accuracy, objects in itertools.product((6, 15, 30), (0.65, 0.85, 0.95), (50, 3000))
    ),
]


def measure(cell: Cell, *, wells: int, draws: int, seed: int = 0) -> CellResult:
    """Draw wells of a cell and return the mean errors and the coverage."""
    errors: list[tuple[float, float, float]] = []
    weights, held = [], []
    for well in range(wells):
        rng = np.random.default_rng(
            [seed, well, cell.classes, round(100 * cell.accuracy), cell.crops, cell.objects, cell.has_drift]
        )
        matrix = _draw_matrix(rng, cell)
        truth = _draw_assemblages(rng, cell.classes)
        confusion = Confusion(
            tuple(f"class {row}" for row in range(cell.classes)), _draw_validation(rng, cell, matrix, truth)
        )
        if cell.has_drift:
            matrix = np.array([rng.dirichlet(_DRIFT * row + 1e-3) for row in matrix])
        counts = np.array([rng.multinomial(cell.objects, shares @ matrix) for shares in truth])
        estimate = estimate_shares(
            counts, np.arange(cell.classes), cell.classes, confusion=confusion, draws=draws, rng=rng
        )
        parameters = confusion.dirichlet_parameters
        full = correct_confusion(
            counts.astype(np.float64), parameters / parameters.sum(axis=1, keepdims=True)
        )
        errors.append(
            tuple(_error(shares, truth) for shares in (counts / cell.objects, full, estimate.shares))
        )  # type: ignore[arg-type]
        weights.append(estimate.correction_weight or 0.0)
        held.append(((estimate.low <= truth + 1e-12) & (truth <= estimate.high + 1e-12)).mean())
    raw, corrected, charted = np.array(errors).T
    return CellResult(
        float(raw.mean()),
        float(corrected.mean()),
        float(charted.mean()),
        float((charted - raw).std(ddof=1) / np.sqrt(wells)),
        float(np.mean(weights)),
        float(np.mean(held)),
    )


def _error(shares: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    return float(np.abs(shares - truth).sum(axis=1).mean() / 2)


def _draw_matrix(rng: np.random.Generator, cell: Cell) -> NDArray[np.float64]:
    """Rows of a confusion matrix: accuracies around that of the cell, errors mostly for a few similar classes."""
    rows = []
    for row in range(cell.classes):
        right = float(np.clip(rng.beta(12 * cell.accuracy, 12 * (1 - cell.accuracy)), 0.05, 0.995))
        errors = rng.dirichlet(np.full(cell.classes - 1, 0.5)) * (1 - right)
        rows.append(np.insert(errors, row, right))
    return np.array(rows)


def _draw_assemblages(rng: np.random.Generator, classes: int) -> NDArray[np.float64]:
    """Compositions (samples, classes) around a common one that falls off as Zipf's."""
    common = rng.permutation(1 / np.arange(1, classes + 1))
    assemblages: NDArray[np.float64] = rng.dirichlet(12 * common / common.sum() + 1e-3, size=SAMPLES)
    return assemblages


def _draw_validation(
    rng: np.random.Generator, cell: Cell, matrix: NDArray[np.float64], truth: NDArray[np.float64]
) -> NDArray[np.int64]:
    shares, drawn_by = truth.mean(axis=0), matrix
    if cell.choice == "other well":
        shares = _draw_assemblages(rng, cell.classes).mean(axis=0)
    elif cell.choice == "suggested":
        shares = np.sqrt(shares) / np.sqrt(shares).sum()
        wrong = 1 - np.diag(matrix)
        more = np.clip(_SUGGESTED_ERRORS * wrong, 0, 0.9)
        drawn_by = matrix * (more / np.maximum(wrong, 1e-9))[:, None]
        np.fill_diagonal(drawn_by, 1 - more)
    crops = rng.multinomial(cell.crops, shares)
    return np.array([rng.multinomial(number, row) for number, row in zip(crops, drawn_by, strict=True)])


def rows_of(cells: Iterable[Cell], *, wells: int, draws: int) -> Iterable[tuple[Cell, CellResult]]:
    """Measure cells one after the other."""
    for cell in cells:
        yield cell, measure(cell, wells=wells, draws=draws)


def main() -> None:
    """Print a line for each cell, then what failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wells", type=int, default=24, help="wells for each cell")
    parser.add_argument("--draws", type=int, default=150, help="draws of the bootstrap")
    parser.add_argument("--csv", type=Path, help="file for the table")
    options = parser.parse_args()
    results = []
    print(
        f"{'classes':>7} {'right':>5} {'crops':>5} {'chosen':>10} {'objects':>7} drift   raw  full  charted  held"
    )
    for cell, found in rows_of(GRID, wells=options.wells, draws=options.draws):
        results.append((cell, found))
        print(
            f"{cell.classes:7} {cell.accuracy:5.2f} {cell.crops:5} {cell.choice:>10} {cell.objects:7} "
            f"{'yes' if cell.has_drift else 'no':>5} {found.raw:.3f} {found.corrected:.3f}   {found.charted:.3f}  "
            f"{found.coverage:.3f}",
            flush=True,
        )
    worse = [cell for cell, found in results if found.charted > found.raw + 2 * found.standard_error]
    sound = [found.coverage for cell, found in results if cell.choice != "suggested" and not cell.has_drift]
    print(f"charted worse than raw: {len(worse)} of {len(results)} cells {worse}")
    print(f"mean of charted / raw: {np.mean([found.charted / found.raw for _, found in results]):.3f}")
    print(f"intervals at {LEVEL:.0%}: least coverage {min(sound):.3f} of cells without drift and suggestion")
    if options.csv is not None:
        with options.csv.open("w", newline="", encoding="utf-8") as sink:
            table = csv.DictWriter(sink, [*asdict(GRID[0]), *asdict(results[0][1])])
            table.writeheader()
            table.writerows({**asdict(cell), **asdict(found)} for cell, found in results)


if __name__ == "__main__":
    main()
