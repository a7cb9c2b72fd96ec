"""The method that a configuration names, around a backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fossilray.core.config.training import TrainConfig
from fossilray.models.backbones.embedder import IMAGENET_MEAN, IMAGENET_STD
from fossilray.training.methods.base import Method
from fossilray.training.methods.dino import Dino
from fossilray.training.methods.metric import Metric
from fossilray.training.methods.siamese import Byol, SimSiam
from fossilray.training.methods.simclr import SimClr
from fossilray.training.methods.supcon import SupCon
from fossilray.training.methods.transfer import Transfer

Colour = tuple[float, float, float]

_METHODS: dict[str, type[Method]] = {
    "supcon": SupCon,
    "metric": Metric,
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
    mean: Colour = IMAGENET_MEAN,
    std: Colour = IMAGENET_STD,
    counts: Sequence[int] | None = None,
) -> Method:
    """The method of `config.method`; its new parts are drawn from torch's global generator.

    dimension: length of the backbone's vectors. mean, std: of RGB in 0..1, as the backbone wants to see it. counts:
    crops of each class.
    """
    method = _METHODS[config.method]
    return method(
        config, backbone=backbone, dimension=dimension, classes=classes, mean=mean, std=std, counts=counts
    )
