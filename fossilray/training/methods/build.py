"""Build the training method that a configuration names."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fossilray.core.config.training import TrainConfig
from fossilray.models.backbones.embedder import IMAGENET_MEAN, IMAGENET_STD
from fossilray.training.methods.base import MethodModule
from fossilray.training.methods.dino import Dino
from fossilray.training.methods.metric import MetricLearning
from fossilray.training.methods.siamese import Byol, SimSiam
from fossilray.training.methods.simclr import SimClr
from fossilray.training.methods.supcon import SupCon
from fossilray.training.methods.transfer import Transfer

_Colour = tuple[float, float, float]

_METHODS: dict[str, type[MethodModule]] = {
    "supcon": SupCon,
    "metric": MetricLearning,
    "transfer": Transfer,
    "simclr": SimClr,
    "dino": Dino,
    "byol": Byol,
    "simsiam": SimSiam,
}


def build_method(
    config: TrainConfig,
    *,
    backbone: torch.nn.Module,
    dimension: int,
    classes: int,
    mean: _Colour = IMAGENET_MEAN,
    std: _Colour = IMAGENET_STD,
    counts: Sequence[int] | None = None,
) -> MethodModule:
    """Build the method of `config.method`; its new layers are initialised from torch's global generator.

    Args:
        config: Configuration of the training.
        backbone: The network to train.
        dimension: Length of its vectors.
        classes: Number of classes.
        mean: Mean of RGB in 0..1 by which the backbone's input is normalised.
        std: Standard deviation likewise.
        counts: Training crops of each class.
    """
    return _METHODS[config.method](
        config, backbone=backbone, dimension=dimension, classes=classes, mean=mean, std=std, counts=counts
    )
