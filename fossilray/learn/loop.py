"""One worker's training of a backbone, from the table of crops to the finished file."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fossilray.config.training import TrainConfig
from fossilray.embed.network import BackboneEmbedder
from fossilray.errors import TrainingDiverged
from fossilray.learn.collective import Together
from fossilray.learn.crop_stream import CropBatch
from fossilray.learn.crop_table import CropTable
from fossilray.learn.methods import build_method
from fossilray.learn.methods.viewing import stored_px
from fossilray.learn.probes import probe_vectors
from fossilray.learn.schedules import learning_rate, weight_decay
from fossilray.learn.starting_weights import start_backbone
from fossilray.learn.training_checkpoint import (
    Position,
    latest_checkpoint,
    load_checkpoint,
    restore_method,
    save_checkpoint,
)
from fossilray.learn.training_data import Parted, make_batches, part_table
from fossilray.learn.training_log import TrainingLog
from fossilray.learn.training_result import ProbeCrops, write_backbone
from fossilray.precision import precision_on


@dataclass(frozen=True)
class TrainingProgress:
    """Told after every logged step, probe and checkpoint."""

    share: float
    """Of the training done, 0..1."""
    step: int
    epoch: int
    metrics: Mapping[str, float]
    """Of this step, or of this probe."""
    checkpoint: Path | None = None
    """Just written."""


@dataclass(frozen=True)
class Result:
    """What a call of `run` came to."""

    finished: bool
    """False where it was asked to stop before its end; the same call goes on from `checkpoint`."""
    position: Position
    loss: float
    """Mean of the last steps."""
    checkpoint: Path
    backbone: Path | None
    """The finished file; None on other workers than the first, or before the end."""
    probe: Mapping[str, float] = field(default_factory=dict)


class Loop:
    """A training that can be stopped at any step and gone on with.

    With several workers each runs a Loop of its own in a process where torch.distributed is initialised; the first
    (rank 0) alone writes: metrics.csv, probes.csv, tensorboard/, checkpoints/, and in the end backbone.safetensors,
    checkpoint_dino.pth and training.html.
    """

    def __init__(
        self,
        config: TrainConfig,
        table: CropTable,
        *,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        folder: Path,
        report: Callable[[TrainingProgress], None] = lambda _: None,
    ) -> None:
        """Build the network and read the crops that stay in memory.

        Raises:
            UsageError: the crops do not serve the method.
            WeightsError: the network is unknown, or the weights to start from are of another.
        """
        self._config, self._folder, self._report = config, folder, report
        self._device = torch.device(device)
        self._together = Together(rank, world, self._device)
        self._parted: Parted = part_table(table, config)
        # Global, as neither timm nor dropout takes a generator.
        torch.manual_seed(config.seed)
        self._backbone = start_backbone(config)
        shown = self._backbone.preprocessing
        self._method = build_method(
            config,
            backbone=self._backbone.network,
            dimension=self._backbone.dimension,
            classes=len(self._parted.training.classes),
            mean=shown.mean,
            std=shown.std,
        ).to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._method.gather = self._together.gather
        self._optimiser = _make_optimiser(config, self._method)
        self._batches = make_batches(
            self._parted.training, config, side_px=stored_px(config.input_px), rank=rank, world=world
        )
        self._probe_crops = (
            ProbeCrops.fetch(self._parted.probe, self._parted.training, config) if rank == 0 else None
        )
        dtype = precision_on(self._device, config.precision)
        # float16 would need its losses scaled; where bfloat16 is not native, float32 it is.
        self._half = dtype if dtype == torch.bfloat16 else None
        self._asked_to_stop = False
        self._position = Position()
        self._last_losses: list[float] = []

    def ask_to_stop(self) -> None:
        """After the step in work write a checkpoint and return; safe in a signal handler."""
        self._asked_to_stop = True

    def run(self, resume_from: Path | None = None) -> Result:
        """Train to the end.

        resume_from: a checkpoint; None begins anew, over what the folder holds.

        Raises:
            TrainingDiverged: the loss or a gradient is no number; names the last checkpoint.
            UsageError: the checkpoint is of a training with other settings.
            WeightsError: it is of another network, or damaged.
            StoreError: crops cannot be read.
        """
        if resume_from is not None:
            self._resume(resume_from)
        self._method.train()
        log = TrainingLog(self._folder, after_step=self._position.step) if self._is_first else None
        try:
            finished = self._train(log)
        finally:
            if log is not None:
                log.close()
        checkpoint = self._save()
        if not (finished and self._is_first):
            return Result(finished, self._position, self._mean_loss(), checkpoint, None)
        return self._finish(checkpoint)

    @property
    def _is_first(self) -> bool:
        return self._together.rank == 0

    def _train(self, log: TrainingLog | None) -> bool:
        """True at the end, False where it was asked to stop."""
        config = self._config
        begun_s = saved_s = time.monotonic()
        before_s = self._position.seconds
        images, timed_s = 0, begun_s
        while True:
            epoch = self._position.epoch
            batches = self._batches.epoch(epoch, start=self._position.batch)
            while True:
                now = time.monotonic()
                self._position = replace(self._position, seconds=before_s + now - begun_s)
                share, stop, save = self._agree(now - saved_s)
                if share >= 1 or stop:
                    return share >= 1
                if save:
                    self._tell(share, {}, self._save())
                    saved_s = time.monotonic()
                # Only now, as the first of an epoch may take its time.
                some = list(islice(batches, config.accumulate))
                if not some:
                    break
                metrics = self._step(some, share)
                images += sum(len(batch.row) for batch in some) * self._together.world
                at = self._position
                self._position = replace(at, step=at.step + 1, batch=at.batch + len(some))
                if self._position.step % config.log_every == 0:
                    now = time.monotonic()
                    metrics["images_s"] = images / max(now - timed_s, 1e-9)
                    images, timed_s = 0, now
                    if log is not None:
                        log.step(self._position, share, metrics)
                    self._tell(share, metrics)
            self._position = replace(self._position, epoch=epoch + 1, batch=0)
            if log is not None and (epoch + 1) % config.probe.every_epochs == 0:
                figures = self._probe()
                log.probe(self._position, figures)
                self._tell(self._share(), figures)

    def _step(self, batches: list[CropBatch], share: float) -> dict[str, float]:
        config, at = self._config, self._position
        epoch = at.epoch + at.batch / self._batches.batches_per_epoch
        rate = learning_rate(config.schedule, progress=share, epoch=epoch)
        decay = weight_decay(config.schedule, progress=share)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
            group["weight_decay"] = decay if group["decays"] else 0.0
        self._optimiser.zero_grad(set_to_none=True)
        parts: dict[str, float] = {}
        for number, batch in enumerate(batches):
            # Drawn from where the training stands, so that a resumed one draws the same.
            noise = np.random.SeedSequence([config.seed, self._together.rank, at.step, number])
            drawn = noise.generate_state(2, np.uint64)
            torch.manual_seed(int(drawn[0]))
            rng = torch.Generator().manual_seed(int(drawn[1] >> 1))
            found = self._loss(batch, rng, share)
            for name, value in found.items():
                parts[name] = parts.get(name, 0.0) + value / len(batches)
        self._together.average_gradients(self._method.parameters())
        self._method.after_backward(epoch=at.epoch)
        norm = self._clip()
        # The norm is the same on all workers, a loss of their own is not.
        if not math.isfinite(norm):
            raise self._diverged(parts, norm)
        self._optimiser.step()
        self._method.after_step(share)
        self._last_losses = [*self._last_losses[-49:], parts["loss"]]
        return {**parts, "learning_rate": rate, "weight_decay": decay, "gradient_norm": norm}

    def _loss(self, batch: CropBatch, rng: torch.Generator, share: float) -> dict[str, float]:
        """The parts of one batch's loss; its gradients are added to what there is."""
        pixels = torch.from_numpy(batch.pixels).to(self._device, non_blocking=True).permute(0, 3, 1, 2)
        shape = torch.from_numpy(batch.shape).to(self._device)
        label = torch.from_numpy(batch.label).to(self._device)
        views = self._method.views(pixels, shape, rng, progress=share)
        with torch.autocast(
            self._device.type, dtype=self._half or torch.bfloat16, enabled=self._half is not None
        ):
            found = self._method.loss(views, label, progress=share)
        (found.loss / self._config.accumulate).backward()
        return {"loss": float(found.loss.detach()), **found.parts}

    def _clip(self) -> float:
        """The length of all gradients together, before they are cut to the longest allowed."""
        parameters = [p for p in self._method.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self._config.schedule.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._config.schedule.clip, norm)
        return float(norm)

    def _agree(self, since_saved_s: float) -> tuple[float, bool, bool]:
        """Share done, whether to stop, whether to save: what holds for any worker holds for all."""
        due = since_saved_s > 60 * self._config.checkpoint_minutes
        share, stop, save = self._together.largest([self._share(), self._asked_to_stop, due])
        return share, bool(stop), bool(save)

    def _share(self) -> float:
        config, at = self._config, self._position
        if config.steps is not None:
            return at.step / config.steps
        if config.minutes is not None:
            return at.seconds / (60 * config.minutes)
        assert config.epochs is not None  # one of the three is given
        return (at.epoch + at.batch / self._batches.batches_per_epoch) / config.epochs

    def _probe(self) -> dict[str, float]:
        assert self._probe_crops is not None
        vectors = self._embedder().embed(self._probe_crops.pixels)
        return dict(probe_vectors(vectors, self._probe_crops.label, neighbours=self._config.probe.neighbours))

    def _embedder(self) -> BackboneEmbedder:
        network = self._method.backbone_for_export()
        shown = replace(self._backbone.preprocessing, size_px=self._config.seen_px)
        return BackboneEmbedder(
            copy.deepcopy(network), name="probed", preprocessing=shown, device=self._device, batch=64
        )

    def _save(self) -> Path:
        folder = self._folder / "checkpoints"
        if not self._is_first:
            return folder
        return save_checkpoint(
            folder,
            config=self._config,
            position=self._position,
            world=self._together.world,
            method=self._method.state_dict(),
            optimiser=self._optimiser.state_dict(),
            kept=self._config.kept_checkpoints,
        )

    def _resume(self, path: Path) -> None:
        checkpoint = load_checkpoint(path, self._config)
        restore_method(self._method, checkpoint)
        self._optimiser.load_state_dict(checkpoint.optimiser)
        at = checkpoint.position
        # With other workers than before, the same share of the epoch is behind them.
        self._position = replace(at, batch=at.batch * checkpoint.world // self._together.world)

    def _finish(self, checkpoint: Path) -> Result:
        network = self._method.backbone_for_export()
        name = self._config.name or f"{self._config.method}-{self._backbone.architecture.name}"
        meta = self._backbone.meta(name=name, input_px=self._config.seen_px)
        written = write_backbone(self._folder, network, meta, epoch=self._position.epoch)
        return Result(True, self._position, self._mean_loss(), checkpoint, written, self._probe())

    def _tell(self, share: float, metrics: Mapping[str, float], checkpoint: Path | None = None) -> None:
        at = self._position
        self._report(TrainingProgress(min(share, 1.0), at.step, at.epoch, metrics, checkpoint))

    def _mean_loss(self) -> float:
        return float(np.mean(self._last_losses)) if self._last_losses else math.nan

    def _diverged(self, parts: Mapping[str, float], norm: float) -> TrainingDiverged:
        last = latest_checkpoint(self._folder / "checkpoints")
        told = f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"
        return TrainingDiverged(
            f"step {self._position.step}: the loss is {parts['loss']:.4g} and its gradient {norm:.4g} long, no numbers "
            f"to learn from; {told}; go on from it with a lower schedule.learning_rate, or set schedule.clip"
        )


def _make_optimiser(config: TrainConfig, method: torch.nn.Module) -> torch.optim.Optimizer:
    learning = [p for p in method.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learning if p.ndim > 1], "decays": True},
        {"params": [p for p in learning if p.ndim <= 1], "decays": False},
    ]
    schedule = config.schedule
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=schedule.learning_rate, momentum=schedule.momentum)
    kind = torch.optim.AdamW if schedule.optimiser == "adamw" else torch.optim.Adam
    return kind(groups, lr=schedule.learning_rate)
