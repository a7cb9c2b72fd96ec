"""Numbers of a comparison with an expert: planted errors are named at the stated rate, correlations recovered."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from support.synthetic_well import TAXA, Truth, draw_predictions, make_truth

from fossilray.analysis.stratigraphy.confusion import Confusion
from fossilray.analysis.stratigraphy.expert.agreement import (
    FALSE_DISCOVERY_RATE,
    disagreement_p_values,
    estimate_bias,
    find_recounts,
)
from fossilray.analysis.stratigraphy.expert.ordination import match_ordinations, procrustes_correlation
from fossilray.analysis.stratigraphy.intervals import ShareEstimate, draw_shares, estimate_shares

SPECIMENS = 300
MISSED, NAMED_WRONG, NAMED_INSTEAD = (
    TAXA.index(name) for name in ("Glaphyrocysta", "Palaeoperidinium", "Cerodinium")
)
ERRORS = {(5, MISSED), (6, MISSED)} | {
    (row, taxon) for row in (9, 10) for taxon in (NAMED_WRONG, NAMED_INSTEAD)
}


def seen_by_expert(truth: Truth) -> NDArray[np.float64]:
    """Shares as the expert sees them: a taxon is missed in two samples, and most of another named wrong in two."""
    seen = truth.shares.copy()
    seen[[5, 6], MISSED] = 0
    moved = 0.7 * seen[[9, 10], NAMED_WRONG]
    seen[[9, 10], NAMED_WRONG] -= moved
    seen[[9, 10], NAMED_INSTEAD] += moved
    shares: NDArray[np.float64] = seen / seen.sum(axis=1, keepdims=True)
    return shares


def count_specimens(shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    return np.stack([rng.multinomial(SPECIMENS, share) for share in shares])


def estimate(
    truth: Truth, rng: np.random.Generator, *, confusion: Confusion | None = None
) -> tuple[NDArray[np.float64], ShareEstimate]:
    """Draws and estimate of 300 objects a sample; without a confusion matrix of a classifier without errors."""
    counts = count_specimens(truth.shares, rng) if confusion is None else draw_predictions(truth, 300, rng)
    taxa = np.arange(len(TAXA))
    return (
        draw_shares(counts, taxa, len(taxa), confusion=confusion, rng=rng),
        estimate_shares(counts, taxa, len(taxa), confusion=confusion, rng=rng),
    )


def named(
    truth: Truth, seen: NDArray[np.float64], rng: np.random.Generator, **options: Confusion
) -> set[tuple[int, int]]:
    drawn, ours = estimate(truth, rng, **options)
    recounts = find_recounts(drawn, ours.shares, ours.objects, count_specimens(seen, rng))
    return {(cell.row, cell.column) for cell in recounts}


@pytest.mark.parametrize("errs", [True, False])
def test_errors_of_the_expert_are_named_at_the_stated_false_discovery_rate(errs: bool) -> None:
    rng = np.random.default_rng(3)
    wrong_share, named_samples = [], []
    for seed in range(60):
        truth = make_truth(seed=seed)
        errors = ERRORS if errs else set()
        cells = named(truth, seen_by_expert(truth) if errs else truth.shares, rng)
        wrong_share.append(len(cells - errors) / max(len(cells), 1))
        # Of two taxa that are confused, the second may be hidden among the few others.
        named_samples.append({row for row, _ in cells & errors})
    assert np.mean(wrong_share) <= FALSE_DISCOVERY_RATE
    if errs:
        assert named_samples.count({5, 6, 9, 10}) >= 59


def test_errors_are_named_beside_a_classifier_that_errs_too() -> None:
    rng = np.random.default_rng(4)
    wrong_share, found_samples = [], []
    for seed in range(5):
        truth = make_truth(seed=seed, crops=200)
        found = named(truth, seen_by_expert(truth), rng, confusion=Confusion(TAXA, truth.validation))
        wrong_share.append(len(found - ERRORS) / max(len(found), 1))
        found_samples.append({row for row, _ in found} >= {5, 6, 9, 10})
    assert np.mean(wrong_share) <= 0.1
    assert all(found_samples)


def test_the_largest_disagreement_stands_first_with_what_was_expected() -> None:
    truth, rng = make_truth(), np.random.default_rng(0)
    drawn, ours = estimate(truth, rng)
    specimens = count_specimens(seen_by_expert(truth), rng)
    recounts = find_recounts(drawn, ours.shares, ours.objects, specimens)
    sizes = [cell.size for cell in recounts]
    assert sizes == sorted(sizes, reverse=True)
    first = recounts[0]
    assert (first.row in (5, 6), first.column, first.specimens) == (True, MISSED, 0)
    assert first.expected == pytest.approx(300 * ours.shares[first.row, MISSED])


def test_shares_without_errors_agree_as_often_as_the_level_states() -> None:
    rng = np.random.default_rng(5)
    agree = []
    for seed in range(40):
        truth = make_truth(seed=seed)
        drawn, ours = estimate(truth, rng)
        p_values = disagreement_p_values(drawn, ours.objects, count_specimens(truth.shares, rng))
        agree.append((p_values > 0.05)[truth.shares > 0].mean())
    assert 0.95 <= np.mean(agree) <= 0.99


def test_intervals_of_bias_hold_what_was_planted() -> None:
    rng = np.random.default_rng(6)
    held = []
    for seed in range(60):
        truth = make_truth(seed=seed)
        seen = seen_by_expert(truth)
        drawn, ours = estimate(truth, rng)
        bias = estimate_bias(drawn, ours.shares, count_specimens(seen, rng), level=0.95, rng=rng)
        planted = (truth.shares - seen).mean(axis=0)
        held += [one.low <= value <= one.high for one, value in zip(bias, planted, strict=True)]
    assert 0.93 <= np.mean(held) <= 0.98


def test_correlations_are_those_of_scipy_and_of_a_decomposition_of_the_covariance() -> None:
    from scipy.spatial import procrustes

    rng = np.random.default_rng(7)
    first, second = rng.dirichlet(np.ones(6), 12), rng.dirichlet(np.ones(6), 12)
    second = 0.7 * first + 0.3 * second
    scores = []
    for shares in (first, second):
        root = np.sqrt(shares)
        values, vectors = np.linalg.eigh(np.cov(root.T))
        order = np.argsort(values)[::-1][:2]
        scores.append((root - root.mean(axis=0)) @ vectors[:, order])
    *_, disparity = procrustes(*scores)
    match = match_ordinations(first, second, rng=rng)
    assert match is not None
    assert match.procrustes == pytest.approx(np.sqrt(1 - disparity))
    assert match.axes == pytest.approx(
        [abs(np.corrcoef(scores[0][:, axis], scores[1][:, axis])[0, 1]) for axis in (0, 1)]
    )
    assert match.p_value <= 0.01


def test_known_correlations_are_recovered() -> None:
    rng = np.random.default_rng(8)
    shares = rng.dirichlet(np.ones(5), 20)
    same = match_ordinations(shares, shares, rng=rng)
    assert same is not None
    assert (same.procrustes, same.axes) == (pytest.approx(1), pytest.approx((1, 1)))
    x = rng.normal(size=(400, 2))
    x -= x.mean(axis=0)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert float(procrustes_correlation(x, 3 * x @ turn)) == pytest.approx(1)
    # Independent noise as large as the configuration: r is the square root of a half.
    noisy = x @ turn + rng.normal(size=x.shape)
    assert float(procrustes_correlation(x, noisy - noisy.mean(axis=0))) == pytest.approx(
        np.sqrt(0.5), abs=0.05
    )


def test_unrelated_tables_correlate_significantly_as_often_as_chance_states() -> None:
    rng = np.random.default_rng(9)
    p_values = [
        match.p_value
        for _ in range(100)
        if (
            match := match_ordinations(
                rng.dirichlet(np.ones(5), 10), rng.dirichlet(np.ones(5), 10), permutations=99, rng=rng
            )
        )
    ]
    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=0.07)


def test_too_few_or_equal_samples_are_not_correlated() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(4), 3)
    assert match_ordinations(shares, shares, rng=rng) is None
    flat = np.full((6, 4), 0.25)
    assert match_ordinations(flat, rng.dirichlet(np.ones(4), 6), rng=rng) is None
