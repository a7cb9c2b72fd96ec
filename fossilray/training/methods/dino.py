"""DINO (Caron et al. 2021): a student sees global and local crops and matches its average, which sees global ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fossilray.training.methods.base import Method, MethodLoss, frozen_copy, update_moving_average
from fossilray.training.methods.lightly_modules import dino_head, dino_loss
from fossilray.training.schedules import cosine, straight


class Dino(Method):
    """Student and teacher with a head each; the teacher's outputs are centred and sharpened."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        asked = self.config.dino
        self.head = dino_head(self.dimension, asked)
        self.teacher = frozen_copy(self.backbone)
        # Built and filled: a weight-normalised layer cannot be copied.
        self.teacher_head = dino_head(self.dimension, asked)
        self.teacher_head.load_state_dict(self.head.state_dict())
        self.teacher_head.requires_grad_(False)
        self.distance = dino_loss(asked)

    def train(self, mode: bool = True) -> Dino:
        super().train(mode)
        # The teacher leaves nothing to chance (no dropout, no stochastic depth), but normalises by batch as DINO's.
        self.teacher.eval()
        for part in self.teacher.modules():
            if isinstance(part, _BatchNorm):
                part.train(mode)
        return self

    def loss(self, views: Sequence[torch.Tensor], label: torch.Tensor, *, progress: float) -> MethodLoss:
        asked = self.config.dino
        seen = [self.head(self.embed(self.backbone, group)) for group in _by_size(views)]
        student = [one.float() for group in seen for one in group.split(len(label))]
        with torch.no_grad():
            taught = self.teacher_head(self.embed(self.teacher, torch.cat(list(views[:2]))))
            teacher = [one.float() for one in taught.split(len(label))]
        warmup = asked.teacher_warmup_share
        along = progress / warmup if warmup else 1.0
        sharpness = straight(asked.first_teacher_temperature, asked.teacher_temperature, along)
        with torch.autocast(student[0].device.type, enabled=False):
            loss = self.distance(teacher, student, teacher_temp=sharpness)
        return MethodLoss(loss, {"teacher_entropy": self._teacher_entropy(teacher[0], sharpness)})

    def after_backward(self, *, epoch: int) -> None:
        if epoch < self.config.dino.frozen_last_layer_epochs:
            for parameter in self.head.last_layer.parameters():  # type: ignore[union-attr]
                parameter.grad = None

    def after_step(self, progress: float) -> None:
        keep = cosine(self.config.dino.teacher_momentum, 1.0, progress)
        update_moving_average(self.teacher, self.backbone, keep=keep)
        update_moving_average(self.teacher_head, self.head, keep=keep)

    def backbone_for_export(self) -> torch.nn.Module:
        return self.teacher

    @torch.no_grad()
    def _teacher_entropy(self, outputs: torch.Tensor, temperature: float) -> float:
        """Of the mean teacher: 0 where it names one prototype always, log(outputs) where it names none."""
        logs = ((outputs - self.distance.center[0]) / temperature).log_softmax(dim=-1)
        return float(-(logs.exp() * logs).sum(dim=-1).mean())


def _by_size(views: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Views in their order, neighbours of equal size in one batch: fewer, larger passes."""
    groups: list[list[torch.Tensor]] = []
    for view in views:
        if groups and groups[-1][0].shape == view.shape:
            groups[-1].append(view)
        else:
            groups.append([view])
    return [torch.cat(group) for group in groups]
