"""Shares of samples of which an expert determined some objects, and the rest is estimated from predictions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from support.synthetic_well import make_truth

from fossilray.analysis.stratigraphy.confusion import Confusion
from fossilray.analysis.stratigraphy.intervals import (
    draw_shares,
    estimate_ratios,
    estimate_shares,
    ratio_interval,
    wilson,
)


def confusion_matrix(validation: NDArray[np.int64]) -> Confusion:
    return Confusion(tuple(str(row) for row in range(len(validation))), validation)


def test_determined_objects_are_counted_in_full_and_their_taxa_are_there_for_sure() -> None:
    # The classifier calls spores of the second taxon by the name of the first; the expert found seven of them.
    confusion = confusion_matrix(np.array([[180, 20], [20, 180]]))
    counts, determined = np.array([[300, 12], [0, 0]]), np.array([[0, 7], [3, 0]])
    for known in (confusion, None):
        shares = estimate_shares(
            counts,
            np.arange(2),
            2,
            confusion=known,
            determined=determined,
            draws=100,
            rng=np.random.default_rng(0),
        )
        found = shares.shares * shares.objects[:, None]
        assert found[0, 1] >= 7 - 1e-9
        assert found[1, 0] == 3
        assert shares.objects.round().tolist() == [319, 3]
        assert (shares.present_low[determined > 0] > 0).all()
        assert (shares.low[determined > 0] > 0).all()
        assert ((shares.low <= shares.shares) & (shares.shares <= shares.high)).all()


def test_a_sample_of_determined_objects_has_the_intervals_of_a_count() -> None:
    determined = np.array([[120, 60, 20, 0]])
    nothing = np.zeros((1, 4), np.int64)
    low, high = wilson(determined.astype(float), np.full((1, 4), 200.0))
    confusion = confusion_matrix(np.array([[9, 1, 0, 0], [1, 9, 0, 0], [0, 0, 5, 5], [0, 0, 5, 5]]))
    for known, tolerance in ((None, 1e-12), (confusion, 0.02)):
        shares = estimate_shares(
            nothing, np.arange(4), 4, confusion=known, determined=determined, rng=np.random.default_rng(0)
        )
        np.testing.assert_allclose(shares.shares, determined / 200)
        np.testing.assert_allclose(shares.low, low, atol=tolerance)
        np.testing.assert_allclose(shares.high, high, atol=tolerance)
        drawn = draw_shares(
            nothing, np.arange(4), 4, confusion=known, determined=determined, rng=np.random.default_rng(0)
        )
        np.testing.assert_allclose(drawn.mean(axis=0), determined / 200, atol=0.01)
        assert drawn[..., :3].min() > 0


def test_intervals_hold_their_level_and_narrow_when_a_part_is_determined() -> None:
    covered, widths = [], []
    for seed in range(10):
        truth = make_truth(right=0.8, crops=60, seed=seed)
        rng = np.random.default_rng(100 + seed)
        members = np.stack([rng.multinomial(300, row) for row in truth.shares])
        determined = np.stack([rng.multivariate_hypergeometric(row, 150) for row in members])
        counts = _predict(members - determined, truth.confused, rng)
        taxa = members.shape[1]
        for given, predicted in (
            (determined, counts),
            (None, counts + _predict(determined, truth.confused, rng)),
        ):
            shares = estimate_shares(
                predicted,
                np.arange(taxa),
                taxa,
                confusion=confusion_matrix(truth.validation),
                determined=given,
                draws=200,
                rng=np.random.default_rng(seed),
            )
            if given is not None:
                covered.append((shares.low <= truth.shares + 1e-12) & (truth.shares <= shares.high))
            widths.append((given is not None, float((shares.high - shares.low).mean())))
    assert 0.92 <= np.mean(covered) <= 0.99
    assert np.mean([width for is_given, width in widths if is_given]) < 0.9 * np.mean(
        [width for is_given, width in widths if not is_given]
    )


def test_determined_grains_of_the_marker_enter_the_ratio() -> None:
    ratios = estimate_ratios(
        np.zeros((1, 2), np.int64),
        np.array([0, 1]),
        1,
        confusion=None,
        determined=np.array([[30, 60]]),
        rng=np.random.default_rng(0),
    )
    low, high = ratio_interval(np.array([[30.0]]), np.array([[60.0]]))
    np.testing.assert_allclose(ratios.values, [[0.5, 0.5]])
    np.testing.assert_allclose([ratios.low[0, 0], ratios.high[0, 0]], [low[0, 0], high[0, 0]])
    assert ratios.markers.tolist() == [60]
    confusion = confusion_matrix(np.array([[90, 10], [10, 90]]))
    mixed = estimate_ratios(
        np.array([[100, 50]]),
        np.array([0, 1]),
        1,
        confusion=confusion,
        determined=np.array([[30, 60]]),
        rng=np.random.default_rng(0),
    )
    assert mixed.markers[0] > 60
    assert mixed.low[0, 0] < mixed.values[0, 0] < mixed.high[0, 0]


def _predict(
    members: NDArray[np.int64], confused: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    return np.stack(
        [sum(rng.multinomial(number, confused[taxon]) for taxon, number in enumerate(row)) for row in members]
    )
