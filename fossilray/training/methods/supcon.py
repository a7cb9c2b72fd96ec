"""Supervised training: cross-entropy plus the supervised contrastive loss (Khosla et al. 2020).

Unlabelled crops can be added by NT-Xent (Chen et al. 2020) on the same projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fossilray.training.methods.base import MethodLoss, MethodModule, frozen_copy, update_moving_average
from fossilray.training.methods.contrastive_losses import nt_xent, supervised_contrast


class SupCon(MethodModule):
    """One view of each crop, as the crops of a class serve as views of it; two views if unlabelled crops are used."""

    taken: torch.Tensor
    """Steps taken."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._settings = self.config.supcon
        self.classify = torch.nn.Linear(self.dimension, self.classes)
        self.project = torch.nn.Sequential(
            torch.nn.Linear(self.dimension, self.dimension),
            torch.nn.ReLU(),
            torch.nn.Linear(self.dimension, self._settings.projection),
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
        settings = self._settings
        vectors = self.embed(self.backbone, torch.cat(list(views)))
        labels = label.repeat(len(views))
        known = labels >= 0
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            projected = F.normalize(self.project(vectors), dim=1)
            logits = self.classify(F.dropout(vectors[known], settings.dropout, self.training))
            entropy = F.cross_entropy(logits, labels[known], label_smoothing=settings.label_smoothing)
            contrast = supervised_contrast(
                self.gather(projected[known]), self.gather(labels[known]), temperature=settings.temperature
            )
            loss = settings.cross_entropy_weight * entropy + settings.contrast_weight * contrast
            terms = {"cross_entropy": entropy, "contrast": contrast}
            if not bool(known.all()):
                first, second = projected[~known].chunk(2)
                terms["unlabelled"] = nt_xent(
                    self.gather(first), self.gather(second), temperature=settings.temperature
                )
                loss = loss + settings.unlabelled_weight * terms["unlabelled"]
        return MethodLoss(loss, {name: float(term.detach()) for name, term in terms.items()})

    def after_step(self, progress: float) -> None:
        # The average follows closely at first, so that it forgets the random initial weights.
        self.taken += 1
        taken = int(self.taken)
        keep = min(self._settings.averaging, (1 + taken) / (10 + taken))
        update_moving_average(self.averaged, self.backbone, keep=keep)

    def backbone_for_export(self) -> torch.nn.Module:
        return self.averaged
