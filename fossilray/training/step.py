"""One optimiser step of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fossilray.core.config.training import TrainConfig
from fossilray.models.device import precision_on
from fossilray.training.crops.stream import CropBatch
from fossilray.training.distributed import DistributedGroup
from fossilray.training.methods import MethodModule
from fossilray.training.schedules import learning_rate, weight_decay


class TrainingStep:
    """A method with its optimiser on one worker's device."""

    def __init__(self, config: TrainConfig, method: MethodModule, group: DistributedGroup) -> None:
        self._config, self._group, self._device = config, group, group.device
        # Convolutions are fastest in channels-last memory format.
        self.method = method.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.method.gather = group.gather
        self.optimiser = _make_optimiser(config, self.method)
        dtype = precision_on(self._device, config.precision)
        # float16 would need loss scaling, so devices without native bfloat16 use float32.
        self._half = dtype if dtype == torch.bfloat16 else None

    def step(
        self, batches: Sequence[CropBatch], *, number: int, epoch: float, progress: float
    ) -> dict[str, float]:
        """Take one step with the gradients averaged over batches and workers.

        Args:
            batches: Batches of this worker.
            number: Number of the step in the whole training. It seeds the noise, so that a resumed training draws
                the same.
            epoch: Epochs done, with fraction.
            progress: Share of the training done.

        Returns:
            Loss, its terms, learning rate, weight decay and gradient norm. If the norm is not finite, the weights
            are left unchanged.
        """
        config = self._config
        self._set_rates(epoch, progress)
        self.optimiser.zero_grad(set_to_none=True)
        metrics: dict[str, float] = {}
        for index, batch in enumerate(batches):
            noise = np.random.SeedSequence([config.seed, self._group.rank, number, index])
            network_seed, view_seed = noise.generate_state(2).tolist()
            torch.manual_seed(network_seed)  # global, as dropout takes no generator
            rng = torch.Generator().manual_seed(view_seed)
            for name, value in self._add_gradients(batch, rng, progress, share=1 / len(batches)).items():
                metrics[name] = metrics.get(name, 0.0) + value / len(batches)
        self._group.average_gradients(self.method.parameters())
        self.method.after_backward(epoch=int(epoch))
        norm = self._clip()
        # The norm is equal on all workers; the loss is not.
        if math.isfinite(norm):
            self.optimiser.step()
            self.method.after_step(progress)
        first = self.optimiser.param_groups[0]
        return {
            **metrics,
            "learning_rate": first["lr"],
            "weight_decay": first["weight_decay"],
            "gradient_norm": norm,
        }

    def views(self, batch: CropBatch, rng: torch.Generator, *, progress: float = 1.0) -> list[torch.Tensor]:
        """Return the method's views of a batch."""
        pixels = torch.from_numpy(batch.pixels).to(self._device, non_blocking=True).permute(0, 3, 1, 2)
        shape = torch.from_numpy(batch.shape).to(self._device)
        views: list[torch.Tensor] = self.method.views(pixels, shape, rng, progress=progress)
        return views

    def _set_rates(self, epoch: float, progress: float) -> None:
        schedule = self._config.schedule
        rate = learning_rate(schedule, progress=progress, epoch=epoch)
        decay = weight_decay(schedule, progress=progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("rate_factor", 1.0)
            group["weight_decay"] = decay if group["decays"] else 0.0

    def _add_gradients(
        self, batch: CropBatch, rng: torch.Generator, progress: float, *, share: float
    ) -> Mapping[str, float]:
        """Add this share of one batch's gradients to the accumulated ones; return its loss and the loss terms."""
        views = self.views(batch, rng, progress=progress)
        label = torch.from_numpy(batch.label).to(self._device)
        half = self._half or torch.bfloat16
        with torch.autocast(self._device.type, dtype=half, enabled=self._half is not None):
            result = self.method.loss(views, label, progress=progress)
        (result.loss * share).backward()
        return {"loss": float(result.loss.detach()), **result.terms}

    def _clip(self) -> float:
        """Clip the gradients to `schedule.clip`; return their total norm before."""
        trained = [p for p in self.method.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if self._config.schedule.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(trained, self._config.schedule.clip, norm)
        return float(norm)


def _make_optimiser(config: TrainConfig, method: MethodModule) -> torch.optim.Optimizer:
    factors = method.rate_factors()
    trained = [p for p in method.parameters() if p.requires_grad and p not in factors]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "decays": True},
        {"params": [p for p in trained if p.ndim <= 1], "decays": False},
        *({"params": [p], "decays": False, "rate_factor": factor} for p, factor in factors.items()),
    ]
    schedule = config.schedule
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=schedule.learning_rate, momentum=schedule.momentum)
    optimiser = torch.optim.AdamW if schedule.optimiser == "adamw" else torch.optim.Adam
    return optimiser(groups, lr=schedule.learning_rate)
