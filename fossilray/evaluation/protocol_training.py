"""Trainings that a protocol begins itself, one for each of its repetitions, on that repetition's crops alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import EmbedderConfig, TrainConfig, load_train_config
from fossilray.core.errors import UsageError
from fossilray.labels.load import LabelledSet
from fossilray.models.backbones.load import bundled_path, embedder_digest, load_embedder, weights_setting_of
from fossilray.models.heads import Head, load_head
from fossilray.models.heads.head import BackboneReference
from fossilray.store.files.claims import hold_place
from fossilray.store.files.local import LocalFiles
from fossilray.training.checkpoint import remove_checkpoints
from fossilray.training.crops.in_memory import table_from_crops
from fossilray.training.export import HEAD
from fossilray.training.output_folder import CHECKPOINTS


@dataclass(frozen=True)
class ProtocolModel:
    """What one training made of the labelled crops, all of them."""

    vectors: NDArray[np.float16]
    backbone: BackboneReference
    head: Head | None
    """Of a transfer: what tells the classes that were trained on."""


def training_from(
    backbone: str, *, method: str, path: Path | None, assignments: list[str], input_px: int | None = None
) -> TrainConfig:
    """A training's configuration that starts from what `--backbone` names.

    Raises:
        UsageError: what it names has no weights and no network.
        ConfigError: the file or an assignment is not one that fossilray knows.
    """
    if backbone in {"handcrafted", "run"}:
        raise UsageError(
            f"--train teaches a network, and --backbone {backbone} is none; name one to start from"
        )
    given = [f"method={method}"]
    if backbone.startswith("random:"):
        given.append(f"arch={backbone.removeprefix('random:')}")
        if backbone == "random:bundled":
            raise UsageError(
                "--train starts random:NAME from timm's networks; give random:resnet18 or the like"
            )
        if method == "transfer":
            given.append("transfer.layers=all")
    else:
        weights = weights_setting_of(backbone)
        given.append(f"init={f'file:{bundled_path()}' if weights == 'bundled' else weights}")
    if input_px is not None:
        given.append(f"input_px={input_px}")
    return load_train_config(path, [*given, *assignments])


class ProtocolTraining:
    """Trains on some rows of a labelled set, always from the same start, and describes every crop of it."""

    def __init__(self, labelled: LabelledSet, config: TrainConfig, *, folder: Path) -> None:
        """folder: each training gets one of its name below it, and what was there is begun anew."""
        self._labelled, self._config, self._folder = labelled, config, folder

    @property
    def config(self) -> TrainConfig:
        return self._config

    def __call__(self, rows: NDArray[np.int64], *, name: str) -> ProtocolModel:
        """Train on these rows.

        Raises:
            UsageError: they are of one class.
            WeightsError: the weights to start from cannot be had.
        """
        import torch

        from fossilray.training.local import choose_device
        from fossilray.training.loop import TrainingLoop

        device = choose_device(self._config)
        if self._config.torch_threads is not None:
            torch.set_num_threads(self._config.torch_threads)
        folder = self._folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder} cannot be made ({error.strerror}); choose another --out") from None
        with hold_place(LocalFiles(folder, single_writer=True), "training"):
            result = TrainingLoop(
                self._config, table_from_crops(self._labelled.crops, rows), device=device, folder=folder
            ).run()
        # Nobody goes on from them, and of a large network they are gigabytes.
        remove_checkpoints(folder / CHECKPOINTS)
        config = EmbedderConfig(weights=f"file:{result.backbone}")
        embedder = load_embedder(config, device=device)
        assert embedder is not None
        (digest,) = embedder_digest(config).values()
        return ProtocolModel(
            vectors=embedder.embed(self._labelled.crops.pixels),
            backbone=BackboneReference(name=embedder.name, sha256=digest),
            head=load_head(folder / HEAD) if (folder / HEAD).is_file() else None,
        )
