"""Methods without negative pairs: the network predicts one view's projection from the other view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fossilray.training.methods.base import MethodLoss, MethodModule, frozen_copy, update_moving_average
from fossilray.training.methods.lightly_modules import byol_heads, negative_cosine, simsiam_heads
from fossilray.training.schedules import cosine


class SimSiam(MethodModule):
    """SimSiam: the target is the network itself with its gradient stopped (Chen and He 2021, algorithm 1)."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.project, self.predict = simsiam_heads(self.dimension, self.config.simsiam)

    def loss(self, views: Sequence[torch.Tensor], label: torch.Tensor, *, progress: float) -> MethodLoss:
        # One view at a time, so that batch statistics do not distinguish the views.
        projected = [self.project(self.embed(self.backbone, view)) for view in views]
        predicted = [self.predict(projection) for projection in projected]
        with torch.autocast(projected[0].device.type, enabled=False):
            loss = symmetric_loss(predicted, projected)
        return MethodLoss(loss, {})

    def backbone_for_export(self) -> torch.nn.Module:
        return self.backbone


class Byol(MethodModule):
    """BYOL: the target is the moving average of backbone and projection (Grill et al. 2020, eq. 1 and 2)."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.project, self.predict = byol_heads(self.dimension, self.config.byol)
        self.target = frozen_copy(self.backbone)
        self.target_project = frozen_copy(self.project)

    def loss(self, views: Sequence[torch.Tensor], label: torch.Tensor, *, progress: float) -> MethodLoss:
        predicted = [self.predict(self.project(self.embed(self.backbone, view))) for view in views]
        with torch.no_grad():
            target = [self.target_project(self.embed(self.target, view)) for view in views]
        with torch.autocast(predicted[0].device.type, enabled=False):
            # The squared distance of unit vectors is 2 - 2 cos.
            loss = 2 + 2 * symmetric_loss(predicted, target)
        return MethodLoss(loss, {})

    def after_step(self, progress: float) -> None:
        keep = cosine(self.config.byol.momentum, 1.0, progress)
        update_moving_average(self.target, self.backbone, keep=keep)
        update_moving_average(self.target_project, self.project, keep=keep)

    def backbone_for_export(self) -> torch.nn.Module:
        return self.backbone


def symmetric_loss(predicted: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return minus the mean cosine similarity of each view's prediction and the other view's target."""
    first = negative_cosine(predicted[0].float(), target[1].float())
    second = negative_cosine(predicted[1].float(), target[0].float())
    return (first + second) / 2
