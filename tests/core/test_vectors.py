"""Unit vectors, entropy and overlaps of boxes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import DTypeLike

from fossilray.core.boxes import box_area, box_intersection, box_iou
from fossilray.core.vectors import entropy, unit_vectors


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vectors_have_length_1_whatever_their_length_was(dtype: DTypeLike) -> None:
    info = np.finfo(dtype)
    directions = np.random.default_rng(1).normal(size=(50, 7))
    directions /= np.abs(directions).max(axis=1, keepdims=True)
    for length in (1.0, 1e-3, float(info.max) / 2, float(info.tiny) * 8):
        unit = unit_vectors((directions * length).astype(dtype))
        assert unit.dtype == dtype
        expected = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        np.testing.assert_allclose(unit, expected, rtol=1e-4, atol=1e-6)


def test_a_vector_of_length_0_is_what_the_caller_says_and_one_that_is_not_finite_is_nan() -> None:
    vectors = np.array([[0, 0], [3, 4], [np.inf, 1], [np.nan, 0]], np.float32)
    np.testing.assert_array_equal(
        unit_vectors(vectors), np.array([[0, 0], [0.6, 0.8], [np.nan] * 2, [np.nan] * 2], np.float32)
    )
    assert np.isnan(unit_vectors(vectors, undefined=np.nan)[0]).all()
    assert unit_vectors(vectors[:0]).shape == (0, 2)


def test_ordinary_vectors_are_divided_by_their_norm_to_the_last_bit() -> None:
    vectors = np.random.default_rng(2).normal(size=(100, 64)).astype(np.float32)
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_array_equal(unit_vectors(vectors), expected)


def test_entropy_is_in_nats_and_a_probability_of_0_adds_nothing() -> None:
    probabilities = np.array([[0.25] * 4, [1, 0, 0, 0], [0.5, 0.5, 0, 0]], np.float32)
    np.testing.assert_allclose(entropy(probabilities), [np.log(4), 0, np.log(2)], rtol=1e-6)
    assert entropy(probabilities).dtype == np.float32


def test_overlaps_of_pairs_are_the_diagonal_of_the_matrix() -> None:
    first = np.array([[0, 0, 2, 2], [0, 0, 1, 1], [5, 5, 5, 5]], np.float64)
    second = np.array([[1, 1, 3, 3], [0, 0, 1, 1], [5, 5, 5, 5]], np.float64)
    assert box_area(first).tolist() == [4, 1, 0]
    assert box_intersection(first, second).tolist() == [1, 1, 0]
    np.testing.assert_allclose(box_iou(first, second), [1 / 7, 1, 0])
    np.testing.assert_array_equal(box_iou(first[:, None], second).diagonal(), box_iou(first, second))


def test_areas_of_whole_slides_in_int32_do_not_overflow() -> None:
    box = np.array([[0, 0, 200_000, 200_000]], np.int32)
    assert box_area(box).tolist() == [4e10]
    assert box_iou(box, box).tolist() == [1]
