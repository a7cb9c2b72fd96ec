"""Shares, diversity, zones and correlation of wells against published values and independent implementations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import binomtest, hypergeom
from support.synthetic_well import draw_predictions, make_truth

from fossilray.analysis.stratigraphy.confusion import Confusion, correct_confusion
from fossilray.analysis.stratigraphy.correlation import chord_distances, correlate
from fossilray.analysis.stratigraphy.diversity import describe_diversity, fisher_alpha, rarefy, round_counts
from fossilray.analysis.stratigraphy.intervals import ShareEstimate, estimate_shares, wilson
from fossilray.analysis.stratigraphy.zones import broken_stick, find_zones

FEW = np.array([4, 3, 4, 0, 1, 0, 2])
MANY = np.array([120, 55, 30, 11, 7, 3, 2, 1, 1, 0])


def estimate(counts: NDArray[np.int64], confusion: Confusion | None, *, seed: int = 0) -> ShareEstimate:
    number = counts.shape[1]
    rng = np.random.default_rng(seed)
    return estimate_shares(counts, np.arange(number), number, confusion=confusion, draws=200, rng=rng)


def confusion_matrix(validation: NDArray[np.int64]) -> Confusion:
    return Confusion(tuple(str(row) for row in range(len(validation))), validation)


def test_corrected_shares_maximise_the_likelihood() -> None:
    rng = np.random.default_rng(3)
    confused = rng.dirichlet(np.ones(4), 4) * 0.3 + 0.7 * np.eye(4)
    counts = np.stack([100 * np.array([0.4, 0.3, 0.2, 0.1]) @ confused, [90, 4, 0, 1]])
    found = correct_confusion(counts, confused)
    for row, own in enumerate(counts):

        def loss(logits: NDArray[np.float64], own: NDArray[np.float64] = own) -> float:
            share = np.exp(logits) / np.exp(logits).sum()
            return -float((own * np.log(share @ confused)).sum())

        best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-9})
        assert loss(np.log(found[row])) <= best.fun + 1e-5
        if row == 0:  # in the other the optimum lies on the edge, where exponentials never arrive
            np.testing.assert_allclose(found[row], np.exp(best.x) / np.exp(best.x).sum(), atol=1e-3)
    # Where the inverted matrix gives no negative share it is the same (Solow, Davis and Hu 2001).
    np.testing.assert_allclose(found[0], counts[0] / 100 @ np.linalg.inv(confused), atol=1e-3)


@pytest.mark.parametrize(("objects", "right", "crops"), [(200, 0.85, 60), (150, 0.95, 40), (600, 0.8, 100)])
def test_coverage_of_intervals_is_their_confidence_level(objects: int, right: float, crops: int) -> None:
    covered, covered_uncorrected = [], []
    for seed in range(14):
        truth = make_truth(right=right, crops=crops, seed=seed)
        counts = draw_predictions(truth, objects, np.random.default_rng(100 + seed))
        for confusion, results in (
            (confusion_matrix(truth.validation), covered),
            (None, covered_uncorrected),
        ):
            shares = estimate(counts, confusion, seed=seed)
            assert ((shares.low <= shares.shares) & (shares.shares <= shares.high)).all()
            results.append((shares.low <= truth.shares + 1e-12) & (truth.shares <= shares.high))
    # 14 wells of 12 samples and 6 taxa; samples of a well share the errors of its validation, so that the coverage
    # of one well deviates by 0.03 to 0.05 and that of all by about 0.01.
    assert 0.92 <= np.mean(covered) <= 0.985
    assert np.mean(covered_uncorrected) < 0.85


def test_intervals_of_a_perfect_classifier_are_little_wider_than_sampling_error() -> None:
    counts = np.array([[120, 60, 20, 0]])
    shares = estimate(counts, confusion_matrix(np.eye(4, dtype=np.int64) * 100_000))
    low, high = wilson(counts.astype(float), np.full((1, 4), 200.0))
    np.testing.assert_allclose(shares.shares, counts / 200, atol=1e-3)
    np.testing.assert_allclose(shares.low, low, atol=0.02)
    np.testing.assert_allclose(shares.high, high, atol=0.02)
    assert (shares.present_low[0] > 0).tolist() == [True, True, True, False]


def test_a_taxon_does_not_occur_where_confusion_explains_its_count() -> None:
    validation = np.array([[160, 40], [0, 200]])
    shares = estimate(np.array([[240, 60], [40, 260]]), confusion_matrix(validation))
    assert shares.present_low[0, 1] == 0
    assert shares.shares[0, 1] < 0.05
    assert shares.present_low[1, 1] > 0.5


def test_a_class_without_validation_crops_has_a_wide_interval_and_a_barren_sample_has_none() -> None:
    known = np.array([[160, 40, 0], [40, 160, 0], [0, 0, 0]])
    shares = estimate(np.array([[100, 50, 50], [0, 0, 0]]), confusion_matrix(known))
    widths = (shares.high - shares.low)[0]
    assert widths[2] > 1.2 * widths[1]
    assert np.isnan(shares.shares[1]).all()
    assert shares.objects.tolist() == [200, 0]


def test_objects_of_classes_that_are_left_out_are_not_counted() -> None:
    counts = np.array([[80, 20, 100]])
    for confusion in (None, confusion_matrix(np.eye(3, dtype=np.int64) * 10_000)):
        shares = estimate_shares(
            counts, np.array([0, 1, -1]), 2, confusion=confusion, draws=50, rng=np.random.default_rng(0)
        )
        np.testing.assert_allclose(shares.shares, [[0.8, 0.2]], atol=0.01)
        np.testing.assert_allclose(shares.objects, [100], atol=1)


def test_wilson_interval_equals_that_of_scipy() -> None:
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
def test_diversity_indices_equal_those_of_scikit_bio(
    counts: NDArray[np.int64], shannon: float, simpson: float, evenness: float, alpha: float
) -> None:
    # scikit-bio: shannon(base=e), simpson, pielou_e and fisher_alpha of the same counts.
    diversity = describe_diversity(counts, rarefaction_size=10)
    np.testing.assert_allclose(
        [diversity.shannon, diversity.simpson, diversity.evenness, diversity.fisher_alpha],
        [shannon, simpson, evenness, alpha],
        rtol=1e-6,
    )
    assert diversity.richness == (counts > 0).sum()


def test_fishers_alpha_equals_the_published_value() -> None:
    # Fisher, Corbet and Williams (1943): 15,609 Macrolepidoptera of 240 species at Harpenden have alpha 40.248.
    assert fisher_alpha(15609, 240) == pytest.approx(40.248, abs=0.01)
    assert np.isnan(fisher_alpha(5, 5))


def test_rarefaction_sums_the_probability_that_each_taxon_is_drawn() -> None:
    sizes = np.array([1, 5, 40, int(MANY.sum())])
    for size, found in zip(sizes, rarefy(MANY, sizes), strict=True):
        missed = [hypergeom.pmf(0, MANY.sum(), count, size) for count in MANY if count]
        assert found == pytest.approx(len(missed) - sum(missed), rel=1e-9)
    assert rarefy(MANY, sizes)[-1] == pytest.approx(9)
    with pytest.raises(ValueError, match="cannot be rarefied"):
        rarefy(FEW, np.array([15]))


def test_rounded_counts_sum_to_the_total() -> None:
    assert round_counts(np.array([0.333, 0.333, 0.334]), 10).tolist() == [3, 3, 4]
    assert round_counts(np.full(3, np.nan), 10).tolist() == [0, 0, 0]


def naive_coniss(values: NDArray[np.float64]) -> tuple[list[float], dict[int, list[list[int]]]]:
    """Grimm's algorithm as published: at each step, every merge is tried."""

    def dispersion(rows: list[int]) -> float:
        return float(((values[rows] - values[rows].mean(axis=0)) ** 2).sum())

    clusters = [[row] for row in range(len(values))]
    heights, stages = [], {len(clusters): clusters}
    while len(clusters) > 1:
        costs = [
            dispersion(left + right) - dispersion(left) - dispersion(right)
            for left, right in itertools.pairwise(clusters)
        ]
        best = int(np.argmin(costs))
        clusters = [*clusters[:best], clusters[best] + clusters[best + 1], *clusters[best + 2 :]]
        heights.append(sum(dispersion(cluster) for cluster in clusters))
        stages[len(clusters)] = clusters
    return heights, stages


@pytest.mark.parametrize("seed", range(4))
def test_zones_equal_those_of_grimms_algorithm(seed: int) -> None:
    shares = np.random.default_rng(seed).dirichlet(np.ones(5), 17)
    heights, stages = naive_coniss(np.sqrt(shares))
    for number in (1, 2, 5, 17):
        found = find_zones(shares, number=number)
        np.testing.assert_allclose(found.dispersion, heights, rtol=1e-9)
        assert [np.flatnonzero(found.zones == zone).tolist() for zone in range(number)] == stages[number]
    assert found.reduced.sum() == pytest.approx(1)


def test_broken_stick_equals_macarthurs_and_separates_zones_from_noise() -> None:
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
    """Return the best score of all alignments through a small matrix."""

    def onward(i: int, j: int) -> float:
        ways = [0.0]
        for di, dj, weight in ((1, 1, 2), (1, 0, 1), (0, 1, 1)):
            if i + di < value.shape[0] and j + dj < value.shape[1]:
                ways.append(weight * value[i + di, j + dj] + onward(i + di, j + dj))
        return max(ways)

    starts = itertools.product(*map(range, value.shape))
    return max(2 * value[i, j] + onward(i, j) for i, j in starts)


@pytest.mark.parametrize("seed", range(5))
def test_alignment_has_the_best_score_of_all_alignments(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.dirichlet(np.ones(4), 5), rng.dirichlet(np.ones(4), 4)
    found = correlate(first, second, match_distance=0.4, rng=rng, shuffles=3)
    assert found.score == pytest.approx(brute_force_score(1 - chord_distances(first, second) / 0.4))
    steps = np.diff(found.pairs, axis=0)
    assert ((steps >= 0) & (steps <= 1)).all()
    assert (steps.sum(axis=1) > 0).all()


def test_an_interval_that_only_one_well_has_is_not_matched() -> None:
    truth = make_truth(samples=18)
    found = correlate(truth.shares, truth.shares[6:], match_distance=0.15, rng=np.random.default_rng(0))
    assert set(found.pairs[:, 0]) == set(range(6, 18))
    assert found.p_value <= 0.01
    zone = np.arange(18) * 3 // 18
    assert (zone[found.pairs[:, 0]] == zone[6:][found.pairs[:, 1]]).all()


def test_wells_without_common_taxa_have_no_match() -> None:
    first, second = np.eye(4)[[0, 0, 1]], np.eye(4)[[2, 3]]
    found = correlate(first, second, rng=np.random.default_rng(0))
    assert found.pairs.shape == (0, 2)
    assert found.p_value == 1
