"""Recall and precision of objects against a truth: painted ones of synthetic slides, or boxes that people drew."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from shapely import STRtree, box

from fossilray.core.boxes import box_iou
from fossilray.core.errors import UsageError

SIZE_CLASSES_UM = ((5.0, 10.0), (10.0, 20.0), (20.0, 50.0), (50.0, 150.0), (150.0, 500.0))
"""Longest side of the box, low included, high not."""

_CORNERS = ("x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True)
class TruthScore:
    """Score of found objects against the truth, matched one to one at `iou` or more.

    recall: fraction of the true objects that were found. precision: fraction of the found objects that are true.
    Both are None if there are no objects to count.
    """

    iou: float
    true: int
    found: int
    matched: int
    by_size_um: dict[tuple[float, float], TruthScore] = field(default_factory=dict)
    """The same by size class. Recall counts true objects of the class, precision found ones of it."""

    matched_found: int = 0
    """Number of found objects with a partner; differs from `matched` in a size class only."""

    @property
    def recall(self) -> float | None:
        return self.matched / self.true if self.true else None

    @property
    def precision(self) -> float | None:
        return self.matched_found / self.found if self.found else None


def score_against_truth(
    objects: pa.Table, truth: pa.Table, *, iou: float = 0.5, mpp: float = 0.25
) -> TruthScore:
    """Match objects with the truth, slide by slide, the largest overlaps first, and count what was found.

    The truth is that of `fossilray synth`, or a table of boxes that people drew. Both tables need `slide_id` and the
    corners `x_min`, `y_min`, `x_max` and `y_max` in level-0 px; other columns are ignored.

    Args:
        objects: the objects that were found, as `SELECT * FROM objects` gives them.
        truth: every true object; those on slides without any row in `objects` count as not found.
        iou: least intersection over union of a pair, 0 to 1.
        mpp: um per level-0 px, for the size classes.

    Returns:
        `recall` and `precision`, each None without objects to count, the numbers `true`, `found` and `matched`, and
        `by_size_um`: the same by size class, the longest side of the box from and up to so many um.

    Raises:
        UsageError: a table lacks one of these columns.

    Example:
        >>> import fossilray, pyarrow.parquet
        >>> objects = fossilray.query("census", "SELECT * FROM objects")
        >>> truth = pyarrow.parquet.read_table("slides/truth.parquet")
        >>> score = fossilray.score_against_truth(objects, truth, mpp=0.25)
    """
    found_boxes, found_groups = _boxes_by_slide(objects)
    true_boxes, true_groups = _boxes_by_slide(truth)
    found_partner = np.zeros(len(found_boxes), bool)
    true_partner = np.zeros(len(true_boxes), bool)
    for slide_id, true_rows in true_groups.items():
        found_rows = found_groups.get(slide_id)
        if found_rows is None:
            continue
        for i, j in match_boxes(true_boxes[true_rows], found_boxes[found_rows], iou=iou):
            true_partner[true_rows[i]] = found_partner[found_rows[j]] = True
    found_um, true_um = _longest(found_boxes) * mpp, _longest(true_boxes) * mpp
    classes = {}
    for low, high in SIZE_CLASSES_UM:
        of_true, of_found = (true_um >= low) & (true_um < high), (found_um >= low) & (found_um < high)
        classes[low, high] = TruthScore(
            iou=iou,
            true=int(of_true.sum()),
            found=int(of_found.sum()),
            matched=int(true_partner[of_true].sum()),
            matched_found=int(found_partner[of_found].sum()),
        )
    return TruthScore(
        iou=iou,
        true=len(true_boxes),
        found=len(found_boxes),
        matched=int(true_partner.sum()),
        matched_found=int(found_partner.sum()),
        by_size_um=classes,
    )


def match_boxes(
    first: NDArray[np.float64], second: NDArray[np.float64], *, iou: float
) -> list[tuple[int, int]]:
    """Pair the boxes of two arrays, each box at most once, the largest overlaps first.

    Args:
        first: (n, 4) boxes of one slide: x_min, y_min, x_max, y_max.
        second: (m, 4) boxes in the same coordinates.
        iou: least intersection over union of a pair, 0 to 1.

    Returns:
        The row in `first` and the row in `second` of each pair.

    Raises:
        UsageError: the boxes are not rows of four numbers.

    Example:
        >>> import fossilray, numpy
        >>> drawn = numpy.array([[0, 0, 10, 10], [50, 50, 60, 60]])
        >>> detected = numpy.array([[51, 50, 61, 60]])
        >>> fossilray.match_boxes(drawn, detected, iou=0.5)
        [(1, 0)]
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if not len(first) or not len(second):
        return []
    for boxes in (first, second):
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise UsageError(
                f"boxes have the shape {boxes.shape}; give (n, 4): x_min, y_min, x_max, y_max of each"
            )
    tree = STRtree([box(*corners) for corners in second])
    rows, partners = tree.query([box(*corners) for corners in first])
    overlaps = box_iou(first[rows], second[partners])
    pairs: list[tuple[int, int]] = []
    taken_first: set[int] = set()
    taken_second: set[int] = set()
    for index in np.argsort(-overlaps, kind="stable"):
        if overlaps[index] < iou:
            break
        i, j = int(rows[index]), int(partners[index])
        if i not in taken_first and j not in taken_second:
            taken_first.add(i)
            taken_second.add(j)
            pairs.append((i, j))
    return pairs


def _boxes_by_slide(table: pa.Table) -> tuple[NDArray[np.float64], dict[str, NDArray[np.intp]]]:
    if lacking := [name for name in ("slide_id", *_CORNERS) if name not in table.column_names]:
        raise UsageError(
            f"the table of boxes has no column {', '.join(lacking)}; select slide_id, {', '.join(_CORNERS)}"
        )
    corners = [np.asarray(table.column(name).to_numpy(), np.float64) for name in _CORNERS]
    slides = np.array(table.column("slide_id").to_pylist(), dtype=np.str_)
    names = np.unique(slides)
    return np.stack(corners, 1), {str(name): np.flatnonzero(slides == name) for name in names}


def _longest(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).max(1, initial=0), np.float64)
