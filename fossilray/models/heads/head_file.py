"""Head files: the arrays of a classifier in safetensors, and its description; nothing in a file is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import WeightsError
from fossilray.core.formats import FileRole
from fossilray.models.heads.head import Head, HeadMeta, names_of_parameters, names_of_uncertainty_arrays
from fossilray.models.weights_file import read_weight_arrays, weights_digest, write_weight_arrays

_CLASS_INDICES = ("label", "certainty.label", "certainty.call", "certainty.known_label")
"""Arrays of whole numbers; all others hold fractions."""


def save_head(path: Path, head: Head) -> None:
    """Write a .safetensors file; equal heads give equal bytes.

    Raises:
        UsageError: the file cannot be written.
    """
    write_weight_arrays(path, head.parameters, head.meta)


def load_head(path: str | Path) -> Head:
    """Load a classifier that `fossilray classify train` wrote; nothing in the file is executed.

    Args:
        path: a .safetensors file.

    Returns:
        The head. `classes` are its genera; `predict(vectors)` gives probabilities (n, classes) float32 for embeddings
        (n, d) of the backbone that `meta.backbone` names.

    Raises:
        WeightsError: the file is missing, damaged, or not a head.

    Example:
        >>> import fossilray
        >>> head = fossilray.load_head("genera.safetensors")
        >>> run = fossilray.open_run("census")
        >>> objects = fossilray.query(run, "SELECT * FROM objects WHERE opacity IS NOT NULL LIMIT 100")
        >>> probabilities = head.predict(fossilray.load_embeddings(run, objects))
    """
    path = Path(path)
    parameters, meta = read_weight_arrays(path, HeadMeta, _role(path))
    if meta is None:
        raise WeightsError(
            f"{path} does not describe a head; give a file that `fossilray classify train` wrote"
        )
    _check(path, meta, parameters)
    return Head(meta, parameters)


def head_digest(path: Path) -> str:
    """Return the sha256 of a head's file.

    Raises:
        WeightsError: the file is missing or cannot be read.
    """
    return weights_digest(path, _role(path))


def _role(path: Path) -> FileRole:
    remedy = "train the head again (`fossilray classify train`), or give another file"
    return FileRole(str(path), "a head", remedy, WeightsError)


def _check(path: Path, meta: HeadMeta, parameters: Mapping[str, NDArray[Any]]) -> None:
    """Refuse arrays that do not match the description."""
    names = names_of_parameters(meta.kind)
    if meta.scaler == "standard":
        names = (*names, "scaler.mean", "scaler.std")
    if meta.uncertainty is not None:
        names = (*names, *names_of_uncertainty_arrays(meta.uncertainty.novelty))
    if set(names) != set(parameters) or len(meta.counts) != len(meta.classes):
        raise WeightsError(
            f"{path} holds {', '.join(sorted(parameters)) or 'nothing'}, and a {meta.kind} head has "
            f"{', '.join(sorted(names))}; train the head again"
        )
    classes = len(meta.classes)
    expected = _shapes(meta, parameters)
    for name, array in parameters.items():
        shape = expected.get(name, (classes,))
        is_index = name in _CLASS_INDICES
        if (
            array.shape != shape
            or array.dtype.kind not in ("iu" if is_index else "f")
            or not np.isfinite(array).all()
        ):
            raise WeightsError(
                f"{name} of {path} is {array.dtype} {array.shape}, expected "
                f"{'whole numbers' if is_index else 'finite'} {shape}; train the head again"
            )
    indices = [parameters[name] for name in _CLASS_INDICES if name in parameters]
    if any(((array < 0) | (array >= classes)).any() for array in indices):
        raise WeightsError(f"{path} holds class indices outside its classes; train the head again")
    if "scaler.std" in parameters and not (parameters["scaler.std"] > 0).all():
        raise WeightsError(
            f"{path} scales vectors by a standard deviation of 0 or less; train the head again"
        )
    if meta.kind == "knn":
        k = meta.settings.get("k")
        if not len(parameters["label"]) or type(k) is not int or k < 1:
            raise WeightsError(
                f"{path} has no training vectors, or its k is not a whole number of at least 1; train the head again"
            )


def _shapes(meta: HeadMeta, parameters: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """Return the expected shapes; lengths that may vary are taken from the arrays themselves."""
    classes, dimension = len(meta.classes), meta.dimension
    rows = parameters["label"].size if meta.kind == "knn" else 0
    hidden = parameters["hidden.bias"].size if meta.kind == "mlp" else dimension
    return {
        "vectors": (rows, dimension),
        "label": (rows,),
        "weight": (classes, hidden),
        "hidden.weight": (hidden, dimension),
        "hidden.bias": (hidden,),
        "scaler.mean": (dimension,),
        "scaler.std": (dimension,),
        **_uncertainty_shapes(meta, parameters),
    }


def _uncertainty_shapes(meta: HeadMeta, parameters: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    if meta.uncertainty is None:
        return {}
    held_out, known = parameters["certainty.label"].size, parameters["certainty.known_label"].size
    of_labels = {
        "known": (known, meta.dimension),
        "known_label": (known,),
        "whitening": (meta.dimension,) * 2,
    }
    of_labels |= {"centres": (len(meta.classes), meta.dimension)}
    of_predictions = dict.fromkeys(("label", "call", "score", "entropy", "distance"), (held_out,))
    return {f"certainty.{name}": shape for name, shape in {**of_predictions, **of_labels}.items()}
