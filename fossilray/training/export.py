"""What a finished training leaves: the backbone, the same in DINO's layout, and crops to judge it by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fossilray.core.config.training import TrainConfig
from fossilray.core.whole_files import whole_file
from fossilray.models.backbones.backbone_file import BackboneMeta, save_backbone
from fossilray.models.heads.head import BackboneReference, Head, HeadMeta
from fossilray.models.heads.head_file import save_head
from fossilray.training.crops.table import CropTable

BACKBONE, DINO_CHECKPOINT, HEAD = "backbone.safetensors", "checkpoint_dino.pth", "head.safetensors"
_PROBE_PX = 224
"""Side that crops of a run are stored at, from which the embedder makes what it sees."""


@dataclass(frozen=True)
class ProbeCrops:
    """Crops that a backbone is judged by; they stay in memory."""

    pixels: NDArray[np.uint8]
    label: NDArray[np.int64]
    classes: tuple[str, ...]
    unseen: bool
    """Whether none of them was trained on."""

    @staticmethod
    def fetch(probe: CropTable | None, training: CropTable, config: TrainConfig) -> ProbeCrops:
        """At most `probe.crops` of the crops kept apart; without any, of those that are trained on."""
        table = training if probe is None else probe
        rows = np.arange(len(table))
        if len(rows) > config.probe.crops:
            rng = np.random.default_rng(config.seed)
            rows = np.sort(rng.choice(rows, size=config.probe.crops, replace=False))
        found = table.fetch(rows, side_px=_PROBE_PX, threads=config.data.threads)
        whole = ~found.failed
        return ProbeCrops(found.pixels[whole], table.label[rows][whole], table.classes, probe is not None)


def interpolate_weights(network: torch.nn.Module, start: Mapping[str, torch.Tensor], *, share: float) -> None:
    """Change the weights to this share of those it started with and the rest of its own (Wortsman et al. 2022)."""
    if not share:
        return
    for name, own in network.state_dict().items():
        if own.is_floating_point():
            own.lerp_(start[name].to(own.device), share)


def write_backbone(folder: Path, network: torch.nn.Module, meta: BackboneMeta) -> Path:
    """backbone.safetensors, which `embedder.weights=file:…` takes."""
    path = folder / BACKBONE
    save_backbone(path, state_dict=network.state_dict(), meta=meta)
    return path


def write_classifier(
    folder: Path, classifier: torch.nn.Linear, training: CropTable, *, backbone: Path, name: str
) -> Path:
    """head.safetensors: the classes that the training learned to tell, a head that `classify run` takes."""
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
    """checkpoint_dino.pth, with the keys of DINO's own checkpoints (Caron et al. 2021, published code)."""
    state = {f"module.backbone.{name}": t.detach().cpu() for name, t in network.state_dict().items()}
    with whole_file(folder / DINO_CHECKPOINT) as sink:
        torch.save({"teacher": state, "student": state, "epoch": epoch}, sink)
