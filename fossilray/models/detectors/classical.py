"""The paper's classical segmentation: blur, green plus blue, adaptive threshold, components, minimum area."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import DetectorConfig
from fossilray.core.types import Boxes

SCORE_AT_THRESHOLD = 1 / 3
"""Score of an object whose mean darkness equals the threshold: above the default of detector.confidence."""


class ClassicalDetector:
    """Detector of objects that are darker than their neighbourhood; it needs no weights."""

    def __init__(self, config: DetectorConfig) -> None:
        self._config = config

    @property
    def stride_px(self) -> int:
        return 1

    def detect(self, tiles: NDArray[np.uint8], *, um_per_px: float) -> list[Boxes]:
        """Return one Boxes per tile, in tile pixels, highest score first.

        The score is d / (d + 2 t), where d is the mean difference in grey levels between the neighbourhood and the
        object's pixels, and t the threshold (`classical.offset`): 1/3 for d = t, 0.5 for d = 2 t.
        """
        return [self._detect_tile(tile, um_per_px) for tile in tiles]

    def _detect_tile(self, tile: NDArray[np.uint8], um_per_px: float) -> Boxes:
        import cv2

        settings = self._config.classical
        darkness = measure_darkness(
            tile, sigma_px=settings.gaussian_um / um_per_px, block_px=_odd(settings.block_um / um_per_px)
        )
        mask = (darkness > settings.offset).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        if count <= 1:
            return Boxes.empty()
        area_px = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
        total = np.bincount(labels.ravel(), weights=darkness.ravel(), minlength=count)
        x, y, width, height = (
            stats[:, column].astype(np.float64)
            for column in (cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP, cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT)
        )
        # With an offset of zero or less, the score is relative to one grey level.
        at_threshold = max(settings.offset, 1.0) * (1 / SCORE_AT_THRESHOLD - 1)
        depth = np.maximum(total / area_px, 0.0)
        score = depth / (depth + at_threshold)
        boxes = Boxes(
            np.stack([x, y, x + width, y + height], axis=1),
            score.astype(np.float32),
        )
        is_large = area_px * um_per_px**2 >= settings.min_area_um2
        is_large[0] = False  # component 0 is the background
        boxes = boxes.take(is_large & (boxes.score >= self._config.confidence))
        return boxes.take(np.argsort(-boxes.score, kind="stable")[: self._config.max_per_tile])


def measure_darkness(tile: NDArray[np.uint8], *, sigma_px: float, block_px: int) -> NDArray[np.float32]:
    """Return by how many grey levels (0-255) each pixel of green plus blue is darker than its Gaussian neighbourhood.

    block_px: odd; the sigma of the neighbourhood follows from it as in OpenCV's adaptive threshold, but grey levels
    are not rounded.
    """
    import cv2

    blurred = cv2.GaussianBlur(tile.astype(np.float32), (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE)
    grey = (blurred[..., 1] + blurred[..., 2]) / 2
    around = cv2.GaussianBlur(grey, (block_px, block_px), 0, borderType=cv2.BORDER_REPLICATE)
    darkness: NDArray[np.float32] = np.subtract(around, grey, dtype=np.float32)
    return darkness


def _odd(side_px: float) -> int:
    return max(3, 2 * round((side_px - 1) / 2) + 1)
