"""One worker's training of a backbone, from the table of crops to the finished file."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from fossilray.training.log import TrainingLog
from fossilray.training.methods import build_method
from fossilray.training.methods.views import stored_px
from fossilray.training.probes import probe_vectors
from fossilray.training.report import write_training_report
from fossilray.training.step import TrainingStep
from fossilray.training.whitening import append_whitening, collect_views, fit_whitening

_SHOWN = 8
"""Crops, and views of each, on the page."""


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
class LoopResult:
    """What a call of `run` came to."""

    finished: bool
    """False where it was asked to stop before its end; the same call goes on from `checkpoint`."""
    position: Position
    loss: float
    """Mean of the last steps."""
    checkpoint: Path
    backbone: Path | None
    """The finished file; None on other workers than the first, or before the end."""
    failed_crops: int
    """Crops that this worker could not decode; others stood in for them."""
    probe: Mapping[str, float] = field(default_factory=dict)


class TrainingLoop:
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
        self._together = DistributedGroup(rank, world, torch.device(device))
        self._parted: DataSplit = split_table(table, config)
        # Global, as neither timm nor dropout takes a generator.
        torch.manual_seed(config.seed)
        self._backbone = start_backbone(config)
        self._start = {name: t.clone() for name, t in self._backbone.network.state_dict().items()}
        shown = self._backbone.preprocessing
        method = build_method(
            config,
            backbone=self._backbone.network,
            dimension=self._backbone.dimension,
            classes=len(self._parted.training.classes),
            mean=shown.mean,
            std=shown.std,
            counts=count_labels(self._parted.training),
        )
        self._learner = TrainingStep(config, method, self._together)
        self._batches = make_batches(
            self._parted.training, config, side_px=stored_px(config.input_px), rank=rank, world=world
        )
        self._probe_crops = (
            ProbeCrops.fetch(self._parted.probe, self._parted.training, config) if rank == 0 else None
        )
        self._asked_to_stop = False
        self._position = Position()
        self._last_losses: list[float] = []

    def ask_to_stop(self) -> None:
        """After the step in work write a checkpoint and return; safe in a signal handler."""
        self._asked_to_stop = True

    def run(self, resume_from: Path | None = None) -> LoopResult:
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
        self._learner.method.train()
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
        return self._together.rank == 0

    def _train(self, log: TrainingLog | None) -> bool:
        """True at the end, False where it was asked to stop."""
        config = self._config
        begun_s = saved_s = time.monotonic()
        before_s = self._position.seconds
        speed = _Speed()
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
                with speed.measured():
                    # Read only now: a training at its end does not begin another epoch.
                    some = list(islice(batches, config.accumulate))
                    if not some:
                        break
                    metrics = self._step(some, share)
                    speed.images += sum(len(batch.row) for batch in some) * self._together.world
                if self._position.step % config.log_every == 0:
                    metrics["images_s"] = speed.take()
                    if log is not None:
                        log.step(self._position, share, metrics)
                    self._tell(share, metrics)
            self._position = replace(self._position, epoch=epoch + 1, batch=0)
            if log is not None and (epoch + 1) % config.probe.every_epochs == 0:
                figures = self._judge(self._embed_probe(self._learner.method.backbone_for_export()))
                log.probe(self._position, figures)
                self._tell(self._share(), figures)

    def _step(self, batches: list[CropBatch], share: float) -> dict[str, float]:
        at = self._position
        epoch = at.epoch + at.batch / self._batches.batches_per_epoch
        metrics = self._learner.step(batches, number=at.step, epoch=epoch, progress=share)
        if not math.isfinite(metrics["gradient_norm"]):
            raise self._diverged(metrics)
        self._position = replace(at, step=at.step + 1, batch=at.batch + len(batches))
        self._last_losses = [*self._last_losses[-49:], metrics["loss"]]
        return metrics

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

    def _embed_probe(self, network: torch.nn.Module) -> NDArray[np.float16]:
        assert self._probe_crops is not None
        embedder = BackboneEmbedder(
            copy.deepcopy(network),
            name="probed",
            preprocessing=replace(self._backbone.preprocessing, size_px=self._config.seen_px),
            device=self._together.device,
            batch=64,
        )
        return embedder.embed(self._probe_crops.pixels)

    def _judge(self, vectors: NDArray[np.float16]) -> dict[str, float]:
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
            world=self._together.world,
            method=self._learner.method.state_dict(),
            optimiser=self._learner.optimiser.state_dict(),
            kept=self._config.kept_checkpoints,
        )

    def _resume(self, path: Path) -> None:
        checkpoint = load_checkpoint(path, self._config)
        restore_method(self._learner.method, checkpoint)
        restore_optimiser(self._learner.optimiser, checkpoint)
        at = checkpoint.position
        # With other workers than before, the same share of the epoch is behind them.
        self._position = replace(at, batch=at.batch * checkpoint.world // self._together.world)

    def _finish(self, checkpoint: Path, failed: int) -> LoopResult:
        network = copy.deepcopy(self._learner.method.backbone_for_export()).eval()
        interpolate_weights(network, self._start, share=self._config.kept_start)
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
        classifier = self._learner.method.classifier()
        if classifier is not None and self._config.whiten.dimension is None:
            write_classifier(self._folder, classifier, self._parted.training, backbone=written, name=name)
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
            shown=batch.pixels[:_SHOWN],
            views=self._some_views(batch),
        )
        return LoopResult(
            True, self._position, self._mean_loss(), checkpoint, written, failed, self._judge(vectors)
        )

    def _whiten(self, network: torch.nn.Module, dimension: int) -> None:
        config = self._config.whiten
        vectors = collect_views(
            network,
            self._batches.epoch(self._position.epoch),
            self._learner.views,
            self._learner.method.embed,
            config=config,
            seed=self._config.seed,
        )
        append_whitening(network, fit_whitening(vectors, dimension=dimension, shrinkage=config.shrinkage))

    def _some_views(self, batch: CropBatch) -> list[torch.Tensor]:
        some = CropBatch(
            batch.pixels[:_SHOWN], batch.shape[:_SHOWN], batch.row[:_SHOWN], batch.label[:_SHOWN]
        )
        rng = torch.Generator().manual_seed(self._config.seed)
        views: list[torch.Tensor] = []
        while len(views) < _SHOWN:
            views += self._learner.views(some, rng)
        return views

    def _tell(self, share: float, metrics: Mapping[str, float], checkpoint: Path | None = None) -> None:
        at = self._position
        self._report(TrainingProgress(min(share, 1.0), at.step, at.epoch, metrics, checkpoint))

    def _mean_loss(self) -> float:
        return float(np.mean(self._last_losses)) if self._last_losses else math.nan

    def _diverged(self, metrics: Mapping[str, float]) -> TrainingDiverged:
        last = latest_checkpoint(self._folder / "checkpoints")
        told = f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"
        return TrainingDiverged(
            f"step {self._position.step}: the loss is {metrics['loss']:.4g} and its gradient "
            f"{metrics['gradient_norm']:.4g} long, no numbers to learn from; {told}; go on from it with a lower "
            "schedule.learning_rate, or set schedule.clip"
        )


class _Speed:
    """Images a second, counting the time of steps alone."""

    def __init__(self) -> None:
        self.images, self._seconds = 0, 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        begun_s = time.monotonic()
        yield
        self._seconds += time.monotonic() - begun_s

    def take(self) -> float:
        """The speed since it was last taken."""
        speed = self.images / max(self._seconds, 1e-9)
        self.images, self._seconds = 0, 0.0
        return speed
