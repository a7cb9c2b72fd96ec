"""A trained classifier as plain arrays, and how it tells classes from vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fossilray.core.config.choices import HeadKind, HoldOutUnit, NoveltyKind
from fossilray.core.errors import WeightsError
from fossilray.models.weights_file import WeightsDescription

HEAD_KINDS: tuple[HeadKind, ...] = get_args(HeadKind)

Scaler = Literal["none", "unit", "standard"]
"""What is done to a vector first: nothing, brought to length 1, or each number to mean 0 and deviation 1."""

HeadFormat = Literal["fossilray-head/1", "fossilray-head/2"]
"""The second has the head's predictions of held-out crops too."""

KNN_TEMPERATURE = 0.07
"""A neighbour's vote weighs exp(cosine / 0.07) (Wu et al. 2018, eq. 7; Caron et al. 2021, section 3.2)."""

_ROWS_AT_ONCE = 4096


_Count = Annotated[int, Field(ge=0, le=2**53)]


class BackboneReference(BaseModel):
    """Which backbone made the vectors that a head was taught on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str = Field(description="Of its weights, as run.json has it; empty where there are none.")


class UncertaintyMeta(BaseModel):
    """How it was found out how sure a head may be; its numbers are the arrays of `certainty_arrays`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: float = Field(
        ge=1e-6, le=1e6, description="By which logits are divided (Guo et al. 2017, eq. 9)."
    )
    over: HoldOutUnit = Field(description="What was held out whole: single crops, or all crops of a well.")
    novelty: NoveltyKind = Field(description="How far a vector is from all labels.")
    k: int = Field(ge=1, le=2**31, description="Of knn: the neighbour whose distance counts.")


class HeadMeta(WeightsDescription):
    """Description in a head's file, beside its arrays."""

    formats: ClassVar = get_args(HeadFormat)

    format: HeadFormat = "fossilray-head/1"
    kind: HeadKind
    classes: tuple[str, ...] = Field(
        min_length=2, max_length=100_000, description="In the order of the probabilities."
    )
    counts: tuple[_Count, ...] = Field(description="Labelled crops of each class it was taught on.")
    dimension: int = Field(ge=1, le=1_000_000, description="Length of a vector.")
    scaler: Scaler
    backbone: BackboneReference
    settings: dict[str, int | float | str] = Field(description="How it was fitted.")
    certainty: UncertaintyMeta | None = None

    @model_validator(mode="after")
    def _has_what_its_format_says(self) -> HeadMeta:
        if (self.certainty is None) != (self.format == "fossilray-head/1"):
            raise ValueError(f"{self.format} and its certainty do not go together")
        return self


@dataclass(frozen=True)
class Head:
    """A classifier: what it says of itself, and its numbers, float32 but for whole ones."""

    meta: HeadMeta
    parameters: Mapping[str, NDArray[Any]]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.meta.classes

    @property
    def confusion(self) -> NDArray[np.int64] | None:
        """(classes, classes): truth down, call across, of labelled crops held out; None where none were."""
        if self.meta.certainty is None:
            return None
        found = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(found, (self.parameters["certainty.label"], self.parameters["certainty.call"]), 1)
        return found

    def predict(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """Probabilities (n, classes) of vectors (n, dimension), calibrated where the head was; every row sums to 1.

        Raises:
            WeightsError: the vectors have another length than those the head was taught on.
            ValueError: a vector is not finite.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.meta.dimension:
            raise WeightsError(
                f"the head wants vectors of length {self.meta.dimension}, made by {self.meta.backbone.name}, and "
                f"was given {vectors.shape}; embed the crops with that backbone, or train a head on these vectors"
            )
        answers = [
            self._predict(vectors[first : first + _ROWS_AT_ONCE])
            for first in range(0, len(vectors), _ROWS_AT_ONCE)
        ]
        whole: NDArray[np.float32] = np.concatenate([np.zeros((0, len(self.classes)), np.float32), *answers])
        if self.meta.certainty is not None:
            whole = apply_temperature(whole, self.meta.certainty.temperature)
        return np.minimum(whole, 1, out=whole)

    def _predict(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        seen = scale(vectors, self.meta.scaler, self.parameters)
        if not np.isfinite(seen).all():
            raise ValueError(f"{(~np.isfinite(seen).all(axis=1)).sum()} vectors are not finite")
        own = self.parameters
        match self.meta.kind:
            case "knn":
                return _vote(seen, own, len(self.classes), int(self.meta.settings["k"]))
            case "mlp":
                hidden = np.maximum(_affine(seen, own, "hidden."), 0)
                return softmax(_affine(hidden, own, ""))
            case _:
                return softmax(_affine(seen, own, ""))


def scale(
    vectors: NDArray[np.floating], scaler: Scaler, parameters: Mapping[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """The vectors as the classifier itself sees them."""
    seen: NDArray[np.float32] = vectors.astype(np.float32)
    if scaler == "unit":
        seen = seen / np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), np.float32(1e-12))
    elif scaler == "standard":
        seen = (seen - parameters["scaler.mean"]) / parameters["scaler.std"]
    return seen


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows as probabilities."""
    share: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    return share


def apply_temperature(share: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Probabilities with their logits divided by a temperature; their order in a row stays."""
    logits: NDArray[np.float32] = np.log(np.maximum(share, np.finfo(np.float32).tiny))
    logits /= np.float32(temperature)
    return softmax(logits)


def certainty_arrays(novelty: NoveltyKind) -> tuple[str, ...]:
    """The arrays that tell how sure a head may be.

    Of n labelled crops while they were held out: `label` and `call` (n,), `score` (n,) one less the probability of
    the label, `entropy` (n,) in nats, `distance` (n,) from what the head then knew. Of all m labelled crops: `known`
    (m, d) directions and `known_label` (m,); of mahalanobis `centres` (classes, d) and `whitening` (d, d) too.
    """
    names = ("label", "call", "score", "entropy", "distance", "known", "known_label")
    more = ("centres", "whitening") if novelty == "mahalanobis" else ()
    return tuple(f"certainty.{name}" for name in (*names, *more))


def parameters_of(kind: HeadKind) -> tuple[str, ...]:
    """The arrays that a head of this kind has, those of its scaler and certainty aside."""
    extra = {
        "knn": ("vectors", "label"),
        "mlp": ("hidden.weight", "hidden.bias", "weight", "bias"),
    }
    return extra.get(kind, ("weight", "bias"))


def _affine(
    seen: NDArray[np.float32], parameters: Mapping[str, NDArray[Any]], prefix: str
) -> NDArray[np.float32]:
    product: NDArray[np.float32] = seen @ parameters[f"{prefix}weight"].T + parameters[f"{prefix}bias"]
    return product


def _vote(
    seen: NDArray[np.float32], parameters: Mapping[str, NDArray[Any]], classes: int, k: int
) -> NDArray[np.float32]:
    """The k nearest by cosine vote, the nearer the more; both sides have length 1.

    One more vote goes to all classes alike, so that nothing is certain and entropy tells 3 of 3 from 9 of 9.
    """
    known, label = parameters["vectors"], parameters["label"]
    cosine: NDArray[np.float32] = seen @ known.T
    k = min(k, len(label))
    nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    weight = softmax(np.take_along_axis(cosine, nearest, axis=1) / np.float32(KNN_TEMPERATURE))
    weight *= np.float32(k / (k + 1))
    votes = np.full((len(seen), classes), 1 / (classes * (k + 1)), np.float32)
    np.add.at(votes, (np.arange(len(seen))[:, None], label[nearest]), weight)
    return votes
