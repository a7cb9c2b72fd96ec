"""Export of a trained backbone and classifier, and the crops that probe a backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fossilray.core.atomic_files import atomic_file
from fossilray.core.config.training import TrainConfig
from fossilray.models.backbones.backbone_file import BackboneMeta, save_backbone
from fossilray.models.heads.head import BackboneReference, Head, HeadMeta
from fossilray.models.heads.head_file import save_head
from fossilray.training.crops.table import CropTable

BACKBONE, DINO_CHECKPOINT, HEAD = "backbone.safetensors", "checkpoint_dino.pth", "head.safetensors"
_PROBE_PX = 224
"""Side of the crops that a run stores; the embedder resizes them to its input."""


@dataclass(frozen=True)
class ProbeCrops:
    """Crops in memory by which a backbone is probed."""

    pixels: NDArray[np.uint8]
    label: NDArray[np.int64]
    classes: tuple[str, ...]
    unseen: bool
    """Whether the training excludes them."""

    @staticmethod
    def fetch(probe: CropTable | None, training: CropTable, config: TrainConfig) -> ProbeCrops:
        """Read at most `probe.crops` crops of `probe`, or of `training` if there are no probe crops."""
        table = training if probe is None else probe
        rows = np.arange(len(table))
        if len(rows) > config.probe.crops:
            rng = np.random.default_rng(config.seed)
            rows = np.sort(rng.choice(rows, size=config.probe.crops, replace=False))
        fetched = table.fetch(rows, side_px=_PROBE_PX, threads=config.data.threads)
        decoded = ~fetched.failed
        return ProbeCrops(
            fetched.pixels[decoded], table.label[rows][decoded], table.classes, probe is not None
        )


def interpolate_weights(network: torch.nn.Module, start: Mapping[str, torch.Tensor], *, share: float) -> None:
    """Interpolate a network's weights towards the initial ones in place (Wortsman et al. 2022).

    share: weight of the initial weights, 0..1.
    """
    if not share:
        return
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(start[name].to(tensor.device), share)


def write_backbone(folder: Path, network: torch.nn.Module, meta: BackboneMeta) -> Path:
    """Write backbone.safetensors, the file for `embedder.weights=file:…`; return its path."""
    path = folder / BACKBONE
    save_backbone(path, state_dict=network.state_dict(), meta=meta)
    return path


def write_classifier(
    folder: Path, classifier: torch.nn.Linear, training: CropTable, *, backbone: Path, name: str
) -> Path:
    """Write head.safetensors, the trained linear classifier as a head for `classify run`; return its path."""
    counts = np.bincount(training.label[training.label >= 0], minlength=len(training.classes))
    meta = HeadMeta(
        kind="linear",
        classes=training.classes,
        counts=tuple(counts.tolist()),
        dimension=classifier.in_features,
        scaler="none",
        backbone=BackboneReference(name=name, sha256=hashlib.sha256(backbone.read_bytes()).hexdigest()),
        settings={"trained": "with its backbone"},
    )
    numbers = {
        name: tensor.detach().cpu().float().numpy() for name, tensor in classifier.state_dict().items()
    }
    save_head(folder / HEAD, Head(meta, numbers))
    return folder / HEAD


def write_dino_checkpoint(folder: Path, network: torch.nn.Module, *, epoch: int) -> None:
    """Write checkpoint_dino.pth, with the keys of DINO's published checkpoints (Caron et al. 2021)."""
    state = {f"module.backbone.{name}": t.detach().cpu() for name, t in network.state_dict().items()}
    with atomic_file(folder / DINO_CHECKPOINT) as sink:
        torch.save({"teacher": state, "student": state, "epoch": epoch}, sink)
