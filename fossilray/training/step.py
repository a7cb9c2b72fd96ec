"""One step of a training: batches in, weights changed."""

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
from fossilray.training.methods import Method
from fossilray.training.schedules import learning_rate, weight_decay


class TrainingStep:
    """A method with its optimiser on one worker's device."""

    def __init__(self, config: TrainConfig, method: Method, together: DistributedGroup) -> None:
        self._config, self._together, self._device = config, together, together.device
        # Convolutions are fastest with the channels last in memory.
        self.method = method.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.method.gather = together.gather
        self.optimiser = _make_optimiser(config, self.method)
        dtype = precision_on(self._device, config.precision)
        # float16 would need its losses scaled; where bfloat16 is not native, float32 it is.
        self._half = dtype if dtype == torch.bfloat16 else None

    def step(
        self, batches: Sequence[CropBatch], *, number: int, epoch: float, progress: float
    ) -> dict[str, float]:
        """Learn from batches whose gradients are averaged; what there is to note of it.

        number: of the step, counted from the training's beginning: noise is drawn from it, so that a training that was
        stopped draws the same. A gradient norm that is no number is returned and nothing is changed.
        """
        config = self._config
        self._set_rates(epoch, progress)
        self.optimiser.zero_grad(set_to_none=True)
        parts: dict[str, float] = {}
        for which, batch in enumerate(batches):
            noise = np.random.SeedSequence([config.seed, self._together.rank, number, which])
            for_network, for_views = noise.generate_state(2).tolist()
            torch.manual_seed(for_network)  # global, as dropout takes no generator
            rng = torch.Generator().manual_seed(for_views)
            for name, value in self._add_gradients(batch, rng, progress, share=1 / len(batches)).items():
                parts[name] = parts.get(name, 0.0) + value / len(batches)
        self._together.average_gradients(self.method.parameters())
        self.method.after_backward(epoch=int(epoch))
        norm = self._clip()
        # The norm is the same on all workers, a loss of their own is not.
        if math.isfinite(norm):
            self.optimiser.step()
            self.method.after_step(progress)
        first = self.optimiser.param_groups[0]
        return {
            **parts,
            "learning_rate": first["lr"],
            "weight_decay": first["weight_decay"],
            "gradient_norm": norm,
        }

    def views(self, batch: CropBatch, rng: torch.Generator, *, progress: float = 1.0) -> list[torch.Tensor]:
        """Views of a batch as the method has them."""
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
        """The parts of one batch's loss; this share of its gradients is added to what there is."""
        views = self.views(batch, rng, progress=progress)
        label = torch.from_numpy(batch.label).to(self._device)
        half = self._half or torch.bfloat16
        with torch.autocast(self._device.type, dtype=half, enabled=self._half is not None):
            found = self.method.loss(views, label, progress=progress)
        (found.loss * share).backward()
        return {"loss": float(found.loss.detach()), **found.parts}

    def _clip(self) -> float:
        """The length of all gradients together, before they are cut to the longest allowed."""
        learned = [p for p in self.method.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in learned if p.grad is not None])
        if self._config.schedule.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(learned, self._config.schedule.clip, norm)
        return float(norm)


def _make_optimiser(config: TrainConfig, method: Method) -> torch.optim.Optimizer:
    factors = method.rate_factors()
    learning = [p for p in method.parameters() if p.requires_grad and p not in factors]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learning if p.ndim > 1], "decays": True},
        {"params": [p for p in learning if p.ndim <= 1], "decays": False},
        *({"params": [p], "decays": False, "rate_factor": factor} for p, factor in factors.items()),
    ]
    schedule = config.schedule
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=schedule.learning_rate, momentum=schedule.momentum)
    kind = torch.optim.AdamW if schedule.optimiser == "adamw" else torch.optim.Adam
    return kind(groups, lr=schedule.learning_rate)
