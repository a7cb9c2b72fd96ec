"""Objects of an image: one that fills it, or all that the detector finds in a field of view, each cut as of a slide."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.identify.photograph import Photograph
from fossilray.core.config import CropsConfig, RunConfig
from fossilray.core.config.choices import ImageView
from fossilray.core.types import Boxes, Detector
from fossilray.models.detectors.load import load_detector
from fossilray.processing.crops.cut import extract_crop
from fossilray.processing.crops.objects_table import round_outward
from fossilray.processing.detection.detect import NetworkThreads, detect_objects
from fossilray.processing.detection.merge import merge_scanned
from fossilray.slides.clear_field import estimate_background

MOST_IDENTIFIED = 200
"""Objects of one image that are identified, those with the highest scores of the detector."""

_FILLED_SHARE = 0.5
_FILLED_SCORE = 0.35
_MOST_OTHERS = 12
"""An image is a crop if a box of at least this score covers at least this share of it, and at most so many others lie
beside it (score from 0.5, less than a quarter of the image).

That held for 96 % of 500 crops of palynomorphs and pollen, cut tightly, and for none of 81 windows of a real field,
450 to 2,150 px wide, all of unknown um per px.
"""

_FILLED_UM = 240.0
"""Length that the longest side of an image is taken to have while that is looked for, whatever it really is."""

_TYPICAL_UM = 40.0
"""Median longest side of objects, from which the um per px of a field that states none is guessed."""

_GUESSES = 3
_GUESSED_MPP = (0.02, 5.0)
_MOST_BOXES = 20_000


@dataclass(frozen=True)
class CutObjects:
    """The n objects of an image."""

    view: ImageView
    """`crop` or `field`."""
    boxes: NDArray[np.int32]
    """(n, 4) x_min, y_min, x_max, y_max in px of the image."""
    score: NDArray[np.float32]
    """(n,) of the detector; nan for a crop in which it found nothing that fills it."""
    crops: NDArray[np.uint8]
    """(n, S, S, 3) RGB, as the crops of a run."""
    found: int
    """Number of objects that the detector found; more than n where there are more than MOST_IDENTIFIED."""
    guessed_um_per_px: float | None
    """The um per px at which a field was looked at, where it states none."""


class ObjectCutter:
    """The detector, with the cutting of crops. One image at a time."""

    def __init__(self, crops: CropsConfig | None = None) -> None:
        """Load the bundled detector.

        crops: side and fit of the crops; None: as of a run by default.

        Raises:
            WeightsError: the weights of the detector cannot be loaded.
        """
        config = RunConfig(crops=crops or CropsConfig())
        self._config = config.model_copy(
            update={"slides": config.slides.model_copy(update={"max_objects": _MOST_BOXES})}
        )
        self._detector: Detector = load_detector(config.detector, device="cpu")
        self._guard = threading.Lock()

    def cut(self, photograph: Photograph, *, view: ImageView = "auto") -> CutObjects:
        """Cut the objects of an image, in order of rows.

        view: `crop` takes the whole image as one object, `field` looks for objects; `auto` finds out.

        Raises:
            TooManyObjects: the detector finds so many boxes that the image shows noise.
        """
        with self._guard, _threads() as threads:
            filling = None if view == "field" else self._filling_score(photograph, threads)
            if view == "crop" or (view == "auto" and filling is not None):
                whole = np.array([[0, 0, photograph.width, photograph.height]], np.int32)
                score = np.array([np.nan if filling is None else filling], np.float32)
                return self._cut(photograph, "crop", Boxes(whole.astype(np.float64), score), None)
            if photograph.um_per_px is not None:
                boxes = self._detect(photograph, photograph.um_per_px, threads)
                return self._cut(photograph, "field", boxes, None)
            boxes, guessed = self._detect_at_guess(photograph, threads)
            return self._cut(photograph, "field", boxes, guessed)

    def _filling_score(self, photograph: Photograph, threads: _Threads) -> float | None:
        """Return the score of the object that fills the image; None if there is none."""
        boxes = self._detect(photograph, _FILLED_UM / max(photograph.width, photograph.height), threads)
        share = (boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]).prod(axis=1) / (photograph.width * photograph.height)
        fills = (share >= _FILLED_SHARE) & (boxes.score >= _FILLED_SCORE)
        others = int(((share < _FILLED_SHARE / 2) & (boxes.score >= 0.5)).sum())
        return float(boxes.score[fills].max()) if fills.any() and others <= _MOST_OTHERS else None

    def _detect_at_guess(self, photograph: Photograph, threads: _Threads) -> tuple[Boxes, float]:
        """Return the boxes at the um per px at which the median object has the typical length, and the um per px."""
        um_per_px = _FILLED_UM / max(photograph.width, photograph.height)
        low, high = _GUESSED_MPP
        for _ in range(_GUESSES):
            boxes = self._detect(photograph, um_per_px, threads)
            if not len(boxes):
                break
            longest = (boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]).max(axis=1)
            um_per_px = float(np.clip(_TYPICAL_UM / np.median(longest), low, high))
        return self._detect(photograph, um_per_px, threads), um_per_px

    def _detect(self, photograph: Photograph, um_per_px: float, threads: _Threads) -> Boxes:
        with photograph.as_slide(um_per_px) as slide:
            detections = detect_objects(
                slide,
                threads.readers,
                detector=self._detector,
                network_threads=threads.networks,
                config=self._config,
                name=photograph.name,
                progress=lambda _: None,
            )
            return merge_scanned(detections.tiles, info=slide.info, merge=self._config.merge).boxes

    def _cut(
        self, photograph: Photograph, view: ImageView, boxes: Boxes, guessed: float | None
    ) -> CutObjects:
        count, config = len(boxes), self._config.crops
        if count > MOST_IDENTIFIED:
            boxes = boxes.take(np.sort(np.argsort(-boxes.score, kind="stable")[:MOST_IDENTIFIED]))
        with photograph.as_slide(photograph.um_per_px or guessed or 1.0) as slide:
            coarsest = len(slide.info.levels) - 1
            background = estimate_background(slide)
            rounded = round_outward(boxes.xyxy, slide.info)
            crops = [
                extract_crop(slide, box, config=config, coarsest_level=coarsest, background_rgb=background)
                for box in rounded
            ]
        empty = np.zeros((0, config.size_px, config.size_px, 3), np.uint8)
        pixels = np.stack([crop.pixels for crop in crops]) if crops else empty
        return CutObjects(view, rounded, boxes.score, pixels, count, guessed)


@dataclass(frozen=True)
class _Threads:
    readers: ThreadPoolExecutor
    networks: NetworkThreads


@contextmanager
def _threads() -> Iterator[_Threads]:
    with ThreadPoolExecutor(1) as readers, ThreadPoolExecutor(1) as network:
        yield _Threads(readers, NetworkThreads(network, 1))
