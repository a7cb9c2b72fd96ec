"""Unit vectors and entropy."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

_Floats = TypeVar("_Floats", np.float32, np.float64)


def unit_vectors(vectors: NDArray[_Floats], *, undefined: float = 0.0) -> NDArray[_Floats]:
    """Scale vectors to length 1 (L2).

    Args:
        vectors: (..., d) float32 or float64; each vector lies along the last axis. Convert float16 first.
        undefined: value of every component of a vector of length 0, which has no direction; may be NaN.

    Returns:
        A new array of the same shape and dtype. A vector with a component that is NaN or infinite becomes NaN.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        info = np.finfo(vectors.dtype)
        # Squares of very long and very short vectors leave the range of the dtype.
        is_safe = (length > np.sqrt(info.tiny) / info.eps) & np.isfinite(length)
        unit: NDArray[Any] = vectors / np.where(is_safe, length, 1)
        extreme = ~is_safe[..., 0]
        if extreme.any():
            unit[extreme] = _extreme_unit(vectors[extreme], undefined)
    return unit


def _extreme_unit(vectors: NDArray[Any], undefined: float) -> NDArray[Any]:
    """Scale vectors (n, d) by their largest component first."""
    largest = np.abs(vectors).max(axis=-1, keepdims=True, initial=0)
    is_zero = largest == 0
    scaled = vectors / np.where(is_zero, 1, largest)
    # A subnormal component loses digits by division; its exponent does not.
    unit = scaled / np.where(is_zero, 1, np.linalg.norm(scaled, axis=-1, keepdims=True))
    unit[~np.isfinite(largest[..., 0])] = np.nan
    return np.where(is_zero, vectors.dtype.type(undefined), unit)


def entropy(probabilities: NDArray[_Floats]) -> NDArray[_Floats]:
    """Shannon entropy along the last axis, in nats.

    Args:
        probabilities: (..., classes), each row summing to 1; a probability of 0 contributes 0.

    Returns:
        (...) of the same dtype; between 0 and ln(classes).
    """
    floor = probabilities.dtype.type(1e-30)
    terms = probabilities * np.log(np.maximum(probabilities, floor))
    return cast("NDArray[_Floats]", np.asarray(0 - terms.sum(axis=-1)))  # not -0.0 for rows of entropy 0
