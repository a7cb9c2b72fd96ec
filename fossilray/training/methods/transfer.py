"""Transfer learning: a pretrained network is trained on new classes (after Liu et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fossilray.training.methods.base import MethodLoss, MethodModule


class Transfer(MethodModule):
    """Cross-entropy over classes; rare classes can be weighted or sampled as often as the others."""

    weight: torch.Tensor

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._settings = self.config.transfer
        self.classify = torch.nn.Linear(self.dimension, self.classes)
        self.register_buffer("weight", class_weights(self.counts), persistent=False)

    @property
    def views_per_crop(self) -> int:
        return 1

    def loss(self, views: Sequence[torch.Tensor], label: torch.Tensor, *, progress: float) -> MethodLoss:
        vectors = self.embed(self.backbone, views[0])
        with torch.autocast(vectors.device.type, enabled=False):
            logits = self.classify(F.dropout(vectors.float(), self._settings.dropout, self.training))
            loss = F.cross_entropy(
                logits,
                label,
                weight=self.weight if self._settings.imbalance == "weights" else None,
                label_smoothing=self._settings.label_smoothing,
            )
        correct = (logits.detach().argmax(dim=1) == label).float().mean()
        return MethodLoss(loss, {"accuracy": float(correct)})

    def classifier(self) -> torch.nn.Linear:
        return self.classify

    def backbone_for_export(self) -> torch.nn.Module:
        return self.backbone


def class_weights(counts: Sequence[int]) -> torch.Tensor:
    """Return balanced class weights (classes,): n / (classes * crops of the class) (King & Zeng 2001).

    All classes have the same total weight, and the mean weight of a crop is 1.
    """
    crops = torch.tensor(counts, dtype=torch.float32).clamp(min=1)
    return crops.sum() / (len(counts) * crops)
