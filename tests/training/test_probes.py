"""Signs of learning and of collapse, on vectors with known results."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fossilray.training.probes import knn_accuracy, measure_spread, probe_vectors


def test_equal_vectors_have_collapsed() -> None:
    spread = measure_spread(np.ones((20, 8)))
    assert spread.std == pytest.approx(0, abs=1e-9)
    assert spread.effective_rank == pytest.approx(0, abs=1e-9)


def test_vectors_along_all_axes_alike_use_every_dimension() -> None:
    axes = np.concatenate([np.eye(6), -np.eye(6)])
    spread = measure_spread(axes)
    assert spread.effective_rank == pytest.approx(6)
    assert spread.std == pytest.approx(1)  # each of 6 dimensions: sqrt(2 / 12), times sqrt(6)


def test_effective_rank_of_unequal_axes_is_that_of_roy_and_vetterli() -> None:
    # Unit vectors in two dimensions, 30 degrees to either side of both ends of an axis.
    angles = np.radians([30, -30, 150, 210])
    values = np.array([2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)])
    shares = values / values.sum()
    expected = math.exp(-(shares * np.log(shares)).sum())
    found = measure_spread(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert found.effective_rank == pytest.approx(expected)


def test_near_neighbours_outvote_more_numerous_far_ones() -> None:
    angles = np.radians([0, 1, 60, 61, 62, 63])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    label = np.array([0, 0, 1, 1, 1, 1])
    assert knn_accuracy(vectors, label, neighbours=5) == 1.0
    assert knn_accuracy(vectors, np.array([0, 1, 0, 1, 0, 1]), neighbours=1) == 0.0


def test_crops_without_label_and_classes_of_one_count_for_the_spread_alone() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(7, 4))
    figures = probe_vectors(vectors, np.array([-1, -1, 0, 0, 1, 1, 2]), neighbours=1)
    alone = probe_vectors(vectors[2:6], np.array([0, 0, 1, 1]), neighbours=1)
    assert figures["nearest_f1"] == alone["nearest_f1"]
    assert figures["effective_rank"] == measure_spread(vectors).effective_rank
    assert set(probe_vectors(vectors, np.full(7, -1), neighbours=1)) == {"embedding_std", "effective_rank"}
