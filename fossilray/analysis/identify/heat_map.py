"""Heat maps of identified objects: where in a crop the score of a class comes from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.explain.backbone import load_differentiable
from fossilray.analysis.explain.crops import CropsToExplain
from fossilray.analysis.explain.maps import Method, explain_targets
from fossilray.analysis.explain.selection import ExplanationTarget, class_number
from fossilray.analysis.explain.sheet import draw_heat
from fossilray.core.errors import UsageError
from fossilray.core.types import Image
from fossilray.models.heads import Head


class HeatMapper:
    """A backbone for gradients and a head."""

    def __init__(self, backbone: str, head: Head | None) -> None:
        """Load the backbone.

        Raises:
            UsageError: there is no head, it is of another backbone, or the network has no maps.
            WeightsError: the weights cannot be loaded.
        """
        if head is None:
            raise UsageError("there is no head whose score a heat map could explain; give --head")
        self._head = head
        self._network = load_differentiable(backbone, head)

    def draw(self, crop: NDArray[np.uint8], taxon: str) -> Image:
        """Return the map of a class over a crop (S, S, 3), the crop in grey beneath: Grad-CAM or attention.

        Raises:
            UsageError: the head lacks the class.
        """
        number = class_number(self._head.classes, taxon)
        method: Method = "grad-cam" if self._network.family == "convolutional" else "attention"
        crops = CropsToExplain(crop[None], np.ones((1, 2), np.float32), ("",))
        (explanation,) = explain_targets(
            self._network, self._head, crops, [ExplanationTarget(0, (number,), number)], (method,)
        )
        (map_,) = explanation.maps
        return draw_heat(map_, crop, float(map_.heat.max()))
