"""SimCLR (Chen et al. 2020): two views of one crop attract, all other crops of the batch repel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fossilray.training.methods.base import MethodLoss, MethodModule
from fossilray.training.methods.contrastive_losses import nt_xent


class SimClr(MethodModule):
    """NT-Xent on a projection, over the crops of all workers."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        settings = self.config.simclr
        # Without batch normalisation, as in Martinsen et al. 2024.
        self.project = torch.nn.Sequential(
            torch.nn.Linear(self.dimension, settings.hidden),
            torch.nn.ReLU(),
            torch.nn.Linear(settings.hidden, settings.projection),
        )

    def loss(self, views: Sequence[torch.Tensor], label: torch.Tensor, *, progress: float) -> MethodLoss:
        vectors = self.embed(self.backbone, torch.cat(list(views)))
        with torch.autocast(vectors.device.type, enabled=False):
            first, second = self.project(vectors.float()).chunk(2)
            loss = nt_xent(
                self.gather(first), self.gather(second), temperature=self.config.simclr.temperature
            )
        return MethodLoss(loss, {})

    def backbone_for_export(self) -> torch.nn.Module:
        return self.backbone
