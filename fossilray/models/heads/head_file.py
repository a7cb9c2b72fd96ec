"""Head files: the arrays of a classifier in safetensors, and its description; nothing in a file is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import WeightsError
from fossilray.core.formats import FileRole
from fossilray.models.heads.head import Head, HeadMeta, certainty_arrays, parameters_of
from fossilray.models.weights_file import read_weight_arrays, weights_digest, write_weight_arrays

_WHOLE_NUMBERS = ("label", "certainty.label", "certainty.call", "certainty.known_label")
"""Numbers of classes; all other arrays hold fractions."""


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
        WeightsError: it cannot be read.
    """
    return weights_digest(path, _role(path))


def _role(path: Path) -> FileRole:
    remedy = "train the head again (`fossilray classify train`), or give another file"
    return FileRole(str(path), "a head", remedy, WeightsError)


def _check(path: Path, meta: HeadMeta, parameters: Mapping[str, NDArray[Any]]) -> None:
    """Refuse numbers that do not belong to what the file says of itself."""
    wanted = parameters_of(meta.kind)
    if meta.scaler == "standard":
        wanted = (*wanted, "scaler.mean", "scaler.std")
    if meta.certainty is not None:
        wanted = (*wanted, *certainty_arrays(meta.certainty.novelty))
    if set(wanted) != set(parameters) or len(meta.counts) != len(meta.classes):
        raise WeightsError(
            f"{path} holds {', '.join(sorted(parameters)) or 'nothing'}, and a {meta.kind} head has "
            f"{', '.join(sorted(wanted))}; train the head again"
        )
    classes = len(meta.classes)
    expected = _shapes(meta, parameters)
    for name, array in parameters.items():
        shape = expected.get(name, (classes,))
        whole = name in _WHOLE_NUMBERS
        if (
            array.shape != shape
            or array.dtype.kind not in ("iu" if whole else "f")
            or not np.isfinite(array).all()
        ):
            raise WeightsError(
                f"{name} of {path} is {array.dtype} {array.shape}, expected "
                f"{'whole numbers' if whole else 'finite'} {shape}; train the head again"
            )
    named = [parameters[name] for name in _WHOLE_NUMBERS if name in parameters]
    if any(((array < 0) | (array >= classes)).any() for array in named):
        raise WeightsError(f"{path} holds answers of none of its classes; train the head again")
    if "scaler.std" in parameters and not (parameters["scaler.std"] > 0).all():
        raise WeightsError(f"{path} scales vectors by a deviation of 0 or less; train the head again")
    if meta.kind == "knn":
        k = meta.settings.get("k")
        if not len(parameters["label"]) or type(k) is not int or k < 1:
            raise WeightsError(
                f"{path} has no neighbours to ask, or labels of none of its classes; train it again"
            )


def _shapes(meta: HeadMeta, parameters: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """What the arrays must be, lengths that a head is free in as they are."""
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
        **_certainty_shapes(meta, parameters),
    }


def _certainty_shapes(meta: HeadMeta, parameters: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    if meta.certainty is None:
        return {}
    asked, known = parameters["certainty.label"].size, parameters["certainty.known_label"].size
    own = {"known": (known, meta.dimension), "known_label": (known,), "whitening": (meta.dimension,) * 2}
    own |= {"centres": (len(meta.classes), meta.dimension)}
    rest = dict.fromkeys(("label", "call", "score", "entropy", "distance"), (asked,))
    return {f"certainty.{name}": shape for name, shape in {**rest, **own}.items()}
