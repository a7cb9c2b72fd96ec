"""Counts corrected for what a classifier confuses, with intervals that carry its errors as well as the lot.

Of a sample whose assemblage has the shares p, a classifier calls class j the share sum_k p_k A_kj of the objects, where
A is its confusion. The counts of calls are multinomial; p is estimated by maximum likelihood (Solow, Davis and Hu 2001,
"Estimating the taxonomic composition of a sample when individuals are classified with error", Mar. Ecol. Prog. Ser.
216, 309-311), which never leaves the simplex as the inverted matrix does, by EM (Dempster, Laird and Rubin 1977; the
same steps as Saerens, Latinne and Decaestecker 2002, Neural Comput. 14, section 2.2, over calls instead of
probabilities). Intervals are percentiles of a bootstrap over both the objects and the validation crops: shares of calls
and rows of A are drawn from the Dirichlet laws of their counts (Rubin 1981), and p is estimated anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.confusion import Confusion

DRAWS = 400
LEVEL = 0.95

_DRAWS_AT_ONCE = 50
_STEPS = 300
_STRIDE = 1.8
"""Of a step of EM: below 2 it goes to the same place, sooner (Salakhutdinov and Roweis 2003, ICML)."""
_SETTLED = 1e-6


@dataclass(frozen=True)
class ShareEstimate:
    """Shares of taxa in samples, with what they may be; rows are samples, columns taxa."""

    shares: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    certain_low: NDArray[np.float64]
    """What the share exceeds in every draw of the bootstrap: above nothing, a taxon is there for sure.

    Stricter than `low`, for a range ends where the last of many samples says so.
    """
    objects: NDArray[np.float64]
    """(samples,) objects of all taxa together, those of classes that are left out taken away."""


def estimate_shares(
    calls: NDArray[np.int64],
    member_of: NDArray[np.int64],
    taxa: int,
    *,
    confusion: Confusion | None,
    level: float = LEVEL,
    draws: int = DRAWS,
    rng: np.random.Generator,
) -> ShareEstimate:
    """Shares of taxa in the assemblages that samples were drawn from.

    calls: (samples, labels), the labels being the first classes of `confusion`. member_of: the taxon of each class of
    `confusion`, or of each label without one; -1 for a class that is left out, whose objects then count nowhere.
    Without a confusion the intervals are Wilson's (1927), for the lot alone. A sample without objects gets nan.
    """
    if confusion is None:
        return _sampling_intervals_only(_gather(calls.astype(np.float64), member_of, taxa), level=level)
    padded = np.zeros((len(calls), len(confusion.classes)), np.float64)
    padded[:, : calls.shape[1]] = calls
    weights = confusion.weights
    mean = weights / weights.sum(axis=1, keepdims=True)
    unmixed = _gather(correct_confusion(padded, mean), member_of, taxa)
    objects = np.nan_to_num(unmixed.sum(axis=1)) * padded.sum(axis=1)
    shares = _normalise(unmixed)
    drawn = np.concatenate(
        [
            _draw(padded, weights, min(_DRAWS_AT_ONCE, draws - first), rng) @ _belongs(member_of, taxa)
            for first in range(0, draws, _DRAWS_AT_ONCE)
        ]
    )
    drawn = _normalise(drawn)
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    # EM nears nothing without reaching it; less than half an object is nothing.
    low, least = (
        np.where(part * objects[:, None] < 0.5, 0 * part, part) for part in (low, drawn.min(axis=0))
    )
    # Where the estimate sits on the edge of what is possible all draws may agree; the lot alone never does.
    counted = np.broadcast_to(objects[:, None], shares.shape)
    lot_low, lot_high = wilson(np.nan_to_num(shares) * counted, counted, level=level)
    return ShareEstimate(
        shares,
        np.minimum(np.minimum(low, lot_low), shares),
        np.maximum(np.maximum(high, lot_high), shares),
        least,
        objects,
    )


def correct_confusion(calls: NDArray[np.float64], confused: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares (…, samples, classes) that make these calls (…, samples, classes) the likeliest.

    confused: (…, classes, classes), of each class the shares of its calls. Samples without calls get nan.
    """
    total = calls.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        seen = calls / total
    shares = np.where(total > 0, np.full_like(seen, 1 / seen.shape[-1]), np.nan)
    back = np.swapaxes(confused, -1, -2)
    for step in range(_STEPS):
        better = shares * ((seen / np.maximum(shares @ confused, 1e-300)) @ back) ** _STRIDE
        better /= np.maximum(better.sum(axis=-1, keepdims=True), 1e-300)
        moved = np.nanmax(np.abs(better - shares), initial=0) if step % 10 == 9 else 1.0
        shares = better
        if moved < _SETTLED:
            break
    return shares


def wilson(
    counts: NDArray[np.float64], totals: NDArray[np.float64], *, level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's (1927) score interval of a share, from a count and the total; nan where nothing was counted."""
    from scipy.stats import norm

    z2 = float(norm.ppf((1 + level) / 2)) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        share = counts / totals
        middle = (share + z2 / (2 * totals)) / (1 + z2 / totals)
        half = np.sqrt(z2 * (share * (1 - share) / totals + z2 / (4 * totals**2))) / (1 + z2 / totals)
    low, high = np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
    return np.where(counts == 0, 0 * low, low), high


def _sampling_intervals_only(counts: NDArray[np.float64], *, level: float) -> ShareEstimate:
    total = counts.sum(axis=1, keepdims=True)
    low, high = wilson(counts, np.broadcast_to(total, counts.shape), level=level)
    shares = _normalise(counts)
    return ShareEstimate(shares, low, high, np.where(counts > 0, shares, 0 * shares), total[:, 0])


def _draw(
    calls: NDArray[np.float64], weights: NDArray[np.float64], draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Shares (draws, samples, classes) from calls and validation crops that chance might as well have brought."""
    confused = rng.standard_gamma(np.broadcast_to(weights, (draws, *weights.shape)))
    confused /= np.maximum(confused.sum(axis=-1, keepdims=True), 1e-300)
    # A class that was never called may have been: one object is shared among all classes.
    again = rng.standard_gamma(np.broadcast_to(calls + 1 / calls.shape[1], (draws, *calls.shape)))
    again[:, calls.sum(axis=1) == 0] = 0
    return correct_confusion(again, confused)


def _gather(values: NDArray[np.float64], member_of: NDArray[np.int64], taxa: int) -> NDArray[np.float64]:
    """Columns of classes added up to those of taxa."""
    gathered: NDArray[np.float64] = values @ _belongs(member_of, taxa)
    return gathered


def _belongs(member_of: NDArray[np.int64], taxa: int) -> NDArray[np.float64]:
    belongs: NDArray[np.float64] = (member_of[:, None] == np.arange(taxa)).astype(np.float64)
    return belongs


def _normalise(values: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        shares: NDArray[np.float64] = values / values.sum(axis=-1, keepdims=True)
    return shares
