"""Backbones for gradients: the network in float32 with nothing folded, and a head as a differentiable score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.explain.attention import attention_layers
from fossilray.core.config import EmbedderConfig
from fossilray.core.errors import UsageError, WeightsError
from fossilray.models.backbones.embedder import Preprocessing
from fossilray.models.backbones.load import embedder_digest, load_network, weights_setting_of
from fossilray.models.heads.compatibility import require_same_backbone
from fossilray.models.heads.head import BackboneReference, Head

if TYPE_CHECKING:
    import torch

    from fossilray.analysis.explain.attention import Score

Family = Literal["convolutional", "transformer"]

_MIN_LENGTH = 1e-12


@dataclass(frozen=True)
class DifferentiableBackbone:
    """A network as it was trained, without folded layers, in float32 on the CPU."""

    network: torch.nn.Module
    preprocessing: Preprocessing
    name: str
    family: Family

    def preprocess(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """Convert crops (n, S, S, 3) uint8 to the network's input (n, 3, input_px, input_px)."""
        import torch

        return self.preprocessing.apply(torch.from_numpy(np.ascontiguousarray(crops)))


def load_differentiable(backbone: str, head: Head) -> DifferentiableBackbone:
    """Load the backbone that a head was trained on.

    Args:
        backbone: bundled, a file of weights, or timm:<name>.

    Raises:
        UsageError: the head was trained on another backbone, or the network has neither feature maps nor attention.
        WeightsError: the weights cannot be loaded.
    """
    if backbone == "handcrafted" or backbone.startswith("random:"):
        raise UsageError(
            f"--backbone {backbone} has no weights to explain; give bundled, a file of weights or timm:<name>"
        )
    config = EmbedderConfig(weights=weights_setting_of(backbone))
    (digest,) = embedder_digest(config).values()
    require_same_backbone(
        head.meta,
        BackboneReference(name=backbone, sha256=digest),
        subject=f"the vectors of --backbone {backbone}",
        remedy="give the backbone that it was trained on, or train a head on this one",
    )
    network, name, preprocessing = load_network(config)
    network = network.eval().requires_grad_(False)
    return DifferentiableBackbone(
        network, preprocessing, name, family_of(network, name, preprocessing.size_px)
    )


def family_of(network: torch.nn.Module, name: str, size_px: int) -> Family:
    """Return whether a timm network ends in feature maps or in tokens with attention.

    Raises:
        UsageError: it ends in neither.
    """
    import torch

    with torch.inference_mode():
        features: Any = network.forward_features(torch.zeros(1, 3, size_px, size_px))  # type: ignore[operator]
    shape = tuple(features.shape) if isinstance(features, torch.Tensor) else ()
    if len(shape) == 4:
        return "convolutional"
    if len(shape) == 3 and attention_layers(network):
        return "transformer"
    raise UsageError(
        f"{name} ends neither in feature maps nor in tokens with attention (its features have the shape {shape}); "
        "explain supports timm's convolutional networks and plain vision transformers"
    )


def score_of(head: Head, classes: NDArray[np.integer]) -> Score:
    """Return a differentiable score of `classes[i]` for the vector of crop i.

    logistic, linear, svm, mlp: the logit of the class. knn: the cosine to the nearest labelled vector of the class
    minus the cosine to the nearest of any other class. The length of a vector is treated as a constant, because the
    derivative of a cosine near 1 vanishes.
    """
    import torch
    import torch.nn.functional as F

    parameters = {name: torch.from_numpy(np.array(array)) for name, array in head.parameters.items()}
    target = torch.from_numpy(np.asarray(classes, np.int64))
    scaler = head.meta.scaler

    def logit(vectors: torch.Tensor) -> torch.Tensor:
        if vectors.shape[1] != head.meta.dimension:
            raise WeightsError(
                f"the head takes vectors of {head.meta.dimension} dimensions, the backbone gives {vectors.shape[1]}"
            )
        scaled = vectors.float()
        if scaler == "unit":
            scaled = scaled / scaled.norm(dim=1, keepdim=True).clamp(min=_MIN_LENGTH).detach()
        elif scaler == "standard":
            scaled = (scaled - parameters["scaler.mean"]) / parameters["scaler.std"]
        if head.meta.kind == "knn":
            cosine = scaled @ parameters["vectors"].T
            is_target = parameters["label"].long()[None] == target[:, None]
            nearest_of_class = cosine.masked_fill(~is_target, -2.0).max(dim=1).values
            return nearest_of_class - cosine.masked_fill(is_target, -2.0).max(dim=1).values
        if head.meta.kind == "mlp":
            scaled = F.relu(F.linear(scaled, parameters["hidden.weight"], parameters["hidden.bias"]))
        values = F.linear(scaled, parameters["weight"], parameters["bias"])
        return values.gather(1, target[:, None])[:, 0]

    return logit


def score_label(head: Head) -> str:
    """Describe the score of `score_of` for a caption."""
    if head.meta.kind == "knn":
        return (
            "cosine to the nearest labelled crop of the genus minus that to the nearest of another (knn head)"
        )
    return f"logit of the genus ({head.meta.kind} head)"
