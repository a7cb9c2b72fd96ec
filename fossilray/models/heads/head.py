"""Heads: trained classifiers as plain arrays, and their predictions on vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fossilray.core.config.choices import HeadKind, HoldOutUnit, NoveltyKind, TaxonRank
from fossilray.core.errors import WeightsError
from fossilray.core.vectors import unit_vectors
from fossilray.models.weights_file import WeightsDescription

Scaler = Literal["none", "unit", "standard"]
"""Preprocessing of vectors: none, scaling to length 1, or each component to mean 0 and standard deviation 1."""

HeadFormat = Literal["fossilray-head/1", "fossilray-head/2", "fossilray-head/3"]
"""The second holds the arrays of `names_of_uncertainty_arrays` too, the third also the taxa of its classes."""

KNN_TEMPERATURE = 0.07
"""The vote of a neighbour has the weight exp(cosine / 0.07) (Wu et al. 2018, eq. 7; Caron et al. 2021, section 3.2)."""

_ROWS_AT_ONCE = 4096
_UNCERTAINTY_PREFIX = "certainty."
"""Prefix of the names of these arrays in a head's file."""

_Count = Annotated[int, Field(ge=0, le=2**53)]


class BackboneReference(BaseModel):
    """The backbone that made the vectors a head was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str = Field(
        description="Digest of its weights, as in run.json; empty for a backbone without weights."
    )


class UncertaintyMeta(BaseModel):
    """How the uncertainty of a head was fitted; `names_of_uncertainty_arrays` lists its arrays."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    temperature: float = Field(ge=1e-6, le=1e6, description="Divisor of the logits (Guo et al. 2017, eq. 9).")
    hold_out: HoldOutUnit = Field(
        alias="over", description="Unit that was held out: single crops, or all crops of a well."
    )
    novelty: NoveltyKind = Field(description="Distance of a vector from all labels.")
    k: int = Field(ge=1, le=2**31, description="For knn: the rank of the neighbour whose distance is taken.")


class TaxaMeta(BaseModel):
    """The rank and the coarser taxa of the classes of a head, and the rank that a prediction can defend."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: TaxonRank = Field(description="Rank of the classes.")
    lineages: tuple[dict[TaxonRank, str], ...] = Field(
        description="Names of each class by rank; empty for a class that is no taxon, such as wood."
    )
    accuracy: float = Field(gt=0, lt=1, description="Share of correct predictions that a rank must have.")
    thresholds: dict[TaxonRank, float] = Field(
        default={}, description="Summed probability from which a prediction counts at a rank."
    )


class HeadMeta(WeightsDescription):
    """Description in a head's file, beside its arrays."""

    formats: ClassVar = get_args(HeadFormat)

    format: HeadFormat = "fossilray-head/1"
    kind: HeadKind
    classes: tuple[str, ...] = Field(
        min_length=2, max_length=100_000, description="Class names, in the order of the probabilities."
    )
    counts: tuple[_Count, ...] = Field(description="Number of training crops of each class.")
    dimension: int = Field(ge=1, le=1_000_000, description="Length of a vector.")
    scaler: Scaler
    backbone: BackboneReference
    settings: dict[str, int | float | str] = Field(description="Settings of the fit.")
    uncertainty: UncertaintyMeta | None = Field(default=None, alias="certainty")
    taxa: TaxaMeta | None = None

    @model_validator(mode="after")
    def _matches_format(self) -> HeadMeta:
        if (self.uncertainty is None) != (self.format == "fossilray-head/1"):
            missing = "does not have" if self.uncertainty is not None else "has"
            raise ValueError(f"{self.format} {missing} the field certainty")
        if (self.taxa is None) == (self.format == "fossilray-head/3"):
            raise ValueError(
                f"{self.format} {'has' if self.taxa is None else 'does not have'} the field taxa"
            )
        if self.taxa is not None and len(self.taxa.lineages) != len(self.classes):
            raise ValueError(f"it has {len(self.classes)} classes and taxa of {len(self.taxa.lineages)}")
        return self


@dataclass(frozen=True)
class Head:
    """A classifier: its description and its arrays (float32, class indices int32)."""

    meta: HeadMeta
    parameters: Mapping[str, NDArray[Any]]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.meta.classes

    @property
    def confusion(self) -> NDArray[np.int64] | None:
        """Confusion matrix (true class, predicted class) of held-out crops; None for a head without uncertainty."""
        if self.meta.uncertainty is None:
            return None
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        arrays = self.uncertainty_arrays
        np.add.at(counts, (arrays["label"], arrays["call"]), 1)
        return counts

    @property
    def uncertainty_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of `names_of_uncertainty_arrays`, by their names without the prefix."""
        return {
            name.removeprefix(_UNCERTAINTY_PREFIX): array
            for name, array in self.parameters.items()
            if name.startswith(_UNCERTAINTY_PREFIX)
        }

    def with_uncertainty(
        self, meta: UncertaintyMeta, arrays: Mapping[str, NDArray[Any]], *, taxa: TaxaMeta | None = None
    ) -> Head:
        """Return the same classifier with these arrays, named as in `uncertainty_arrays`, and with these taxa."""
        described = self.meta.formats[1 if taxa is None else 2]
        return Head(
            self.meta.model_copy(update={"format": described, "uncertainty": meta, "taxa": taxa}),
            {**self.parameters, **{f"{_UNCERTAINTY_PREFIX}{name}": array for name, array in arrays.items()}},
        )

    def predict(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the probabilities (n, classes) of vectors (n, dimension); each row sums to 1.

        They are calibrated if the head has a temperature.

        Raises:
            WeightsError: the vectors have another length than the training vectors.
            ValueError: a vector is not finite.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.meta.dimension:
            raise WeightsError(
                f"the head takes vectors of length {self.meta.dimension}, made by {self.meta.backbone.name}, not an "
                f"array of {vectors.shape}; embed the crops with that backbone, or train a head on these vectors"
            )
        blocks = [
            self._predict(vectors[first : first + _ROWS_AT_ONCE])
            for first in range(0, len(vectors), _ROWS_AT_ONCE)
        ]
        probability: NDArray[np.float32] = np.concatenate(
            [np.zeros((0, len(self.classes)), np.float32), *blocks]
        )
        if self.meta.uncertainty is not None:
            probability = apply_temperature(probability, self.meta.uncertainty.temperature)
        return np.minimum(probability, 1, out=probability)

    def _predict(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        scaled = scale_vectors(vectors, self.meta.scaler, self.parameters)
        if not np.isfinite(scaled).all():
            raise ValueError(f"{(~np.isfinite(scaled).all(axis=1)).sum()} vectors are not finite")
        arrays = self.parameters
        match self.meta.kind:
            case "knn":
                return _vote(scaled, arrays, len(self.classes), int(self.meta.settings["k"]))
            case "mlp":
                hidden = np.maximum(_affine(scaled, arrays, "hidden."), 0)
                return softmax(_affine(hidden, arrays, ""))
            case _:
                return softmax(_affine(scaled, arrays, ""))


def scale_vectors(
    vectors: NDArray[np.floating], scaler: Scaler, parameters: Mapping[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """Return vectors (n, d) as float32, scaled as the classifier takes them."""
    scaled: NDArray[np.float32] = vectors.astype(np.float32)
    if scaler == "unit":
        scaled = unit_vectors(scaled)
    elif scaler == "standard":
        scaled = (scaled - parameters["scaler.mean"]) / parameters["scaler.std"]
    return scaled


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the softmax of each row."""
    probability: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    return probability


def apply_temperature(probability: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Divide the logits of probabilities (n, classes) by a temperature; the order within a row does not change."""
    logits: NDArray[np.float32] = np.log(np.maximum(probability, np.finfo(np.float32).tiny))
    logits /= np.float32(temperature)
    return softmax(logits)


def names_of_uncertainty_arrays(novelty: NoveltyKind) -> tuple[str, ...]:
    """Return the names in a file of the arrays from which a head predicts its uncertainty.

    Of the n out-of-fold predictions: `label` and `call` (n,), the true and the predicted class; `score` (n,), 1 minus
    the probability of the label; `entropy` (n,) in nats; `distance` (n,) from the training crops. Of all m labelled
    crops: `known` (m, d), unit vectors, and `known_label` (m,); for mahalanobis also `centres` (classes, d) and
    `whitening` (d, d).
    """
    names = ("label", "call", "score", "entropy", "distance", "known", "known_label")
    more = ("centres", "whitening") if novelty == "mahalanobis" else ()
    return tuple(f"{_UNCERTAINTY_PREFIX}{name}" for name in (*names, *more))


def names_of_parameters(kind: HeadKind) -> tuple[str, ...]:
    """Return the names of the arrays of a head of this kind, without those of its scaler and its uncertainty."""
    names = {
        "knn": ("vectors", "label"),
        "mlp": ("hidden.weight", "hidden.bias", "weight", "bias"),
    }
    return names.get(kind, ("weight", "bias"))


def _affine(
    vectors: NDArray[np.float32], parameters: Mapping[str, NDArray[Any]], prefix: str
) -> NDArray[np.float32]:
    product: NDArray[np.float32] = vectors @ parameters[f"{prefix}weight"].T + parameters[f"{prefix}bias"]
    return product


def _vote(
    directions: NDArray[np.float32], parameters: Mapping[str, NDArray[Any]], classes: int, k: int
) -> NDArray[np.float32]:
    """Weighted vote of the k nearest training vectors by cosine; all vectors have length 1.

    One more vote is divided among all classes, so that no probability is 1 and the entropy depends on k.
    """
    known, label = parameters["vectors"], parameters["label"]
    cosine: NDArray[np.float32] = directions @ known.T
    k = min(k, len(label))
    nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    weight = softmax(np.take_along_axis(cosine, nearest, axis=1) / np.float32(KNN_TEMPERATURE))
    weight *= np.float32(k / (k + 1))
    votes = np.full((len(directions), classes), 1 / (classes * (k + 1)), np.float32)
    np.add.at(votes, (np.arange(len(directions))[:, None], label[nearest]), weight)
    return votes
