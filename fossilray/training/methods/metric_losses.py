"""Losses and miners of pytorch-metric-learning, an optional package; the only module that imports it.

Batches of classes x crops come from the training's own stream, not from the library's samplers: those draw from
NumPy's global generator and cannot start in the middle of an epoch, so a resumed training would give other results.
"""

from __future__ import annotations

from typing import Any

import torch

from fossilray.core.config.training_supervised import MetricConfig
from fossilray.core.errors import UsageError

TRIPLET_MARGIN = 0.2
"""Schroff et al. 2015, section 3."""
PROXY_MARGIN, PROXY_ALPHA = 0.1, 32
"""Kim et al. 2020, section 4.1."""
_ALPHA, _BETA, _BASE = 2.0, 50.0, 1.0
"""Multi-similarity loss: the code of Wang et al. 2019."""
_MINER_EPSILON = 0.1
"""Wang et al. 2019, section 4.1."""


class MetricLossModule(torch.nn.Module):
    """A loss of vectors (n, d) with labels (n,), and the miner that selects pairs or triplets.

    Vectors are normalised to length 1, as in all four papers.
    """

    def __init__(self, settings: MetricConfig, *, dimension: int, classes: int) -> None:
        """Raises:
        UsageError: pytorch-metric-learning is not installed, or the miner does not apply to the loss.
        """
        super().__init__()
        try:
            from pytorch_metric_learning import losses, miners
            from pytorch_metric_learning.distances import LpDistance
        except ImportError:
            raise UsageError(
                "method metric needs pytorch-metric-learning; pip install 'fossilray[learn]'"
            ) from None
        name = settings.miner
        if name == "auto":
            name = {"triplet": "semihard", "multisimilarity": "multisimilarity"}.get(settings.loss, "none")  # type: ignore[assignment]
        if name not in ("none", "all") and settings.loss in ("proxyanchor", "supcon"):
            raise UsageError(
                f"metric.miner={name} selects triplets or pairs, but metric.loss={settings.loss} uses every crop of a "
                "batch; set metric.miner=none"
            )
        margin = settings.margin
        if settings.loss == "triplet":
            # Euclidean distances of unit vectors, squared as in the paper's equation 1.
            self.loss: Any = losses.TripletMarginLoss(
                margin=TRIPLET_MARGIN if margin is None else margin,
                distance=LpDistance(normalize_embeddings=True, p=2, power=2),
            )
        elif settings.loss == "multisimilarity":
            self.loss = losses.MultiSimilarityLoss(alpha=_ALPHA, beta=_BETA, base=_BASE)
        elif settings.loss == "proxyanchor":
            self.loss = losses.ProxyAnchorLoss(
                num_classes=classes,
                embedding_size=dimension,
                margin=PROXY_MARGIN if margin is None else margin,
                alpha=PROXY_ALPHA,
            )
        else:
            self.loss = losses.SupConLoss(temperature=settings.temperature)
        self.miner: Any = _make_miner(miners, name, TRIPLET_MARGIN if margin is None else margin)

    def forward(self, vectors: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch; 0 if the miner selects no pair."""
        selected = None if self.miner is None else self.miner(vectors, label)
        loss: torch.Tensor = self.loss(vectors, label, selected)
        return loss


def _make_miner(miners: Any, name: str, margin: float) -> Any:
    from pytorch_metric_learning.distances import LpDistance

    squared = LpDistance(normalize_embeddings=True, p=2, power=2)
    match name:
        case "semihard":
            return miners.TripletMarginMiner(margin=margin, type_of_triplets="semihard", distance=squared)
        case "hard":
            return miners.BatchHardMiner(distance=squared)
        case "multisimilarity":
            return miners.MultiSimilarityMiner(epsilon=_MINER_EPSILON)
        case _:
            return None
