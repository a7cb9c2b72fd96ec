"""Explanation maps of selected crops, computed in small batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.explain.attention import attention_rollout, gradient_attention
from fossilray.analysis.explain.backbone import DifferentiableBackbone, score_of
from fossilray.analysis.explain.crops import CropsToExplain
from fossilray.analysis.explain.gradcam import FeatureMaps, feature_maps, grad_cam, guided_grad_cam
from fossilray.analysis.explain.selection import ExplanationTarget
from fossilray.core.errors import UsageError
from fossilray.models.heads.head import Head

if TYPE_CHECKING:
    import torch

Method = Literal["grad-cam", "guided", "features", "rollout", "attention"]

CONVOLUTIONAL: tuple[Method, ...] = ("grad-cam", "guided", "features")
TRANSFORMER: tuple[Method, ...] = ("rollout", "attention")

_BATCH_SIZE = 8
"""Crops per batch. Gradients keep the output of every layer: 60 MB per crop for a small network at 224 px."""


@dataclass(frozen=True)
class ExplanationMap:
    """One map over one crop."""

    method: Method
    target: int | None
    """The class that is explained; None: the map is equal for all classes."""
    heat: NDArray[np.float32]
    """(h, w) over the whole crop, at any resolution; 0 without evidence for the class."""


@dataclass(frozen=True)
class Explanation:
    """The maps of one crop."""

    target: ExplanationTarget
    maps: tuple[ExplanationMap, ...]
    features: tuple[FeatureMaps, ...]


def methods_for(
    backbone: DifferentiableBackbone, requested: Sequence[str], *, classes: int
) -> tuple[Method, ...]:
    """Return the requested methods, or by default all that fit the network.

    Args:
        classes: how many classes each crop is explained for; feature maps are a default for one class only.

    Raises:
        UsageError: a method does not fit the network, or does not exist.
    """
    fitting = CONVOLUTIONAL if backbone.family == "convolutional" else TRANSFORMER
    for method in requested:
        if method not in fitting:
            raise UsageError(
                f"--attribution {method} does not fit {backbone.name}, a {backbone.family} network; give one of "
                f"{', '.join(fitting)}"
            )
    if requested:
        return tuple(method for method in fitting if method in requested)
    return tuple(method for method in fitting if classes == 1 or method != "features")


def predict(backbone: DifferentiableBackbone, head: Head, crops: CropsToExplain) -> NDArray[np.float32]:
    """Return the head's probabilities (n, classes) of crops."""
    import torch

    shares = []
    with torch.inference_mode():
        for first in range(0, len(crops), _BATCH_SIZE):
            vectors = backbone.network(backbone.preprocess(crops.pixels[first : first + _BATCH_SIZE]))
            shares.append(head.predict(vectors.float().numpy()))
    return np.concatenate(shares)


def explain_targets(
    backbone: DifferentiableBackbone,
    head: Head,
    crops: CropsToExplain,
    targets: Sequence[ExplanationTarget],
    methods: Sequence[Method],
) -> list[Explanation]:
    """Compute the maps of every target, in order. All targets have equally many classes."""
    explanations = []
    for first in range(0, len(targets), _BATCH_SIZE):
        batch = targets[first : first + _BATCH_SIZE]
        images = backbone.preprocess(crops.pixels[[target.row for target in batch]])
        explanations += _explain_batch(backbone, head, images, batch, methods)
    return explanations


def _explain_batch(
    backbone: DifferentiableBackbone,
    head: Head,
    images: torch.Tensor,
    targets: Sequence[ExplanationTarget],
    methods: Sequence[Method],
) -> list[Explanation]:
    maps: list[list[ExplanationMap]] = [[] for _ in targets]
    for method in methods:
        if method == "rollout":
            for maps_of_crop, heat in zip(maps, attention_rollout(backbone.network, images), strict=True):
                maps_of_crop.append(ExplanationMap(method, None, heat.numpy()))
            continue
        for position in range(len(targets[0].classes) if method != "features" else 0):
            classes = np.array([target.classes[position] for target in targets], np.int64)
            score = score_of(head, classes)
            match method:
                case "guided":
                    heats = guided_grad_cam(backbone.network, images, score)
                case "attention":
                    heats = gradient_attention(backbone.network, images, score)
                case _:
                    heats = grad_cam(backbone.network, images, score)
            for maps_of_crop, number, heat in zip(maps, classes.tolist(), heats, strict=True):
                maps_of_crop.append(ExplanationMap(method, number, heat.detach().numpy()))
    features = feature_maps(backbone.network, images) if "features" in methods else [[] for _ in targets]
    return [
        Explanation(target, tuple(maps_of_crop), tuple(layers))
        for target, maps_of_crop, layers in zip(targets, maps, features, strict=True)
    ]
