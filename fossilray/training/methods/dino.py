"""DINO (Caron et al. 2021): a student matches its moving average, the teacher, across global and local views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fossilray.training.methods.base import MethodLoss, MethodModule, frozen_copy, update_moving_average
from fossilray.training.methods.lightly_modules import dino_head, dino_loss
from fossilray.training.schedules import cosine, linear


class Dino(MethodModule):
    """Student and teacher with one head each; the teacher's outputs are centred and sharpened."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        settings = self.config.dino
        self.head = dino_head(self.dimension, settings)
        self.teacher = frozen_copy(self.backbone)
        # Built again and loaded, as a weight-normalised layer cannot be copied.
        self.teacher_head = dino_head(self.dimension, settings)
        self.teacher_head.load_state_dict(self.head.state_dict())
        self.teacher_head.requires_grad_(False)
        self.distance = dino_loss(settings)

    def train(self, mode: bool = True) -> Dino:
        super().train(mode)
        # No dropout and no stochastic depth in the teacher, but batch statistics, as in DINO's code.
        self.teacher.eval()
        for module in self.teacher.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode)
        return self

    def loss(self, views: Sequence[torch.Tensor], label: torch.Tensor, *, progress: float) -> MethodLoss:
        settings = self.config.dino
        outputs = [self.head(self.embed(self.backbone, group)) for group in _by_size(views)]
        student = [view.float() for group in outputs for view in group.split(len(label))]
        with torch.no_grad():
            targets = self.teacher_head(self.embed(self.teacher, torch.cat(list(views[:2]))))
            teacher = [view.float() for view in targets.split(len(label))]
        warmup = settings.teacher_warmup_share
        position = progress / warmup if warmup else 1.0
        temperature = linear(settings.first_teacher_temperature, settings.teacher_temperature, position)
        with torch.autocast(student[0].device.type, enabled=False):
            loss = self.distance(teacher, student, teacher_temp=temperature)
        return MethodLoss(loss, {"teacher_entropy": self._teacher_entropy(teacher[0], temperature)})

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
        """Return the mean entropy of the teacher: 0 for one-hot outputs, log(outputs) for uniform ones."""
        logs = ((outputs - self.distance.center[0]) / temperature).log_softmax(dim=-1)
        return float(-(logs.exp() * logs).sum(dim=-1).mean())


def _by_size(views: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return views in order, with consecutive views of one size in one batch for fewer, larger passes."""
    groups: list[list[torch.Tensor]] = []
    for view in views:
        if groups and groups[-1][0].shape == view.shape:
            groups[-1].append(view)
        else:
            groups.append([view])
    return [torch.cat(group) for group in groups]
