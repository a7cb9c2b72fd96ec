"""Learning from labels: cross-entropy over classes beside supervised contrast (Khosla et al. 2020).

Unlabelled crops may take part through NT-Xent (Chen et al. 2020) on the same projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fossilray.training.methods.base import Method, MethodLoss, frozen_copy, update_moving_average
from fossilray.training.methods.contrastive_losses import nt_xent, supervised_contrast


class SupCon(Method):
    """One view of each labelled crop, as crops of a class are views of it; two where unlabelled ones take part."""

    taken: torch.Tensor
    """Steps so far."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._asked = self.config.supcon
        self.classify = torch.nn.Linear(self.dimension, self.classes)
        self.project = torch.nn.Sequential(
            torch.nn.Linear(self.dimension, self.dimension),
            torch.nn.ReLU(),
            torch.nn.Linear(self.dimension, self._asked.projection),
        )
        self.averaged = frozen_copy(self.backbone).eval()
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    @property
    def views_per_crop(self) -> int:
        return 2 if self.config.supcon.unlabelled else 1

    def train(self, mode: bool = True) -> SupCon:
        super().train(mode)
        self.averaged.eval()
        return self

    def loss(self, views: Sequence[torch.Tensor], label: torch.Tensor, *, progress: float) -> MethodLoss:
        asked = self._asked
        vectors = self.embed(self.backbone, torch.cat(list(views)))
        every = label.repeat(len(views))
        known = every >= 0
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            projected = F.normalize(self.project(vectors), dim=1)
            logits = self.classify(F.dropout(vectors[known], asked.dropout, self.training))
            entropy = F.cross_entropy(logits, every[known], label_smoothing=asked.label_smoothing)
            contrast = supervised_contrast(
                self.gather(projected[known]), self.gather(every[known]), temperature=asked.temperature
            )
            loss = asked.cross_entropy_weight * entropy + asked.contrast_weight * contrast
            parts = {"cross_entropy": entropy, "contrast": contrast}
            if not bool(known.all()):
                first, second = projected[~known].chunk(2)
                parts["unlabelled"] = nt_xent(
                    self.gather(first), self.gather(second), temperature=asked.temperature
                )
                loss = loss + asked.unlabelled_weight * parts["unlabelled"]
        return MethodLoss(loss, {name: float(part.detach()) for name, part in parts.items()})

    def after_step(self, progress: float) -> None:
        # The average follows closely at first, else it would remember the random start.
        self.taken += 1
        taken = int(self.taken)
        keep = min(self._asked.averaging, (1 + taken) / (10 + taken))
        update_moving_average(self.averaged, self.backbone, keep=keep)

    def backbone_for_export(self) -> torch.nn.Module:
        return self.averaged
