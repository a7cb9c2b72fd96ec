"""How well a detector finds objects of each size, isolated and touching, on composites whose truth is known."""

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
from fossilray.training.detector.data import make_composites

SIZE_CLASSES_UM: tuple[tuple[float, float], ...] = ((5, 10), (10, 20), (20, 50), (50, 150), (150, 500))
MATCH_IOU = 0.5
_STRIDE_PX = 32


@dataclass(frozen=True)
class Field:
    """A held-out composite and the scale it was painted at."""

    composite: Composite
    um_per_px: float


@dataclass(frozen=True)
class SizeFigures:
    """One row of the table; a figure is None where there is nothing to count.

    ap50 is over all scores; recall and precision hold at the detector's confidence.
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
    """Of one field, in um: truth and found boxes with who matched whom (-1: nobody)."""

    truth: NDArray[np.float64]
    touching: NDArray[np.bool_]
    truth_found_by: NDArray[np.intp]
    found: NDArray[np.float64]
    score: NDArray[np.float32]
    matched_to: NDArray[np.intp]
    crowded: NDArray[np.bool_]
    """Of each found box: it overlaps another object's true box, or matches a touching object."""


def held_out_fields(count: int, *, seed: int, library: CropLibrary | None, workers: int = 1) -> list[Field]:
    """Fields for validation: half of 384 um at 0.5 um per px for small objects, half of 1 mm at 1 um per px."""
    fields = []
    for part, (um_per_px, side_px) in enumerate(((0.5, 768), (1.0, 1024))):
        share = count // 2 if part else count - count // 2
        made = make_composites(
            share,
            seed=seed + part,
            image_px=side_px,
            library=library,
            workers=workers,
            um_per_px=um_per_px,
        )
        fields += [Field(composite, um_per_px) for composite in made]
    return fields


def evaluate(
    detector: Detector,
    fields: Sequence[Field],
    *,
    passes: Sequence[PassConfig],
    confidence: float,
    merge: MergeConfig | None = None,
) -> list[SizeFigures]:
    """The table of one detector seen in the given sweeps.

    The detector should be configured with a low confidence (0.01): AP50 needs the whole ranking.
    Objects outside a row's sizes, and what is found of them, count neither for nor against it.
    """
    settings = merge or MergeConfig()
    matched = [
        _match(field, find_objects(detector, field, passes=passes, same_object_iou=settings.same_object_iou))
        for field in fields
    ]
    return [_figures(matched, low, high, confidence=confidence) for low, high in SIZE_CLASSES_UM]


def find_objects(
    detector: Detector, field: Field, *, passes: Sequence[PassConfig], same_object_iou: float
) -> Boxes:
    """What the sweeps find on a field, in um, each object once: better scores first."""
    boxes: list[NDArray[np.float64]] = []
    scores: list[NDArray[np.float32]] = []
    for sweep in passes:
        seen = see_at(field.composite.image, field.um_per_px, sweep.um_per_px)
        found = detector.detect(seen[None], um_per_px=sweep.um_per_px)[0]
        scaled = found.xyxy * sweep.um_per_px
        longest = (scaled[:, 2:] - scaled[:, :2]).max(1, initial=0)
        kept = (longest >= sweep.smallest_um) & (longest <= sweep.largest_um)
        boxes.append(scaled[kept])
        scores.append(found.score[kept])
    together, score = np.concatenate(boxes), np.concatenate(scores)
    sweep_of = np.repeat(np.arange(len(boxes)), [len(part) for part in boxes])
    order = np.argsort(-score, kind="stable")
    kept_rows: list[int] = []
    overlap = box_iou(together[:, None], together)
    for row in order:
        rivals = [k for k in kept_rows if sweep_of[k] != sweep_of[row]]
        if not rivals or overlap[row, rivals].max() <= same_object_iou:
            kept_rows.append(int(row))
    chosen = np.array(kept_rows, np.intp)
    return Boxes(together[chosen], score[chosen])


def see_at(image: Image, um_per_px: float, target_um_per_px: float) -> Image:
    """The image resampled to another scale, and its right and lower sides padded to whole strides."""
    scale = um_per_px / target_um_per_px
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    seen = image if scale == 1 else cv2.resize(image, size, interpolation=how)
    right, below = -seen.shape[1] % _STRIDE_PX, -seen.shape[0] % _STRIDE_PX
    if right or below:
        clear = [float(v) for v in np.percentile(seen, 80, axis=(0, 1))]
        seen = cv2.copyMakeBorder(seen, 0, below, 0, right, cv2.BORDER_CONSTANT, value=clear)
    return np.asarray(seen, np.uint8)


def compare(
    weights: Path,
    fields: Sequence[Field],
    *,
    device: str,
    confidence: float | None = None,
    precision: Precision = "auto",
) -> Iterator[tuple[str, list[SizeFigures]]]:
    """Tables, one by one, that choose the sweeps: ours at each scale and combined, the paper's scale, classical."""
    ours = DetectorConfig(weights=str(weights))
    asked = ours.confidence if confidence is None else confidence
    neural = load_detector(ranking_config(ours), device=device, precision=precision)
    classical = load_detector(ranking_config(DetectorConfig(kind="classical")), device=device)
    default = " and ".join(f"{sweep.um_per_px:g}" for sweep in ours.passes)
    yield (
        f"The default sweeps ({default} um per px)",
        evaluate(neural, fields, passes=ours.passes, confidence=asked),
    )
    for um_per_px in (0.5, 1.0, 2.0):
        yield (
            f"One sweep at {um_per_px:g} um per px",
            evaluate(neural, fields, passes=single_pass(um_per_px), confidence=asked),
        )
    yield (
        "The paper's scale: 2048 px seen at 128 px, 4 um per px",
        evaluate(neural, fields, passes=paper_passes(), confidence=asked),
    )
    yield (
        "The classical method",
        evaluate(classical, fields, passes=single_pass(1.0), confidence=asked),
    )


def paper_passes() -> tuple[PassConfig, ...]:
    """The paper's scale: a 2048 px tile at 0.25 um per px seen at 128 px."""
    return (PassConfig(um_per_px=4.0, smallest_um=0.0, largest_um=2000.0),)


def single_pass(um_per_px: float) -> tuple[PassConfig, ...]:
    """One sweep that keeps objects of every size."""
    return (PassConfig(um_per_px=um_per_px, smallest_um=0.0, largest_um=5000.0),)


def ranking_config(config: DetectorConfig) -> DetectorConfig:
    """The detector's configuration with nearly every box kept, as AP50 needs it."""
    return config.model_copy(update={"confidence": 0.01})


def figures_table(rows: Sequence[SizeFigures]) -> str:
    """The figures as a Markdown table."""
    head = (
        "| size, um | objects | AP50 | recall isolated | recall touching "
        "| precision isolated | precision touching |\n| --- | --- | --- | --- | --- | --- | --- |"
    )

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    lines = [
        f"| {row.low_um:g}–{row.high_um:g} | {row.objects} | {shown(row.ap50)} | {shown(row.recall_isolated)} "
        f"| {shown(row.recall_touching)} | {shown(row.precision_isolated)} | {shown(row.precision_touching)} |"
        for row in rows
    ]
    return "\n".join([head, *lines])


def _match(field: Field, found: Boxes) -> _Matches:
    """Best score first, each found box takes the free object that it overlaps most."""
    truth = field.composite.boxes.astype(np.float64) * field.um_per_px
    touching = field.composite.touching
    overlap = box_iou(found.xyxy[:, None], truth)
    matched_to = np.full(len(found), -1, np.intp)
    found_by = np.full(len(truth), -1, np.intp)
    for row in np.argsort(-found.score, kind="stable"):
        free = np.where(found_by < 0, overlap[row], 0.0)
        if len(free) and free.max() >= MATCH_IOU:
            matched_to[row] = int(free.argmax())
            found_by[matched_to[row]] = row
    any_truth = (overlap > 0.01).any(1) if len(truth) else np.zeros(len(found), bool)
    is_matched = matched_to >= 0
    crowded = np.where(is_matched, touching[matched_to] if len(truth) else False, any_truth)
    return _Matches(truth, touching, found_by, found.xyxy, found.score, matched_to, crowded.astype(bool))


def _figures(matched: Sequence[_Matches], low: float, high: float, *, confidence: float) -> SizeFigures:
    truth_in = [_within(m.truth, low, high) for m in matched]
    # A found box belongs to the row of the object it matches, else to the row of its own size.
    counts = []
    for m, inside in zip(matched, truth_in, strict=True):
        own = _within(m.found, low, high)
        hit = m.matched_to >= 0
        counts.append(np.where(hit, inside[m.matched_to] if len(inside) else False, own).astype(bool))
    score = np.concatenate([m.score[c] for m, c in zip(matched, counts, strict=True)])
    hit = np.concatenate([m.matched_to[c] >= 0 for m, c in zip(matched, counts, strict=True)])
    crowded = np.concatenate([m.crowded[c] for m, c in zip(matched, counts, strict=True)])
    objects = int(sum(inside.sum() for inside in truth_in))
    sure = score >= confidence

    def recall(touching: bool) -> float | None:
        wanted = found = 0
        for m, inside in zip(matched, truth_in, strict=True):
            chosen = inside & (m.touching == touching)
            wanted += int(chosen.sum())
            by = m.truth_found_by[chosen]
            found += int((m.score[by[by >= 0]] >= confidence).sum())
        return found / wanted if wanted else None

    def precision(touching: bool) -> float | None:
        chosen = sure & (crowded == touching)
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
    """Area under the precision envelope over recall (all points, as PASCAL VOC 2010)."""
    ranked = hit[np.argsort(-score, kind="stable")]
    true = np.cumsum(ranked)
    precision = true / np.arange(1, len(ranked) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * ranked).sum() / objects)


def _within(boxes: NDArray[np.float64], low: float, high: float) -> NDArray[np.bool_]:
    longest = (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0)
    return np.asarray((longest >= low) & (longest < high), np.bool_)
