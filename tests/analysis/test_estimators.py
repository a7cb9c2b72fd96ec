"""Charted shares on drawn wells: not worse than the raw calls, much better where correction pays; intervals hold."""

from __future__ import annotations

import numpy as np
import pytest
from estimators import GRID, Cell, measure

from fossilray.analysis.stratigraphy.confusion import Confusion
from fossilray.analysis.stratigraphy.correction import correct_counts

SOME = [
    Cell(6, 0.65, 60, "random", 3000),
    Cell(6, 0.65, 1000, "suggested", 3000),
    Cell(15, 0.85, 60, "random", 50),
    Cell(15, 0.85, 240, "suggested", 3000),
    Cell(15, 0.85, 240, "other well", 3000),
    Cell(15, 0.95, 240, "random", 3000),
    Cell(15, 0.85, 1000, "random", 3000, has_drift=True),
]
"""Cells in which the full correction is worse than the raw calls, or nearly, and sound ones."""


@pytest.mark.parametrize("cell", SOME, ids=str)
def test_the_charted_error_is_not_above_that_of_the_raw_calls(cell: Cell) -> None:
    found = measure(cell, wells=6, draws=50, seed=11)
    assert found.charted <= found.raw + 2 * found.standard_error
    if cell.choice != "suggested" and not cell.has_drift:
        assert found.coverage > 0.87  # six wells: it deviates by 0.02 to 0.03 from that of many


def test_it_is_far_below_where_correction_is_known_to_pay() -> None:
    found = measure(Cell(15, 0.85, 1000, "random", 3000), wells=6, draws=50, seed=11)
    assert found.charted < 0.75 * found.raw
    assert found.coverage > 0.92


@pytest.mark.slow
def test_no_cell_of_the_grid_is_worse_than_the_raw_calls_and_intervals_hold() -> None:
    results = [(cell, measure(cell, wells=24, draws=100)) for cell in GRID]
    assert not [cell for cell, found in results if found.charted > found.raw + 2 * found.standard_error]
    sound = [(cell, found) for cell, found in results if cell.choice == "random" and not cell.has_drift]
    assert not [cell for cell, found in sound if found.coverage < 0.9]


def test_the_weight_of_the_correction_grows_with_the_validation_crops() -> None:
    matrix = np.array([[80, 20, 0], [10, 85, 5], [0, 10, 90]])
    counts = np.array([[300.0, 100, 50], [50, 300, 100], [0, 0, 0]])
    classes = ("a", "b", "c")
    weights = [
        correct_counts(
            counts, Confusion(classes, matrix * times // 20), draws=60, rng=np.random.default_rng(0)
        ).weight
        for times in (1, 20, 400)
    ]
    assert weights == sorted(weights)
    assert weights[-1] > 0.85


def test_without_validation_crops_the_counts_stay_as_they_are() -> None:
    counts = np.array([[30.0, 10, 5], [0, 0, 0]])
    nothing = Confusion(("a", "b", "c"), np.zeros((3, 3), np.int64))
    corrected = correct_counts(counts, nothing, draws=40, rng=np.random.default_rng(0))
    assert corrected.weight == 0
    assert corrected.point.tolist() == counts.tolist()
    assert not corrected.drawn[:, 1].any()
