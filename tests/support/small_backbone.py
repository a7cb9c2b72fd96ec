"""A backbone file with a vision transformer of one layer, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.small_run import CROP_PX

ARCHITECTURE: dict[str, Any] = {"img_size": 32, "patch_size": 16, "depth": 1}


def write_backbone(path: Path, *, seed: int = 0) -> Path:
    """Write an untrained network of 192 dimensions for crops of the small run."""
    import timm
    import torch

    from fossilray.models.backbones.backbone_file import BackboneMeta, save_backbone
    from fossilray.models.backbones.embedder import IMAGENET_MEAN, IMAGENET_STD

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **ARCHITECTURE)
    meta = BackboneMeta(
        name=path.stem,
        architecture="vit_tiny_patch16_224",
        kwargs=ARCHITECTURE,
        dimension=192,
        input_px=CROP_PX,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        interpolation="bicubic",
    )
    save_backbone(path, state_dict=network.state_dict(), meta=meta)
    return path
