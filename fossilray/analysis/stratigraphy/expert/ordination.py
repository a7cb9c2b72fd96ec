"""Correlation of two assemblage tables over the same samples: PCA axes, and Procrustes rotation of the ordinations.

Shares are Hellinger-transformed, that is their square roots (Legendre and Gallagher 2001, Oecologia 129, 271-280), and
ordinated by a PCA of each table by itself. The Procrustes correlation of the first two axes is that of PROTEST (Jackson
1995, Ecoscience 2, 297-303; Peres-Neto and Jackson 2001, Oecologia 129, 169-178): sqrt(1 - m^2), where m^2 is the
symmetric sum of squares after translation, scaling and rotation. von Allmen et al. (2024) compare human and automated
pollen counts by both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AXES = 2
MIN_COMPARED = 4
"""With three samples, any two ordinations on two axes are nearly alike."""
PERMUTATIONS = 999


@dataclass(frozen=True)
class OrdinationMatch:
    """How alike the ordinations of two tables are."""

    procrustes: float
    """0 to 1."""
    p_value: float
    """Share of random orders of the samples that correlate at least as high."""
    axes: tuple[float, ...]
    """Correlation of the scores on each PCA axis, without the sign, which is arbitrary."""
    explained: tuple[tuple[float, ...], tuple[float, ...]]
    """For each table, the share of variance on each axis."""


def match_ordinations(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    permutations: int = PERMUTATIONS,
    rng: np.random.Generator,
) -> OrdinationMatch | None:
    """Compare two tables of shares (samples, taxa); None if they have too few samples, or one does not vary."""
    if len(first) < MIN_COMPARED:
        return None
    (x, explained_x), (y, explained_y) = _principal_axes(first), _principal_axes(second)
    axes = min(x.shape[1], y.shape[1])
    if not axes:
        return None
    with_all = procrustes_correlation(x, y)
    orders = np.stack([rng.permutation(len(y)) for _ in range(permutations)])
    shuffled = procrustes_correlation(x, y[orders])
    at_least = int((shuffled >= with_all - 1e-9).sum())
    return OrdinationMatch(
        procrustes=float(with_all),
        p_value=(1 + at_least) / (1 + permutations),
        axes=tuple(
            abs(float(np.corrcoef(first_scores, second_scores)[0, 1]))
            for first_scores, second_scores in zip(x.T[:axes], y.T[:axes], strict=True)
        ),
        explained=(explained_x, explained_y),
    )


def procrustes_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sqrt(1 - m^2) of configurations (samples, axes) that are centred; y may be (…, samples, axes)."""
    x = x / np.sqrt((x**2).sum())
    y = y / np.sqrt((y**2).sum(axis=(-2, -1), keepdims=True))
    singular = np.linalg.svd(x.T @ y, compute_uv=False)
    correlation: NDArray[np.float64] = np.minimum(singular.sum(axis=-1), 1.0)
    return correlation


def _principal_axes(shares: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, ...]]:
    """Return scores (samples, axes) of the first axes that vary, and their shares of the variance."""
    hellinger = np.sqrt(shares)
    left, singular, _ = np.linalg.svd(hellinger - hellinger.mean(axis=0), full_matrices=False)
    variance = singular**2
    axes = min(AXES, int((singular > 1e-9).sum()))
    explained = variance[:axes] / max(float(variance.sum()), 1e-300)
    return left[:, :axes] * singular[:axes], tuple(explained.tolist())
