"""Deep metric learning: vectors of one class move together, others apart (after Karaderi et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fossilray.training.methods.base import MethodLoss, MethodModule
from fossilray.training.methods.metric_losses import MetricLossModule


class MetricLearning(MethodModule):
    """A loss of pytorch-metric-learning directly on the vectors that the finished backbone gives."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._settings = self.config.metric
        self.criterion = MetricLossModule(self._settings, dimension=self.dimension, classes=self.classes)
        self.classify = (
            torch.nn.Linear(self.dimension, self.classes) if self._settings.cross_entropy_weight else None
        )

    @property
    def views_per_crop(self) -> int:
        return 1

    def loss(self, views: Sequence[torch.Tensor], label: torch.Tensor, *, progress: float) -> MethodLoss:
        vectors = self.embed(self.backbone, views[0])
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            loss = self.criterion(self.gather(vectors), self.gather(label))
            terms = {"metric": float(loss.detach())}
            if self.classify is not None:
                entropy = F.cross_entropy(self.classify(vectors), label)
                terms["cross_entropy"] = float(entropy.detach())
                loss = loss + self._settings.cross_entropy_weight * entropy
        return MethodLoss(loss, terms)

    def rate_factors(self) -> Mapping[torch.nn.Parameter, float]:
        return dict.fromkeys(self.criterion.parameters(), self._settings.proxy_rate)

    def backbone_for_export(self) -> torch.nn.Module:
        return self.backbone
