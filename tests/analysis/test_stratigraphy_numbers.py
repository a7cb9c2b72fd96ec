"""Mathematics of wells: shares, diversity, zones, correlation, against published values or others' code."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import binomtest, hypergeom
from support.synthetic_well import draw_calls, make_truth

from fossilray.analysis.stratigraphy.confusion import Confusion
from fossilray.analysis.stratigraphy.correlation import chord_distances, correlate
from fossilray.analysis.stratigraphy.diversity import describe_diversity, fisher_alpha, rarefy, round_counts
from fossilray.analysis.stratigraphy.intervals import (
    ShareEstimate,
    correct_confusion,
    estimate_shares,
    wilson,
)
from fossilray.analysis.stratigraphy.zones import broken_stick, find_zones

FEW = np.array([4, 3, 4, 0, 1, 0, 2])
MANY = np.array([120, 55, 30, 11, 7, 3, 2, 1, 1, 0])


def estimate(calls: NDArray[np.int64], confusion: Confusion | None, *, seed: int = 0) -> ShareEstimate:
    number = calls.shape[1]
    rng = np.random.default_rng(seed)
    return estimate_shares(calls, np.arange(number), number, confusion=confusion, draws=200, rng=rng)


def named(validation: NDArray[np.int64]) -> Confusion:
    return Confusion(tuple(str(row) for row in range(len(validation))), validation)


def test_shares_are_those_of_the_greatest_likelihood() -> None:
    rng = np.random.default_rng(3)
    confused = rng.dirichlet(np.ones(4), 4) * 0.3 + 0.7 * np.eye(4)
    calls = np.stack([100 * np.array([0.4, 0.3, 0.2, 0.1]) @ confused, [90, 4, 0, 1]])
    found = correct_confusion(calls, confused)
    for row, own in enumerate(calls):

        def loss(logits: NDArray[np.float64], own: NDArray[np.float64] = own) -> float:
            share = np.exp(logits) / np.exp(logits).sum()
            return -float((own * np.log(share @ confused)).sum())

        best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-9})
        assert loss(np.log(found[row])) <= best.fun + 1e-5
        if row == 0:  # in the other the optimum lies on the edge, where exponentials never arrive
            np.testing.assert_allclose(found[row], np.exp(best.x) / np.exp(best.x).sum(), atol=1e-3)
    # Where the inverted matrix gives no negative share it is the same (Solow, Davis and Hu 2001).
    np.testing.assert_allclose(found[0], calls[0] / 100 @ np.linalg.inv(confused), atol=1e-3)


@pytest.mark.parametrize(("objects", "right", "crops"), [(200, 0.85, 60), (150, 0.95, 40), (600, 0.8, 100)])
def test_intervals_hold_the_true_shares_as_often_as_they_say(objects: int, right: float, crops: int) -> None:
    held, held_by_lot_alone = [], []
    for seed in range(14):
        truth = make_truth(right=right, crops=crops, seed=seed)
        calls = draw_calls(truth, objects, np.random.default_rng(100 + seed))
        for confusion, found in ((named(truth.validation), held), (None, held_by_lot_alone)):
            one = estimate(calls, confusion, seed=seed)
            assert ((one.low <= one.shares) & (one.shares <= one.high)).all()
            found.append((one.low <= truth.shares + 1e-12) & (truth.shares <= one.high))
    # 14 wells of 12 samples and 6 taxa; samples of a well share the errors of its validation, so that the share
    # of one well deviates by 0.03 to 0.05 and that of all by about 0.01.
    assert 0.92 <= np.mean(held) <= 0.985
    assert np.mean(held_by_lot_alone) < 0.85


def test_a_faultless_classifier_leaves_little_more_than_the_lot() -> None:
    calls = np.array([[120, 60, 20, 0]])
    sure = estimate(calls, named(np.eye(4, dtype=np.int64) * 100_000))
    low, high = wilson(calls.astype(float), np.full((1, 4), 200.0))
    np.testing.assert_allclose(sure.shares, calls / 200, atol=1e-3)
    np.testing.assert_allclose(sure.low, low, atol=0.02)
    np.testing.assert_allclose(sure.high, high, atol=0.02)
    assert (sure.certain_low[0] > 0).tolist() == [True, True, True, False]


def test_calls_that_confusion_explains_are_no_occurrence() -> None:
    validation = np.array([[160, 40], [0, 200]])
    one = estimate(np.array([[240, 60], [40, 260]]), named(validation))
    assert one.certain_low[0, 1] == 0
    assert one.shares[0, 1] < 0.05
    assert one.certain_low[1, 1] > 0.5


def test_a_class_that_was_never_validated_has_a_wide_interval_and_a_barren_sample_none() -> None:
    known = np.array([[160, 40, 0], [40, 160, 0], [0, 0, 0]])
    one = estimate(np.array([[100, 50, 50], [0, 0, 0]]), named(known))
    widths = (one.high - one.low)[0]
    assert widths[2] > 1.2 * widths[1]
    assert np.isnan(one.shares[1]).all()
    assert one.objects.tolist() == [200, 0]


def test_classes_that_are_left_out_take_their_objects_along() -> None:
    calls = np.array([[80, 20, 100]])
    for confusion in (None, named(np.eye(3, dtype=np.int64) * 10_000)):
        one = estimate_shares(
            calls, np.array([0, 1, -1]), 2, confusion=confusion, draws=50, rng=np.random.default_rng(0)
        )
        np.testing.assert_allclose(one.shares, [[0.8, 0.2]], atol=0.01)
        np.testing.assert_allclose(one.objects, [100], atol=1)


def test_wilsons_interval_is_scipys() -> None:
    for count, total in ((0, 20), (3, 50), (50, 50), (37, 90)):
        low, high = wilson(np.array([float(count)]), np.array([float(total)]))
        known = binomtest(count, total).proportion_ci(0.95, method="wilson")
        np.testing.assert_allclose([low[0], high[0]], [known.low, known.high], atol=1e-9)


@pytest.mark.parametrize(
    ("counts", "shannon", "simpson", "evenness", "alpha"),
    [
        (FEW, 1.5124511784664483, 0.7653061224489797, 0.9397387539970584, 2.782379540311644),
        (MANY, 1.344085369606719, 0.6500945179584121, 0.6117196136756333, 1.8663841844411189),
    ],
)
def test_indices_are_those_of_scikit_bio(
    counts: NDArray[np.int64], shannon: float, simpson: float, evenness: float, alpha: float
) -> None:
    # scikit-bio: shannon(base=e), simpson, pielou_e and fisher_alpha of the same counts.
    one = describe_diversity(counts, effort=10)
    np.testing.assert_allclose(
        [one.shannon, one.simpson, one.evenness, one.fisher_alpha],
        [shannon, simpson, evenness, alpha],
        rtol=1e-6,
    )
    assert one.richness == (counts > 0).sum()


def test_fishers_alpha_is_that_of_his_own_moths() -> None:
    # Fisher, Corbet and Williams (1943): 15,609 Macrolepidoptera of 240 species at Harpenden have alpha 40.248.
    assert fisher_alpha(15609, 240) == pytest.approx(40.248, abs=0.01)
    assert np.isnan(fisher_alpha(5, 5))


def test_rarefaction_is_the_chance_of_each_taxon_to_be_drawn() -> None:
    efforts = np.array([1, 5, 40, int(MANY.sum())])
    for effort, found in zip(efforts, rarefy(MANY, efforts), strict=True):
        missed = [hypergeom.pmf(0, MANY.sum(), count, effort) for count in MANY if count]
        assert found == pytest.approx(len(missed) - sum(missed), rel=1e-9)
    assert rarefy(MANY, efforts)[-1] == pytest.approx(9)
    with pytest.raises(ValueError, match="cannot be rarefied"):
        rarefy(FEW, np.array([15]))


def test_rounded_counts_add_up() -> None:
    assert round_counts(np.array([0.333, 0.333, 0.334]), 10).tolist() == [3, 3, 4]
    assert round_counts(np.full(3, np.nan), 10).tolist() == [0, 0, 0]


def naive_coniss(values: NDArray[np.float64]) -> tuple[list[float], dict[int, list[list[int]]]]:
    """Grimm's algorithm as he describes it, every merge tried."""

    def spread(rows: list[int]) -> float:
        return float(((values[rows] - values[rows].mean(axis=0)) ** 2).sum())

    clusters = [[row] for row in range(len(values))]
    heights, stages = [], {len(clusters): clusters}
    while len(clusters) > 1:
        costs = [
            spread(left + right) - spread(left) - spread(right)
            for left, right in itertools.pairwise(clusters)
        ]
        at = int(np.argmin(costs))
        clusters = [*clusters[:at], clusters[at] + clusters[at + 1], *clusters[at + 2 :]]
        heights.append(sum(spread(one) for one in clusters))
        stages[len(clusters)] = clusters
    return heights, stages


@pytest.mark.parametrize("seed", range(4))
def test_zones_are_those_of_grimms_algorithm(seed: int) -> None:
    shares = np.random.default_rng(seed).dirichlet(np.ones(5), 17)
    heights, stages = naive_coniss(np.sqrt(shares))
    for number in (1, 2, 5, 17):
        found = find_zones(shares, number=number)
        np.testing.assert_allclose(found.dispersion, heights, rtol=1e-9)
        assert [np.flatnonzero(found.zones == zone).tolist() for zone in range(number)] == stages[number]
    assert found.reduced.sum() == pytest.approx(1)


def test_a_broken_stick_is_macarthurs_and_tells_zones_from_noise() -> None:
    np.testing.assert_allclose(broken_stick(3), [11 / 18, 5 / 18, 2 / 18])
    truth = make_truth(samples=18)
    found = find_zones(truth.shares)
    assert found.number == 3
    assert found.borders == [5, 11]
    rng = np.random.default_rng(0)
    noise = [find_zones(rng.dirichlet(np.full(6, 20), 18)).number for _ in range(20)]
    assert np.median(noise) <= 2
    assert find_zones(np.tile(truth.shares[:1], (6, 1))).number == 1


def brute_force_score(value: NDArray[np.float64]) -> float:
    """The best of all ways through a small matrix."""

    def onward(i: int, j: int) -> float:
        ways = [0.0]
        for di, dj, weight in ((1, 1, 2), (1, 0, 1), (0, 1, 1)):
            if i + di < value.shape[0] and j + dj < value.shape[1]:
                ways.append(weight * value[i + di, j + dj] + onward(i + di, j + dj))
        return max(ways)

    starts = itertools.product(*map(range, value.shape))
    return max(2 * value[i, j] + onward(i, j) for i, j in starts)


@pytest.mark.parametrize("seed", range(5))
def test_a_match_is_the_best_of_all_ways(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.dirichlet(np.ones(4), 5), rng.dirichlet(np.ones(4), 4)
    found = correlate(first, second, match_distance=0.4, rng=rng, shuffles=3)
    assert found.score == pytest.approx(brute_force_score(1 - chord_distances(first, second) / 0.4))
    steps = np.diff(found.pairs, axis=0)
    assert ((steps >= 0) & (steps <= 1)).all()
    assert (steps.sum(axis=1) > 0).all()


def test_what_only_one_well_has_is_not_matched() -> None:
    truth = make_truth(samples=18)
    found = correlate(truth.shares, truth.shares[6:], match_distance=0.15, rng=np.random.default_rng(0))
    assert set(found.pairs[:, 0]) == set(range(6, 18))
    assert found.chance <= 0.01
    zone = np.arange(18) * 3 // 18
    assert (zone[found.pairs[:, 0]] == zone[6:][found.pairs[:, 1]]).all()


def test_wells_that_share_nothing_have_no_match() -> None:
    first, second = np.eye(4)[[0, 0, 1]], np.eye(4)[[2, 3]]
    found = correlate(first, second, rng=np.random.default_rng(0))
    assert found.pairs.shape == (0, 2)
    assert found.chance == 1
