"""A detection network of a few thousand weights, for tests."""

from typing import Any

import torch

from fossilray.models.detectors.detector_file import DetectorMeta
from fossilray.models.detectors.ultralytics_network import quiet_ultralytics

SMALL: dict[str, Any] = {
    "nc": 2,
    "backbone": [
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C2f", [16, True]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "SPPF", [32, 5]],
    ],
    "head": [[[3, 5], 1, "Detect", ["nc"]]],
}


def build(architecture: dict[str, Any], *, nc: int = 2) -> Any:
    """A network whose random weights give many boxes of all scores."""
    quiet_ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = DetectionModel(dict(architecture), ch=3, nc=nc, verbose=False).eval()
        for name, layer in network.named_modules():
            if isinstance(layer, torch.nn.Conv2d) and "dfl" not in name:
                torch.nn.init.kaiming_normal_(layer.weight)
        head = network.model[-1]
        for branch in [*head.cv3, *getattr(head, "one2one_cv3", [])]:
            torch.nn.init.constant_(branch[-1].bias, -1.0)
    return network


def meta(architecture: dict[str, Any] = SMALL, *, nc: int = 2, invert: bool = True) -> DetectorMeta:
    names = tuple(f"class {index}" for index in range(nc))
    return DetectorMeta(
        architecture=architecture,
        nc=nc,
        names=names,
        stride=16,
        invert=invert,
        um_per_px=(1.0,),
        smallest_um=5.0,
    )
