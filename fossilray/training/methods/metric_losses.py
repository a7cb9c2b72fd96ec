"""The losses and miners of pytorch-metric-learning: its one home.

Batches of classes x crops come from the training's own stream, not from the library's samplers: those draw from
NumPy's global generator and cannot be entered in the middle of an epoch, so a resumed training would be another one.
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
"""Of multi-similarity: the code of Wang et al. 2019."""
_MINED_WITHIN = 0.1
"""epsilon of its miner, as the paper has it (section 4.1)."""


class MetricLossParts(torch.nn.Module):
    """A loss over vectors (n, d) with labels (n,), and the miner that says which pairs of them count.

    Vectors are brought to length 1, as all four papers have it.
    """

    def __init__(self, asked: MetricConfig, *, dimension: int, classes: int) -> None:
        """Raises:
        UsageError: pytorch-metric-learning is not installed, or miner and loss do not go together.
        """
        super().__init__()
        try:
            from pytorch_metric_learning import losses, miners
            from pytorch_metric_learning.distances import LpDistance
        except ImportError:
            raise UsageError(
                "method metric needs pytorch-metric-learning; pip install 'fossilray[learn]'"
            ) from None
        name = asked.miner
        if name == "auto":
            name = {"triplet": "semihard", "multisimilarity": "multisimilarity"}.get(asked.loss, "none")  # type: ignore[assignment]
        if name not in ("none", "all") and asked.loss in ("proxyanchor", "supcon"):
            raise UsageError(
                f"metric.miner={name} chooses triplets or pairs, and metric.loss={asked.loss} takes every crop of a "
                "batch; set metric.miner=none"
            )
        margin = asked.margin
        if asked.loss == "triplet":
            # Euclidean distances of unit vectors, squared as in the paper's equation 1.
            self.loss: Any = losses.TripletMarginLoss(
                margin=TRIPLET_MARGIN if margin is None else margin,
                distance=LpDistance(normalize_embeddings=True, p=2, power=2),
            )
        elif asked.loss == "multisimilarity":
            self.loss = losses.MultiSimilarityLoss(alpha=_ALPHA, beta=_BETA, base=_BASE)
        elif asked.loss == "proxyanchor":
            self.loss = losses.ProxyAnchorLoss(
                num_classes=classes,
                embedding_size=dimension,
                margin=PROXY_MARGIN if margin is None else margin,
                alpha=PROXY_ALPHA,
            )
        else:
            self.loss = losses.SupConLoss(temperature=asked.temperature)
        self.miner: Any = _make_miner(miners, name, TRIPLET_MARGIN if margin is None else margin)

    def forward(self, vectors: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The loss of a batch; a batch without a pair to learn from costs nothing."""
        found: torch.Tensor = self.loss(
            vectors, label, None if self.miner is None else self.miner(vectors, label)
        )
        return found


def _make_miner(miners: Any, name: str, margin: float) -> Any:
    from pytorch_metric_learning.distances import LpDistance

    squared = LpDistance(normalize_embeddings=True, p=2, power=2)
    match name:
        case "semihard":
            return miners.TripletMarginMiner(margin=margin, type_of_triplets="semihard", distance=squared)
        case "hard":
            return miners.BatchHardMiner(distance=squared)
        case "multisimilarity":
            return miners.MultiSimilarityMiner(epsilon=_MINED_WITHIN)
        case _:
            return None
