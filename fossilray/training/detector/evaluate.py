"""Average precision, recall and precision of a detector by object size, on composites with known truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.boxes import box_iou
from fossilray.core.config import DetectorConfig, MergeConfig, PassConfig
from fossilray.core.config.choices import Precision
from fossilray.core.types import Boxes, Detector, Image
from fossilray.models.detectors.load import load_detector
from fossilray.synthetic.composites import Composite
from fossilray.synthetic.crop_library import CropLibrary
from fossilray.synthetic.truth import SIZE_CLASSES_UM
from fossilray.training.detector.data import make_composites

_MATCH_IOU = 0.5
_STRIDE_PX = 32


@dataclass(frozen=True)
class ValidationField:
    """A held-out composite and the scale at which it was painted."""

    composite: Composite
    um_per_px: float


@dataclass(frozen=True)
class SizeFigures:
    """One row of the table; a figure is None if there is nothing to count.

    ap50 uses all scores; recall and precision apply at the detector's confidence.
    """

    low_um: float
    high_um: float
    objects: int
    ap50: float | None
    recall_isolated: float | None
    recall_touching: float | None
    precision_isolated: float | None
    precision_touching: float | None


@dataclass(frozen=True)
class _Matches:
    """True and detected boxes of one field, in um, and their matches (-1: none)."""

    truth: NDArray[np.float64]
    touching: NDArray[np.bool_]
    detection_of_truth: NDArray[np.intp]
    detected: NDArray[np.float64]
    score: NDArray[np.float32]
    truth_of_detection: NDArray[np.intp]
    crowded: NDArray[np.bool_]
    """Whether each detected box overlaps another object's true box, or matches a touching object."""


def held_out_fields(
    count: int, *, seed: int, library: CropLibrary | None, workers: int = 1
) -> list[ValidationField]:
    """Paint validation fields: half of 384 um at 0.5 um per px for small objects, half of 1 mm at 1 um per px."""
    fields = []
    for half, (um_per_px, side_px) in enumerate(((0.5, 768), (1.0, 1024))):
        number = count // 2 if half else count - count // 2
        composites = make_composites(
            number,
            seed=seed + half,
            image_px=side_px,
            library=library,
            workers=workers,
            um_per_px=um_per_px,
        )
        fields += [ValidationField(composite, um_per_px) for composite in composites]
    return fields


def evaluate_detector(
    detector: Detector,
    fields: Sequence[ValidationField],
    *,
    passes: Sequence[PassConfig],
    confidence: float,
    merge: MergeConfig | None = None,
) -> list[SizeFigures]:
    """Score a detector on validation fields by size class.

    The detector should have a low confidence (0.01), as AP50 needs the whole ranking. Objects outside a row's sizes,
    and their detections, do not count in it.

    Args:
        detector: the detector.
        fields: validation fields.
        passes: detection passes, each at its own scale.
        confidence: score from which on detections count for recall and precision.
        merge: how detections of several passes are merged.
    """
    settings = merge or MergeConfig()
    matched = [
        _match(field, find_objects(detector, field, passes=passes, same_object_iou=settings.same_object_iou))
        for field in fields
    ]
    return [_figures(matched, low, high, confidence=confidence) for low, high in SIZE_CLASSES_UM]


def find_objects(
    detector: Detector, field: ValidationField, *, passes: Sequence[PassConfig], same_object_iou: float
) -> Boxes:
    """Detect objects in all passes and keep each once, with its best score; boxes in um."""
    boxes: list[NDArray[np.float64]] = []
    scores: list[NDArray[np.float32]] = []
    for detection_pass in passes:
        image = resample_to(field.composite.image, field.um_per_px, detection_pass.um_per_px)
        detected = detector.detect(image[None], um_per_px=detection_pass.um_per_px)[0]
        scaled = detected.xyxy * detection_pass.um_per_px
        longest = (scaled[:, 2:] - scaled[:, :2]).max(1, initial=0)
        kept = (longest >= detection_pass.smallest_um) & (longest <= detection_pass.largest_um)
        boxes.append(scaled[kept])
        scores.append(detected.score[kept])
    joined, score = np.concatenate(boxes), np.concatenate(scores)
    pass_of = np.repeat(np.arange(len(boxes)), [len(rows) for rows in boxes])
    order = np.argsort(-score, kind="stable")
    kept_rows: list[int] = []
    overlap = box_iou(joined[:, None], joined)
    for row in order:
        rivals = [k for k in kept_rows if pass_of[k] != pass_of[row]]
        if not rivals or overlap[row, rivals].max() <= same_object_iou:
            kept_rows.append(int(row))
    chosen = np.array(kept_rows, np.intp)
    return Boxes(joined[chosen], score[chosen])


def resample_to(image: Image, um_per_px: float, target_um_per_px: float) -> Image:
    """Resample an image to another scale and pad its right and lower sides to whole strides."""
    scale = um_per_px / target_um_per_px
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resampled = image if scale == 1 else cv2.resize(image, size, interpolation=interpolation)
    right, below = -resampled.shape[1] % _STRIDE_PX, -resampled.shape[0] % _STRIDE_PX
    if right or below:
        clear = [float(v) for v in np.percentile(resampled, 80, axis=(0, 1))]
        resampled = cv2.copyMakeBorder(resampled, 0, below, 0, right, cv2.BORDER_CONSTANT, value=clear)
    return np.asarray(resampled, np.uint8)


def compare_detectors(
    weights: Path,
    fields: Sequence[ValidationField],
    *,
    device: str,
    confidence: float | None = None,
    precision: Precision = "auto",
) -> Iterator[tuple[str, list[SizeFigures]]]:
    """Yield a title and a table for each way of detection.

    The detector is scored at its default passes, at single scales and at the paper's; the classical detector last.
    """
    config = DetectorConfig(weights=str(weights))
    if confidence is None:
        confidence = config.confidence
    neural = load_detector(ranking_config(config), device=device, precision=precision)
    classical = load_detector(ranking_config(DetectorConfig(kind="classical")), device=device)
    default = " and ".join(f"{default.um_per_px:g}" for default in config.passes)
    yield (
        f"The default passes ({default} um per px)",
        evaluate_detector(neural, fields, passes=config.passes, confidence=confidence),
    )
    for um_per_px in (0.5, 1.0, 2.0):
        yield (
            f"One pass at {um_per_px:g} um per px",
            evaluate_detector(neural, fields, passes=single_pass(um_per_px), confidence=confidence),
        )
    yield (
        "The paper's scale: 2048 px reduced to 128 px, 4 um per px",
        evaluate_detector(neural, fields, passes=paper_passes(), confidence=confidence),
    )
    yield (
        "The classical method",
        evaluate_detector(classical, fields, passes=single_pass(1.0), confidence=confidence),
    )


def paper_passes() -> tuple[PassConfig, ...]:
    """Return the paper's scale: a tile of 2048 px at 0.25 um per px, reduced to 128 px."""
    return (PassConfig(um_per_px=4.0, smallest_um=0.0, largest_um=2000.0),)


def single_pass(um_per_px: float) -> tuple[PassConfig, ...]:
    """Return one pass that keeps objects of every size."""
    return (PassConfig(um_per_px=um_per_px, smallest_um=0.0, largest_um=5000.0),)


def ranking_config(config: DetectorConfig) -> DetectorConfig:
    """Return the configuration with a confidence that keeps nearly every box, as AP50 needs."""
    return config.model_copy(update={"confidence": 0.01})


def figures_table(rows: Sequence[SizeFigures]) -> str:
    """Return the figures as a Markdown table."""
    header = (
        "| size, um | objects | AP50 | recall isolated | recall touching "
        "| precision isolated | precision touching |\n| --- | --- | --- | --- | --- | --- | --- |"
    )

    def format_row(row: SizeFigures) -> str:
        figures = (
            *(row.ap50, row.recall_isolated, row.recall_touching),
            *(row.precision_isolated, row.precision_touching),
        )
        cells = " | ".join("–" if value is None else f"{value:.2f}" for value in figures)
        return f"| {row.low_um:g}–{row.high_um:g} | {row.objects} | {cells} |"

    return "\n".join([header, *map(format_row, rows)])


def _match(field: ValidationField, detected: Boxes) -> _Matches:
    """Match each detected box, best score first, with the unmatched object that it overlaps most."""
    truth = field.composite.boxes.astype(np.float64) * field.um_per_px
    touching = field.composite.touching
    overlap = box_iou(detected.xyxy[:, None], truth)
    truth_of_detection = np.full(len(detected), -1, np.intp)
    detection_of_truth = np.full(len(truth), -1, np.intp)
    for row in np.argsort(-detected.score, kind="stable"):
        free = np.where(detection_of_truth < 0, overlap[row], 0.0)
        if len(free) and free.max() >= _MATCH_IOU:
            truth_of_detection[row] = int(free.argmax())
            detection_of_truth[truth_of_detection[row]] = row
    any_truth = (overlap > 0.01).any(1) if len(truth) else np.zeros(len(detected), bool)
    is_matched = truth_of_detection >= 0
    crowded = np.where(is_matched, touching[truth_of_detection] if len(truth) else False, any_truth)
    return _Matches(
        truth,
        touching,
        detection_of_truth,
        detected.xyxy,
        detected.score,
        truth_of_detection,
        crowded.astype(bool),
    )


def _figures(matched: Sequence[_Matches], low: float, high: float, *, confidence: float) -> SizeFigures:
    truth_in = [_within(m.truth, low, high) for m in matched]
    # A detection counts in the row of the object it matches, otherwise in the row of its own size.
    counts = []
    for m, inside in zip(matched, truth_in, strict=True):
        by_size = _within(m.detected, low, high)
        hit = m.truth_of_detection >= 0
        counts.append(
            np.where(hit, inside[m.truth_of_detection] if len(inside) else False, by_size).astype(bool)
        )
    score = np.concatenate([m.score[c] for m, c in zip(matched, counts, strict=True)])
    hit = np.concatenate([m.truth_of_detection[c] >= 0 for m, c in zip(matched, counts, strict=True)])
    crowded = np.concatenate([m.crowded[c] for m, c in zip(matched, counts, strict=True)])
    objects = int(sum(inside.sum() for inside in truth_in))
    is_confident = score >= confidence

    def recall(touching: bool) -> float | None:
        objects_of_kind = detected = 0
        for m, inside in zip(matched, truth_in, strict=True):
            chosen = inside & (m.touching == touching)
            objects_of_kind += int(chosen.sum())
            detections = m.detection_of_truth[chosen]
            detected += int((m.score[detections[detections >= 0]] >= confidence).sum())
        return detected / objects_of_kind if objects_of_kind else None

    def precision(touching: bool) -> float | None:
        chosen = is_confident & (crowded == touching)
        return float(hit[chosen].mean()) if chosen.any() else None

    return SizeFigures(
        low_um=low,
        high_um=high,
        objects=objects,
        ap50=_average_precision(score, hit, objects) if objects else None,
        recall_isolated=recall(False),
        recall_touching=recall(True),
        precision_isolated=precision(False),
        precision_touching=precision(True),
    )


def _average_precision(score: NDArray[np.float32], hit: NDArray[np.bool_], objects: int) -> float:
    """Return the area under the precision envelope over recall (all points, PASCAL VOC 2010)."""
    ranked = hit[np.argsort(-score, kind="stable")]
    true = np.cumsum(ranked)
    precision = true / np.arange(1, len(ranked) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * ranked).sum() / objects)


def _within(boxes: NDArray[np.float64], low: float, high: float) -> NDArray[np.bool_]:
    longest = (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0)
    return np.asarray((longest >= low) & (longest < high), np.bool_)
