"""Heads: training on labelled vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import HeadKind
from fossilray.core.errors import UsageError
from fossilray.models.heads.gradient import fit_layers
from fossilray.models.heads.head import BackboneReference, Head, HeadMeta, Scaler, scale_vectors
from fossilray.models.heads.svm import fit_svm

SCALERS: dict[HeadKind, Scaler] = {
    "knn": "unit",
    "logistic": "standard",
    "linear": "standard",
    "svm": "standard",
    "mlp": "standard",
}
NEIGHBOURS = 10
STRENGTH = {"logistic": 0.03, "svm": 0.003}
"""C of scikit-learn, the inverse of the regularisation strength, for vectors of standard deviation 1."""
HIDDEN = 256
STEPS = 150


def train_head(
    vectors: NDArray[np.floating],
    label: NDArray[np.int64],
    classes: Sequence[str],
    *,
    kind: HeadKind,
    backbone: BackboneReference,
    k: int = NEIGHBOURS,
    strength: float | None = None,
    hidden: int = HIDDEN,
    steps: int = STEPS,
    seed: int = 0,
) -> Head:
    """Train a classifier of this kind on vectors (n, d) with labels (n,) in 0..len(classes)-1.

    knn: the k nearest neighbours by cosine. logistic: multinomial regression, with classes of equal weight. linear:
    one layer by gradient descent, with crops of equal weight. svm: one against the rest, with classes of equal weight
    and calibrated values. mlp: one hidden layer. Equal arguments give equal heads on one machine.

    Raises:
        UsageError: fewer than two classes have crops.
        ValueError: a vector is not finite, or a label is not the index of a class.
    """
    counts = np.bincount(label, minlength=len(classes))
    if len(counts) != len(classes) or not np.isfinite(vectors).all():
        raise ValueError("labels must be indices of classes, and vectors must be finite")
    if (counts > 0).sum() < 2:
        raise UsageError("a head needs labelled crops of at least two classes; give more labels")
    # A class without crops cannot be learned, and would only take part of the probability.
    kept = np.flatnonzero(counts)
    label = np.searchsorted(kept, label)
    scaler = SCALERS[kind]
    parameters = _fit_scaler(vectors) if scaler == "standard" else {}
    scaled = scale_vectors(vectors, scaler, parameters)
    settings: dict[str, int | float | str]
    match kind:
        case "knn":
            settings = {"k": k}
            parameters |= {"vectors": scaled, "label": label.astype(np.int32)}
        case "logistic":
            settings = {"strength": strength or STRENGTH[kind], "seed": seed}
            parameters |= _fit_logistic(scaled, label, strength=float(settings["strength"]), seed=seed)
        case "svm":
            settings = {"strength": strength or STRENGTH[kind], "seed": seed}
            parameters |= fit_svm(scaled, label, strength=float(settings["strength"]), seed=seed)
        case "linear":
            settings = {"steps": steps, "seed": seed}
            parameters |= fit_layers(scaled, label, hidden=None, steps=steps, seed=seed)
        case "mlp":
            settings = {"hidden": hidden, "steps": steps, "seed": seed}
            parameters |= fit_layers(scaled, label, hidden=hidden, steps=steps, seed=seed)
    meta = HeadMeta(
        kind=kind,
        classes=tuple(classes[c] for c in kept.tolist()),
        counts=tuple(counts[kept].tolist()),
        dimension=vectors.shape[1],
        scaler=scaler,
        backbone=backbone,
        settings=settings,
    )
    return Head(meta, parameters)


def _fit_scaler(vectors: NDArray[np.floating]) -> dict[str, NDArray[Any]]:
    mean, std = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
    # A component that is constant in the labels may vary in an archive, and must not be magnified there.
    std = np.where(std > 1e-6 * max(float(std.max()), 1e-12), std, max(float(std.max()), 1e-12))
    return {"scaler.mean": mean.astype(np.float32), "scaler.std": std.astype(np.float32)}


def _fit_logistic(
    vectors: NDArray[np.float32], label: NDArray[np.int64], *, strength: float, seed: int
) -> Mapping[str, NDArray[Any]]:
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000, random_state=seed)
    # On matrices this small, BLAS threads wait longer than they work, and their number changes the last bits.
    with threadpool_limits(1):
        model.fit(vectors.astype(np.float64), label)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # for two classes scikit-learn keeps only the difference
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
