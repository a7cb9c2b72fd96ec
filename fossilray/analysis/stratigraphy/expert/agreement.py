"""Tests of human counts against estimated shares: which cells of a table of samples and taxa disagree, and the bias.

Both counts are taken as drawn from one assemblage. The estimate's bootstrap draws predict the expert's count, which is
binomial under each draw; the p-value is twice the smaller tail of that predictive distribution. It is never smaller
than that of Fisher's exact test for sampling alone, because an estimate on the edge of the simplex has too few draws
beside it. Where the expert counted the same specimens, sampling errors are shared, and the tests are cautious.

A taxon that is missed or overcounted shifts the percentages of all others. Disagreements are therefore sought one by
one: the taxon with the smallest p-value is taken out of both sums of its sample, and the others are tested again
without it. Given their sum, counts of the other taxa of a multinomial sample do not depend on the one that is taken
out, so their tests stay valid. Of all cells, those are named that keep the false discovery rate by the procedure of
Benjamini and Yekutieli (2001), which allows any dependence: the cells of a sample share their sum, and all cells share
one confusion matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.models.heads.conformal import benjamini_hochberg_threshold

FALSE_DISCOVERY_RATE = 0.05


@dataclass(frozen=True)
class Recount:
    """A cell in which the two counts disagree."""

    row: int
    column: int
    specimens: int
    """As the expert counted."""
    expected: float
    """Specimens that the expert would have counted by our estimate, among the taxa that were not named before."""
    p_value: float

    @property
    def size(self) -> float:
        """Specimens too many or too few."""
        return abs(self.specimens - self.expected)


def disagreement_p_values(
    drawn: NDArray[np.float64],
    objects: NDArray[np.float64],
    specimens: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return p-values (samples, taxa) of the hypothesis that both counts are of one assemblage.

    Args:
        drawn: (draws, samples, taxa) shares, from the bootstrap.
        objects: (samples,) objects behind them.
        specimens: (samples, taxa) counts of the expert.
    """
    from scipy.stats import binom, hypergeom

    total = specimens.sum(axis=1, keepdims=True)
    lower = binom.cdf(specimens, total, drawn).mean(axis=0)
    upper = binom.sf(specimens - 1, total, drawn).mean(axis=0)
    predictive = np.minimum(lower, upper)
    # The full correction, which the draws are around: the estimate is drawn towards the raw counts, which are biased.
    full = np.nan_to_num(drawn.mean(axis=0))
    ours = np.round(full * objects[:, None]).astype(np.int64)
    both = np.round(objects[:, None]).astype(np.int64) + total
    drawn_of = (both, specimens + ours, total)
    sampling = np.minimum(hypergeom.cdf(specimens, *drawn_of), hypergeom.sf(specimens - 1, *drawn_of))
    p_values: NDArray[np.float64] = np.clip(2 * np.maximum(predictive, sampling), 0, 1)
    return p_values


def find_recounts(
    drawn: NDArray[np.float64],
    shares: NDArray[np.float64],
    objects: NDArray[np.float64],
    specimens: NDArray[np.int64],
    *,
    false_discovery_rate: float = FALSE_DISCOVERY_RATE,
) -> list[Recount]:
    """Return the cells that disagree, the largest number of specimens first.

    Arguments as of `disagreement_p_values`; shares: the estimate (samples, taxa).
    """
    cells = [
        cell
        for row in range(len(shares))
        for cell in _test_one_by_one(
            row, drawn[:, row], shares[row], float(objects[row]), specimens[row], false_discovery_rate
        )
    ]
    # Benjamini and Yekutieli (2001), theorem 1.3: the procedure of Benjamini and Hochberg at the rate over sum 1 / i.
    of_any_dependence = false_discovery_rate / (1 / np.arange(1, len(cells) + 1)).sum()
    p_values = np.array([cell.p_value for cell in cells])
    limit = benjamini_hochberg_threshold(
        p_values, np.ones(len(cells), np.int64), wrong_share=of_any_dependence
    )
    named = [] if limit is None else [cell for cell in cells if cell.p_value <= limit]
    return sorted(named, key=lambda cell: (-cell.size, cell.row, cell.column))


def _test_one_by_one(
    row: int,
    drawn: NDArray[np.float64],
    shares: NDArray[np.float64],
    objects: float,
    specimens: NDArray[np.int64],
    last: float,
) -> list[Recount]:
    """Return all taxa of a sample with their p-values, in the order in which they were taken out of the sums.

    last: p-value above which no further taxon is taken out, because none can be named.
    """
    cells: list[Recount] = []
    left = list(range(len(shares)))
    while left:
        total, ours = int(specimens[left].sum()), float(shares[left].sum())
        # The last taxon is all of its sum; an empty sum has no shares.
        if len(left) == 1 or not total or ours * objects < 0.5:
            cells += [
                Recount(row, taxon, int(specimens[taxon]), int(specimens[taxon]), 1.0) for taxon in left
            ]
            break
        rest = np.maximum(drawn[:, left], 1e-12)
        rest /= rest.sum(axis=1, keepdims=True)
        expected = shares[left] / ours * total
        p_values = disagreement_p_values(rest[:, None], np.array([ours * objects]), specimens[None, left])[0]
        # Of two taxa with equal p-values, the one that differs more for its size.
        differs = np.abs(np.log((specimens[left] + 0.5) / (expected + 0.5)))
        best = int(np.lexsort((-differs, p_values))[0])
        is_last = p_values[best] > last
        for position in range(len(left)) if is_last else [best]:
            taxon = left[position]
            cells.append(
                Recount(
                    row, taxon, int(specimens[taxon]), float(expected[position]), float(p_values[position])
                )
            )
        if is_last:
            break
        del left[best]
    return cells


@dataclass(frozen=True)
class TaxonBias:
    """Mean of our share minus the expert's over the compared samples, in shares of 1, with its interval."""

    bias: float
    low: float
    high: float

    @property
    def is_nonzero(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def estimate_bias(
    drawn: NDArray[np.float64],
    shares: NDArray[np.float64],
    specimens: NDArray[np.int64],
    *,
    level: float,
    rng: np.random.Generator,
) -> list[TaxonBias]:
    """Return the bias of each taxon in these samples; the interval holds both counting errors and the classifier's.

    Arguments as of `disagreement_p_values`; level: confidence level.
    """
    theirs = specimens / specimens.sum(axis=1, keepdims=True)
    bias = (shares - theirs).mean(axis=0)
    # A prior of one specimen, divided among all taxa, as for our own counts.
    redrawn = rng.standard_gamma(np.broadcast_to(specimens + 1 / specimens.shape[1], drawn.shape))
    redrawn /= redrawn.sum(axis=-1, keepdims=True)
    tail = (1 - level) / 2
    low, high = np.quantile((drawn - redrawn).mean(axis=1), [tail, 1 - tail], axis=0)
    return [
        TaxonBias(mean, min(down, mean), max(up, mean))
        for mean, down, up in zip(bias.tolist(), low.tolist(), high.tolist(), strict=True)
    ]
