"""Deep metric learning: crops of a class come to lie together, others apart (as Karaderi et al. 2022 have it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fossilray.training.methods.base import Method, MethodLoss
from fossilray.training.methods.metric_losses import MetricLossParts


class Metric(Method):
    """A loss of pytorch-metric-learning on the very vectors that the finished file gives, nothing between."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._asked = self.config.metric
        self.criterion = MetricLossParts(self._asked, dimension=self.dimension, classes=self.classes)
        self.classify = (
            torch.nn.Linear(self.dimension, self.classes) if self._asked.cross_entropy_weight else None
        )

    @property
    def views_per_crop(self) -> int:
        return 1

    def loss(self, views: Sequence[torch.Tensor], label: torch.Tensor, *, progress: float) -> MethodLoss:
        vectors = self.embed(self.backbone, views[0])
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            loss = self.criterion(self.gather(vectors), self.gather(label))
            parts = {"metric": float(loss.detach())}
            if self.classify is not None:
                entropy = F.cross_entropy(self.classify(vectors), label)
                parts["cross_entropy"] = float(entropy.detach())
                loss = loss + self._asked.cross_entropy_weight * entropy
        return MethodLoss(loss, parts)

    def rate_factors(self) -> Mapping[torch.nn.Parameter, float]:
        return dict.fromkeys(self.criterion.parameters(), self._asked.proxy_rate)

    def backbone_for_export(self) -> torch.nn.Module:
        return self.backbone
