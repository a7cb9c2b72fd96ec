"""The maps of chosen crops, made a few crops at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.explain.attention import attention_rollout, gradient_attention
from fossilray.analysis.explain.crops import CropsToExplain
from fossilray.analysis.explain.gradcam import FeatureMaps, feature_maps, grad_cam, guided_grad_cam
from fossilray.analysis.explain.open_backbone import DifferentiableBackbone, score_of
from fossilray.analysis.explain.selection import ExplanationTarget
from fossilray.core.errors import UsageError
from fossilray.models.heads.head import Head

if TYPE_CHECKING:
    import torch

Method = Literal["grad-cam", "guided", "features", "rollout", "attention"]
METHODS: tuple[Method, ...] = get_args(Method)
CONVOLUTIONAL: tuple[Method, ...] = ("grad-cam", "guided", "features")
TRANSFORMER: tuple[Method, ...] = ("rollout", "attention")

_AT_ONCE = 8
"""Crops of one pass: gradients keep every layer's output, some 60 MB a crop for a small network at 224 px."""


@dataclass(frozen=True)
class Map:
    """Where something is, over one crop."""

    method: Method
    target: int | None
    """The class it is about; None: all alike."""
    heat: NDArray[np.float32]
    """(h, w), 0 where nothing speaks for the class; over the whole crop, coarse or fine."""


@dataclass(frozen=True)
class Explained:
    """One crop with its maps."""

    case: ExplanationTarget
    maps: tuple[Map, ...]
    features: tuple[FeatureMaps, ...]


def methods_for(opened: DifferentiableBackbone, asked: Sequence[str], *, targets: int) -> tuple[Method, ...]:
    """The methods asked for, or all that suit the network; maps of features only where one class is explained.

    Raises:
        UsageError: one does not suit the network, or there is none of this name.
    """
    suiting = CONVOLUTIONAL if opened.family == "convolutional" else TRANSFORMER
    for method in asked:
        if method not in suiting:
            raise UsageError(
                f"--attribution {method} is not for a {opened.family} network such as {opened.name}; "
                f"it takes {', '.join(suiting)}"
            )
    if asked:
        return tuple(method for method in suiting if method in asked)
    return tuple(method for method in suiting if targets == 1 or method != "features")


def predict(opened: DifferentiableBackbone, head: Head, material: CropsToExplain) -> NDArray[np.float32]:
    """(n, classes) the head's probabilities of crops."""
    import torch

    shares = []
    with torch.inference_mode():
        for first in range(0, len(material), _AT_ONCE):
            vectors = opened.network(opened.see(material.pixels[first : first + _AT_ONCE]))
            shares.append(head.predict(vectors.float().numpy()))
    return np.concatenate(shares)


def explain_cases(
    opened: DifferentiableBackbone,
    head: Head,
    material: CropsToExplain,
    cases: Sequence[ExplanationTarget],
    methods: Sequence[Method],
) -> list[Explained]:
    """Every case with its maps, in the order of the cases; all cases have equally many targets."""
    explained = []
    for first in range(0, len(cases), _AT_ONCE):
        some = cases[first : first + _AT_ONCE]
        seen = opened.see(material.pixels[[case.row for case in some]])
        explained += _explain(opened, head, seen, some, methods)
    return explained


def _explain(
    opened: DifferentiableBackbone,
    head: Head,
    seen: torch.Tensor,
    cases: Sequence[ExplanationTarget],
    methods: Sequence[Method],
) -> list[Explained]:
    maps: list[list[Map]] = [[] for _ in cases]
    for method in methods:
        if method == "rollout":
            for own, heat in zip(maps, attention_rollout(opened.network, seen), strict=True):
                own.append(Map(method, None, heat.numpy()))
            continue
        for place in range(len(cases[0].targets) if method != "features" else 0):
            targets = np.array([case.targets[place] for case in cases], np.int64)
            score = score_of(head, targets)
            match method:
                case "guided":
                    heats = guided_grad_cam(opened.network, seen, score)
                case "attention":
                    heats = gradient_attention(opened.network, seen, score)
                case _:
                    heats = grad_cam(opened.network, seen, score)
            for own, target, heat in zip(maps, targets.tolist(), heats, strict=True):
                own.append(Map(method, target, heat.detach().numpy()))
    features = feature_maps(opened.network, seen) if "features" in methods else [[] for _ in cases]
    return [
        Explained(case, tuple(own), tuple(layers))
        for case, own, layers in zip(cases, maps, features, strict=True)
    ]
