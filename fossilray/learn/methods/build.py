"""The method that a configuration names, around a backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fossilray.config.training import TrainConfig
from fossilray.embed.network import IMAGENET_MEAN, IMAGENET_STD
from fossilray.learn.methods.base import Method
from fossilray.learn.methods.dino import Dino
from fossilray.learn.methods.metric import Metric
from fossilray.learn.methods.siamese import Byol, SimSiam
from fossilray.learn.methods.simclr import SimClr
from fossilray.learn.methods.supcon import SupCon
from fossilray.learn.methods.transfer import Transfer

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
