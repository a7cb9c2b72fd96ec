"""Transfer learning: a network with weights of its own is taught new classes (as Liu et al. 2022 have it)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fossilray.training.methods.base import Method, MethodLoss


class Transfer(Method):
    """Cross-entropy over the classes, rare ones weighed or shown as often as the others."""

    weight: torch.Tensor

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._asked = self.config.transfer
        self.classify = torch.nn.Linear(self.dimension, self.classes)
        self.register_buffer("weight", class_weights(self.counts), persistent=False)

    @property
    def views_per_crop(self) -> int:
        return 1

    def loss(self, views: Sequence[torch.Tensor], label: torch.Tensor, *, progress: float) -> MethodLoss:
        vectors = self.embed(self.backbone, views[0])
        with torch.autocast(vectors.device.type, enabled=False):
            logits = self.classify(F.dropout(vectors.float(), self._asked.dropout, self.training))
            loss = F.cross_entropy(
                logits,
                label,
                weight=self.weight if self._asked.imbalance == "weights" else None,
                label_smoothing=self._asked.label_smoothing,
            )
        right = (logits.detach().argmax(dim=1) == label).float().mean()
        return MethodLoss(loss, {"accuracy": float(right)})

    def classifier(self) -> torch.nn.Linear:
        return self.classify

    def backbone_for_export(self) -> torch.nn.Module:
        return self.backbone


def class_weights(counts: Sequence[int]) -> torch.Tensor:
    """n / (classes * crops of the class), so that classes weigh alike and crops 1 on average (King & Zeng 2001)."""
    there = torch.tensor(counts, dtype=torch.float32).clamp(min=1)
    return there.sum() / (len(counts) * there)
