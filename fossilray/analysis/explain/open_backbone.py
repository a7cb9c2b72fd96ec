"""A backbone opened so that gradients can be followed through it, and a head as a score at its end."""

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

_SMALLEST_LENGTH = 1e-12


@dataclass(frozen=True)
class DifferentiableBackbone:
    """A network as it was trained, nothing folded, in float32 on the CPU."""

    network: torch.nn.Module
    preprocessing: Preprocessing
    name: str
    family: Family

    def see(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """Crops (n, S, S, 3) uint8 as the network's input (n, 3, side, side)."""
        import torch

        return self.preprocessing.apply(torch.from_numpy(np.ascontiguousarray(crops)))


def load_differentiable(backbone: str, head: Head) -> DifferentiableBackbone:
    """The backbone of this name that the head was taught on.

    Raises:
        UsageError: the head was taught on another one, or nothing in the network can be looked into.
        WeightsError: the weights cannot be had.
    """
    if backbone == "handcrafted" or backbone.startswith("random:"):
        raise UsageError(
            f"--backbone {backbone} is no file of weights; explain takes bundled, a file or timm:<name>"
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
    """Whether a timm network ends in maps of features or in tokens that attend to each other.

    Raises:
        UsageError: neither.
    """
    import torch

    with torch.inference_mode():
        found: Any = network.forward_features(torch.zeros(1, 3, size_px, size_px))  # type: ignore[operator]
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else ()
    if len(shape) == 4:
        return "convolutional"
    if len(shape) == 3 and attention_layers(network):
        return "transformer"
    raise UsageError(
        f"{name} ends neither in maps of features nor in tokens with attention ({shape}); explain knows timm's "
        "convolutional networks and plain vision transformers"
    )


def score_of(head: Head, classes: NDArray[np.integer]) -> Score:
    """What speaks for `classes[i]` in the vector of crop i, as torch can differentiate it.

    logistic, linear, svm, mlp: the class's logit. knn has none that is smooth: the cosine to the class's nearest
    labelled vector, less that to the nearest of any other class, for what both share tells them not apart. The
    vector's own length counts as fixed: a cosine near 1 would hardly change with anything.
    """
    import torch
    import torch.nn.functional as F

    own = {name: torch.from_numpy(np.array(array)) for name, array in head.parameters.items()}
    wanted = torch.from_numpy(np.asarray(classes, np.int64))
    scaler = head.meta.scaler

    def logit(vectors: torch.Tensor) -> torch.Tensor:
        if vectors.shape[1] != head.meta.dimension:
            raise WeightsError(
                f"the head wants vectors of length {head.meta.dimension} and the backbone gives {vectors.shape[1]}"
            )
        seen = vectors.float()
        if scaler == "unit":
            seen = seen / seen.norm(dim=1, keepdim=True).clamp(min=_SMALLEST_LENGTH).detach()
        elif scaler == "standard":
            seen = (seen - own["scaler.mean"]) / own["scaler.std"]
        if head.meta.kind == "knn":
            cosine = seen @ own["vectors"].T
            of_class = own["label"].long()[None] == wanted[:, None]
            own_nearest = cosine.masked_fill(~of_class, -2.0).max(dim=1).values
            return own_nearest - cosine.masked_fill(of_class, -2.0).max(dim=1).values
        if head.meta.kind == "mlp":
            seen = F.relu(F.linear(seen, own["hidden.weight"], own["hidden.bias"]))
        values = F.linear(seen, own["weight"], own["bias"])
        return values.gather(1, wanted[:, None])[:, 0]

    return logit


def score_label(head: Head) -> str:
    """What `score_of` gives, in words for a sheet."""
    if head.meta.kind == "knn":
        return "cosine to the nearest labelled crop of the genus, less that to the nearest of any other (knn)"
    return f"the {head.meta.kind} head's logit of the genus"
