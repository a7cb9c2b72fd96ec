"""How well vectors find their own class, on a case worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fossilray.models.retrieval_metrics import score_nearest_neighbours


def test_retrieval_figures_of_a_case_worked_by_hand() -> None:
    angles = np.radians([0, 10, 21, 60, 75])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    figures = score_nearest_neighbours(vectors, np.array([0, 0, 1, 1, 1]))
    # Nearest: 0->1, 1->0, 2->1 (wrong), 3->4, 4->3. F1: 2*2/(2+3) and 2*2/(3+2).
    assert figures.accuracy == pytest.approx(4 / 5)
    assert figures.macro_f1 == pytest.approx((4 / 5 + 4 / 5) / 2)
    # Of the N_k = 1, 1, 2, 2, 2 nearest, of their class: 1, 1, 0, 2, 2.
    assert figures.precision_at_nk == pytest.approx((1 + 1 + 0 + 1 + 1) / 5)
