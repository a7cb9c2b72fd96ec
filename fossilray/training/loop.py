"""The training loop of one worker, from the table of crops to the finished backbone file."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fossilray.core.config.training import TrainConfig
from fossilray.core.errors import TrainingDiverged
from fossilray.models.backbones.embedder import BackboneEmbedder
from fossilray.training.checkpoint import (
    Position,
    latest_checkpoint,
    load_checkpoint,
    restore_method,
    restore_optimiser,
    save_checkpoint,
)
from fossilray.training.crops.stream import CropBatch
from fossilray.training.crops.table import CropTable
from fossilray.training.data import DataSplit, count_labels, make_batches, split_table
from fossilray.training.distributed import DistributedGroup
from fossilray.training.export import (
    ProbeCrops,
    interpolate_weights,
    write_backbone,
    write_classifier,
    write_dino_checkpoint,
)
from fossilray.training.initial_weights import start_backbone
from fossilray.training.log import SpeedMeter, TrainingLog
from fossilray.training.methods import build_method
from fossilray.training.methods.views import stored_px
from fossilray.training.probes import probe_vectors
from fossilray.training.report import write_training_report
from fossilray.training.step import TrainingStep
from fossilray.training.whitening import append_whitening, collect_views, fit_whitening

_CROPS_SHOWN = 8
"""Crops on the page, and views of each."""


@dataclass(frozen=True)
class TrainingProgress:
    """Reported after every logged step, probe and checkpoint."""

    share: float
    """Share of the training that is done, 0..1."""
    step: int
    epoch: int
    metrics: Mapping[str, float]
    """Metrics of this step, or of this probe."""
    checkpoint: Path | None = None
    """The checkpoint that was just written."""


@dataclass(frozen=True)
class LoopResult:
    """The result of one call of `run`."""

    finished: bool
    """False if the training was stopped; it can be resumed from `checkpoint`."""
    position: Position
    loss: float
    """Mean loss of the last 50 steps."""
    checkpoint: Path
    backbone: Path | None
    """The finished file; None on workers other than the first, and before the end."""
    failed_crops: int
    """Crops that this worker could not decode and replaced by others of the batch."""
    probe: Mapping[str, float] = field(default_factory=dict)


class TrainingLoop:
    """A training that can be stopped after any step and resumed.

    With several workers, each runs a loop in a process where torch.distributed is initialised. Only the first worker
    (rank 0) writes: metrics.csv, probes.csv, tensorboard/ and checkpoints/ during the training, backbone.safetensors,
    checkpoint_dino.pth and training.html at its end.
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

        Args:
            config: Configuration of the training.
            table: The crops.
            rank: Number of this worker.
            world: Number of workers.
            device: Device of this worker.
            folder: Output folder.
            report: Called after every logged step, probe and checkpoint.

        Raises:
            UsageError: The crops do not suit the method.
            WeightsError: The network is unknown, or the initial weights are those of another one.
        """
        self._config, self._folder, self._report = config, folder, report
        self._group = DistributedGroup(rank, world, torch.device(device))
        self._data: DataSplit = split_table(table, config)
        # Global, as neither timm nor dropout accepts a generator.
        torch.manual_seed(config.seed)
        self._backbone = start_backbone(config)
        self._initial_weights = {name: t.clone() for name, t in self._backbone.network.state_dict().items()}
        preprocessing = self._backbone.preprocessing
        method = build_method(
            config,
            backbone=self._backbone.network,
            dimension=self._backbone.dimension,
            classes=len(self._data.training.classes),
            mean=preprocessing.mean,
            std=preprocessing.std,
            counts=count_labels(self._data.training),
        )
        self._step = TrainingStep(config, method, self._group)
        self._batches = make_batches(
            self._data.training, config, side_px=stored_px(config.input_px), rank=rank, world=world
        )
        self._probe_crops = (
            ProbeCrops.fetch(self._data.probe, self._data.training, config) if rank == 0 else None
        )
        self._stop_requested = False
        self._position = Position()
        self._last_losses: list[float] = []

    def request_stop(self) -> None:
        """Finish the current step, write a checkpoint and return from `run`. Safe in a signal handler."""
        self._stop_requested = True

    def run(self, resume_from: Path | None = None) -> LoopResult:
        """Train until the end or until `request_stop`.

        Args:
            resume_from: A checkpoint; None starts from the initial weights and overwrites the folder's files.

        Raises:
            TrainingDiverged: The loss or a gradient is not finite; the message names the latest checkpoint.
            UsageError: The checkpoint is of a training with other settings.
            WeightsError: The checkpoint is damaged or of another network.
            StoreError: Crops cannot be read.
        """
        if resume_from is not None:
            self._resume(resume_from)
        self._step.method.train()
        log = TrainingLog(self._folder, after_step=self._position.step) if self._is_first else None
        try:
            finished = self._train(log)
        finally:
            if log is not None:
                log.close()
        checkpoint, failed = self._save(), len(self._batches.failed_rows)
        if not (finished and self._is_first):
            return LoopResult(finished, self._position, self._mean_loss(), checkpoint, None, failed)
        return self._finish(checkpoint, failed)

    @property
    def _is_first(self) -> bool:
        return self._group.rank == 0

    def _train(self, log: TrainingLog | None) -> bool:
        """Return True at the end of the training, False if it was stopped."""
        config = self._config
        started_s = saved_s = time.monotonic()
        before_s = self._position.seconds
        speed = SpeedMeter()
        while True:
            epoch = self._position.epoch
            batches = self._batches.epoch(epoch, start=self._position.batch)
            while True:
                now = time.monotonic()
                self._position = replace(self._position, seconds=before_s + now - started_s)
                share, stop, save = self._synchronise(now - saved_s)
                if share >= 1 or stop:
                    return share >= 1
                if save:
                    self._report_progress(share, {}, self._save())
                    saved_s = time.monotonic()
                with speed.measured():
                    # Read after the check, so that a training at its end does not start another epoch.
                    accumulated = list(islice(batches, config.accumulate))
                    if not accumulated:
                        break
                    metrics = self._take_step(accumulated, share)
                    speed.images += sum(len(batch.row) for batch in accumulated) * self._group.world
                if self._position.step % config.log_every == 0:
                    metrics["images_s"] = speed.take()
                    if log is not None:
                        log.step(self._position, share, metrics)
                    self._report_progress(share, metrics)
            self._position = replace(self._position, epoch=epoch + 1, batch=0)
            if log is not None and (epoch + 1) % config.probe.every_epochs == 0:
                figures = self._probe(self._embed_probe(self._step.method.backbone_for_export()))
                log.probe(self._position, figures)
                self._report_progress(self._share(), figures)

    def _take_step(self, batches: list[CropBatch], share: float) -> dict[str, float]:
        position = self._position
        epoch = position.epoch + position.batch / self._batches.batches_per_epoch
        metrics = self._step.step(batches, number=position.step, epoch=epoch, progress=share)
        if not math.isfinite(metrics["gradient_norm"]):
            raise self._diverged(metrics)
        self._position = replace(position, step=position.step + 1, batch=position.batch + len(batches))
        self._last_losses = [*self._last_losses[-49:], metrics["loss"]]
        return metrics

    def _synchronise(self, since_saved_s: float) -> tuple[float, bool, bool]:
        """Return the share done, whether to stop and whether to save: the maximum over workers."""
        save_due = since_saved_s > 60 * self._config.checkpoint_minutes
        share, stop, save = self._group.all_max([self._share(), self._stop_requested, save_due])
        return share, bool(stop), bool(save)

    def _share(self) -> float:
        config, position = self._config, self._position
        if config.steps is not None:
            return position.step / config.steps
        if config.minutes is not None:
            return position.seconds / (60 * config.minutes)
        assert config.epochs is not None, "the configuration requires one of the three"
        return (position.epoch + position.batch / self._batches.batches_per_epoch) / config.epochs

    def _embed_probe(self, network: torch.nn.Module) -> NDArray[np.float16]:
        assert self._probe_crops is not None
        embedder = BackboneEmbedder(
            copy.deepcopy(network),
            name="probe",
            preprocessing=replace(self._backbone.preprocessing, size_px=self._config.seen_px),
            device=self._group.device,
            batch=64,
        )
        return embedder.embed(self._probe_crops.pixels)

    def _probe(self, vectors: NDArray[np.float16]) -> dict[str, float]:
        assert self._probe_crops is not None
        return probe_vectors(vectors, self._probe_crops.label, neighbours=self._config.probe.neighbours)

    def _save(self) -> Path:
        folder = self._folder / "checkpoints"
        if not self._is_first:
            return folder
        return save_checkpoint(
            folder,
            config=self._config,
            position=self._position,
            world=self._group.world,
            method=self._step.method.state_dict(),
            optimiser=self._step.optimiser.state_dict(),
            kept=self._config.kept_checkpoints,
        )

    def _resume(self, path: Path) -> None:
        checkpoint = load_checkpoint(path, self._config)
        restore_method(self._step.method, checkpoint)
        restore_optimiser(self._step.optimiser, checkpoint)
        position = checkpoint.position
        # If the number of workers changed, keep the share of the epoch that is done.
        self._position = replace(position, batch=position.batch * checkpoint.world // self._group.world)

    def _finish(self, checkpoint: Path, failed: int) -> LoopResult:
        network = copy.deepcopy(self._step.method.backbone_for_export()).eval()
        interpolate_weights(network, self._initial_weights, share=self._config.kept_start)
        name = self._config.name or f"{self._config.method}-{self._backbone.architecture.name}"
        meta = self._backbone.meta(name=name, input_px=self._config.seen_px)
        write_dino_checkpoint(self._folder, network, epoch=self._position.epoch)
        if self._config.whiten.dimension is not None:
            self._whiten(network, self._config.whiten.dimension)
            dimension = self._config.whiten.dimension
            meta = meta.model_copy(
                update={"dimension": dimension, "kwargs": {**meta.kwargs, "num_classes": dimension}}
            )
        written = write_backbone(self._folder, network, meta)
        classifier = self._step.method.classifier()
        if classifier is not None and self._config.whiten.dimension is None:
            write_classifier(self._folder, classifier, self._data.training, backbone=written, name=name)
        assert self._probe_crops is not None
        vectors = self._embed_probe(network)
        batch = next(self._batches.epoch(0))
        write_training_report(
            self._folder,
            self._config,
            name=name,
            failed=failed,
            probe=self._probe_crops,
            vectors=vectors,
            shown=batch.pixels[:_CROPS_SHOWN],
            views=self._example_views(batch),
        )
        return LoopResult(
            True, self._position, self._mean_loss(), checkpoint, written, failed, self._probe(vectors)
        )

    def _whiten(self, network: torch.nn.Module, dimension: int) -> None:
        config = self._config.whiten
        vectors = collect_views(
            network,
            self._batches.epoch(self._position.epoch),
            self._step.views,
            self._step.method.embed,
            config=config,
            seed=self._config.seed,
        )
        append_whitening(network, fit_whitening(vectors, dimension=dimension, shrinkage=config.shrinkage))

    def _example_views(self, batch: CropBatch) -> list[torch.Tensor]:
        examples = CropBatch(
            batch.pixels[:_CROPS_SHOWN],
            batch.shape[:_CROPS_SHOWN],
            batch.row[:_CROPS_SHOWN],
            batch.label[:_CROPS_SHOWN],
        )
        rng = torch.Generator().manual_seed(self._config.seed)
        views: list[torch.Tensor] = []
        while len(views) < _CROPS_SHOWN:
            views += self._step.views(examples, rng)
        return views

    def _report_progress(
        self, share: float, metrics: Mapping[str, float], checkpoint: Path | None = None
    ) -> None:
        position = self._position
        self._report(TrainingProgress(min(share, 1.0), position.step, position.epoch, metrics, checkpoint))

    def _mean_loss(self) -> float:
        return float(np.mean(self._last_losses)) if self._last_losses else math.nan

    def _diverged(self, metrics: Mapping[str, float]) -> TrainingDiverged:
        last = latest_checkpoint(self._folder / "checkpoints")
        checkpoint = f"the latest checkpoint is {last}" if last else "there is no checkpoint yet"
        return TrainingDiverged(
            f"step {self._position.step}: the loss is {metrics['loss']:.4g} and its gradient norm "
            f"{metrics['gradient_norm']:.4g}, expected finite numbers; {checkpoint}; resume with a lower "
            "schedule.learning_rate, or set schedule.clip"
        )
