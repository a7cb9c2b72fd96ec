"""Trainings of a protocol: one for each repetition, on that repetition's training crops alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import EmbedderConfig, TrainConfig, load_train_config
from fossilray.core.errors import UsageError
from fossilray.labels.load import LabelledSet
from fossilray.models.backbones.load import embedder_digest, load_embedder, weights_setting_of
from fossilray.models.heads import Head, load_head
from fossilray.models.heads.head import BackboneReference
from fossilray.models.weights_file import bundled_weights
from fossilray.store.files.claims import hold_folder
from fossilray.store.files.local import LocalFiles
from fossilray.training.checkpoint import remove_checkpoints
from fossilray.training.crops.in_memory import table_from_crops
from fossilray.training.export import HEAD
from fossilray.training.output_folder import CHECKPOINTS


@dataclass(frozen=True)
class ProtocolModel:
    """A trained backbone with the vectors (n, d) of all labelled crops."""

    vectors: NDArray[np.float16]
    backbone: BackboneReference
    head: Head | None
    """Trained with the backbone by method transfer; None for other methods."""


def protocol_train_config(
    backbone: str, *, method: str, path: Path | None, assignments: list[str], input_px: int | None = None
) -> TrainConfig:
    """Return the configuration of a training that starts from `backbone`.

    Args:
        backbone: Value of `--backbone`: bundled, a weights file, timm:NAME or random:NAME.
        method: Training method.
        path: YAML file of training fields.
        assignments: Further fields as `field=value`.
        input_px: Side of the network's input; by default the backbone's.

    Raises:
        UsageError: `backbone` is not a network.
        ConfigError: The file or an assignment names an unknown field or an invalid value.
    """
    if backbone in {"handcrafted", "run"}:
        raise UsageError(
            f"--train trains a network and --backbone {backbone} is not one; name a network to start from"
        )
    start = [f"method={method}"]
    if backbone.startswith("random:"):
        start.append(f"arch={backbone.removeprefix('random:')}")
        if backbone == "random:bundled":
            raise UsageError(
                "--train starts random:NAME from timm's networks; give random:resnet18 or the like"
            )
        if method == "transfer":
            start.append("transfer.layers=all")
    else:
        weights = weights_setting_of(backbone)
        init = f"file:{bundled_weights('backbone')}" if weights == "bundled" else weights
        start.append(f"init={init}")
    if input_px is not None:
        start.append(f"input_px={input_px}")
    return load_train_config(path, [*start, *assignments])


class ProtocolTraining:
    """Trains on some rows of a labelled set, always from the same initial weights, and embeds all of its crops.

    Args:
        labelled: The labelled crops.
        config: Configuration of each training.
        folder: Parent of the trainings' folders; a folder that exists is overwritten.
    """

    def __init__(self, labelled: LabelledSet, config: TrainConfig, *, folder: Path) -> None:
        self._labelled, self._config, self._folder = labelled, config, folder

    @property
    def config(self) -> TrainConfig:
        return self._config

    def __call__(self, rows: NDArray[np.int64], *, name: str) -> ProtocolModel:
        """Train on these rows, in the folder `name`.

        Raises:
            UsageError: The rows are of one class, or the folder cannot be created.
            WeightsError: The initial weights cannot be loaded.
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
            raise UsageError(f"{folder} cannot be created ({error.strerror}); choose another --out") from None
        with hold_folder(LocalFiles(folder, single_writer=True), "training"):
            result = TrainingLoop(
                self._config, table_from_crops(self._labelled.crops, rows), device=device, folder=folder
            ).run()
        # These trainings are never resumed, and checkpoints of a large network take gigabytes.
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
