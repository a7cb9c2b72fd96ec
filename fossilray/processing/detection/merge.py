"""Merge the boxes of overlapping windows into the objects of a slide, each once, in a reproducible order.

The tile whose core holds an object's centre owns the object; boxes of other tiles only serve to recognise it. A centre
in an undetected tile, or outside its window, has no owner; then a tile that shows the object whole, partly in its core,
may provide the box. Boxes of one tile never suppress each other: two overlapping boxes of one window are two objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fossilray.core.boxes import box_area, box_intersection, box_iou
from fossilray.core.config import MergeConfig
from fossilray.core.types import Boxes, SlideInfo
from fossilray.processing.detection.passes import DetectionPass, Tile, to_level0

_Floats = NDArray[np.float64]
_Indices = NDArray[np.intp]
_Mask = NDArray[np.bool_]

# A box that ends this close to its window's edge (detection px) is cut there: detectors end boxes a little early.
_EDGE_PX = 3.0
# Two tiles may locate one centre on either side of their seam, so that neither owns it.
_MARGIN_PX = 8.0
# A box that another box covers to this share is part of the same object.
_COVERED_SHARE = 0.7
_ORDER_BLOCK_PX = 2048


@dataclass(frozen=True)
class TileBoxes:
    """The detector's boxes of one tile, in px of its window."""

    detection_pass: DetectionPass
    tile: Tile
    boxes: Boxes


@dataclass(frozen=True)
class Merged:
    """A slide's objects, clipped to the scanned area, and the number of boxes outside it, which were dropped."""

    boxes: Boxes
    outside: int


def merge_tiles(tile_boxes: Sequence[TileBoxes], *, info: SlideInfo, merge: MergeConfig) -> Boxes:
    """Return the boxes of `merge_scanned`."""
    return merge_scanned(tile_boxes, info=info, merge=merge).boxes


def merge_scanned(tile_boxes: Sequence[TileBoxes], *, info: SlideInfo, merge: MergeConfig) -> Merged:
    """Return the slide's objects in level-0 px, in row order, independent of the order of the tiles.

    Within a pass an object at a seam is kept once, and fragments of an object larger than the halo are joined. Of an
    object that two passes detect, the finer box is kept, unless it is cut or larger than the finer pass can detect.
    """
    passes = {part.detection_pass.number: part.detection_pass for part in tile_boxes}
    kept = Boxes.empty()
    for number in sorted(passes, reverse=True):
        detection_pass = passes[number]
        candidates = _gather([part for part in tile_boxes if part.detection_pass.number == number])
        whole, fragments = _deduplicate_at_seams(candidates, same_iou=merge.same_object_iou)
        fragments = fragments.take(~_covered(fragments.boxes.xyxy, kept.xyxy))
        joined = _join_fragments(fragments, reach=1.5 * detection_pass.scale)
        longest_um = _longest(whole.xyxy) * info.mpp
        whole = whole.take(longest_um >= detection_pass.smallest_um)
        joined = joined.take(_longest(joined.xyxy) * info.mpp >= detection_pass.smallest_um)
        kept = _join_passes(
            kept,
            whole,
            joined,
            largest_px=detection_pass.largest_um / info.mpp,
            same_iou=merge.same_object_iou,
        )
    scanned = info.bounds
    low, high = np.array([scanned.x_min, scanned.y_min] * 2), np.array([scanned.x_max, scanned.y_max] * 2)
    clipped = np.clip(kept.xyxy, low.astype(np.float64), high.astype(np.float64))
    is_inside: _Mask = np.asarray((clipped[:, :2] < clipped[:, 2:]).all(axis=1), np.bool_)
    return Merged(in_row_order(Boxes(clipped, kept.score).take(is_inside)), int(np.count_nonzero(~is_inside)))


def largest_overlaps(xyxy: NDArray[np.float64] | NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the largest IoU (n,) of each box (n, 4) with any other."""
    boxes = np.asarray(xyxy, np.float64)
    first, second = overlapping_pairs(boxes, boxes)
    others = first != second
    first, second = first[others], second[others]
    largest = np.zeros(len(boxes), np.float32)
    np.maximum.at(largest, first, box_iou(boxes[first], boxes[second]).astype(np.float32))
    return largest


@dataclass(frozen=True)
class _Candidates:
    """Boxes of one pass in level-0 px, with their position in their windows.

    owned: the tile's core holds the centre. unowned: no tile's core does. near: the centre is in the core or just
    outside. in_core: the box overlaps the core. cut: (n, 4) sides at the window's edge with scanned area beyond, as
    x_min y_min x_max y_max.
    """

    boxes: Boxes
    tile: _Indices
    owned: _Mask
    unowned: _Mask
    near: _Mask
    in_core: _Mask
    cut: _Mask

    def take(self, which: _Mask | _Indices) -> _Candidates:
        return _Candidates(
            self.boxes.take(which),
            self.tile[which],
            self.owned[which],
            self.unowned[which],
            self.near[which],
            self.in_core[which],
            self.cut[which],
        )


def _gather(parts: Sequence[TileBoxes]) -> _Candidates:
    owners = _owners(parts)
    classified = [_classify_boxes(part, owners) for part in parts]
    joined = _Candidates(
        concatenate_boxes([candidates.boxes for candidates in classified]),
        *(
            np.concatenate([getattr(candidates, name) for candidates in classified])
            for name in ("tile", "owned", "unowned", "near", "in_core", "cut")
        ),
    )
    xyxy, score = joined.boxes.xyxy, joined.boxes.score
    return joined.take(np.lexsort((score, *xyxy.T[::-1], joined.tile)))


def _owners(parts: Sequence[TileBoxes]) -> _Indices:
    """Return the index of the tile that owns each unit (rows, columns) of the pass's lattice and shows it; -1: none."""
    detection_pass = parts[0].detection_pass
    unit = detection_pass.unit_px
    owners = np.full((max(detection_pass.rows, 1), max(detection_pass.columns, 1)), -1, np.intp)
    for part in parts:
        core, window = part.tile.core, part.tile.window
        down = slice(max(core.y_min, window.y_min) // unit, min(core.y_max, window.y_max) // unit)
        across = slice(max(core.x_min, window.x_min) // unit, min(core.x_max, window.x_max) // unit)
        owners[down, across] = part.tile.index
    return owners


def _classify_boxes(part: TileBoxes, owners: _Indices) -> _Candidates:
    detection_pass, tile = part.detection_pass, part.tile
    core, window = tile.core, tile.window
    xyxy = np.clip(part.boxes.xyxy, 0, np.tile([window.width, window.height], 2).astype(np.float64))
    corner = np.array([window.x_min, window.y_min])
    core_start, core_end = np.array([[core.x_min, core.y_min], [core.x_max, core.y_max]]) - corner
    centre = (xyxy[:, :2] + xyxy[:, 2:]) / 2
    # A centre outside the scanned area belongs to its last unit.
    column, row = np.clip(
        ((centre + corner) // detection_pass.unit_px).astype(np.intp), 0, np.array(owners.shape[::-1]) - 1
    ).T
    owner = owners[row, column]
    x, y = detection_pass.window_corner(tile)
    has_more = np.array(
        [
            x > detection_pass.bounds.x_min,
            y > detection_pass.bounds.y_min,
            x + window.width * detection_pass.scale < detection_pass.bounds.x_max,
            y + window.height * detection_pass.scale < detection_pass.bounds.y_max,
        ]
    )
    far_sides = np.array([window.width, window.height]) - _EDGE_PX
    at_edge = np.concatenate([xyxy[:, :2] <= _EDGE_PX, xyxy[:, 2:] >= far_sides], axis=1)
    return _Candidates(
        to_level0(detection_pass, tile, Boxes(xyxy, part.boxes.score)),
        np.full(len(xyxy), tile.index, np.intp),
        owned=np.asarray(owner == tile.index, np.bool_),
        unowned=np.asarray(owner < 0, np.bool_),
        near=_in_both_axes(centre >= core_start - _MARGIN_PX, centre < core_end + _MARGIN_PX),
        in_core=_in_both_axes(xyxy[:, :2] < core_end, xyxy[:, 2:] > core_start),
        cut=at_edge & has_more,
    )


def _in_both_axes(above: _Mask, below: _Mask) -> _Mask:
    return np.asarray((above & below).all(axis=1), np.bool_)


def _deduplicate_at_seams(candidates: _Candidates, *, same_iou: float) -> tuple[Boxes, _Candidates]:
    """Return the whole objects of a pass once each, and the cut boxes that no other tile shows whole."""
    is_cut: _Mask = np.asarray(candidates.cut.any(axis=1), np.bool_)
    fragments, whole = candidates.take(is_cut & candidates.in_core), candidates.take(~is_cut)
    fragment, cover = overlapping_pairs(fragments.boxes.xyxy, whole.boxes.xyxy)
    covers = (fragments.tile[fragment] != whole.tile[cover]) & (
        share_inside(fragments.boxes.xyxy[fragment], whole.boxes.xyxy[cover]) > _COVERED_SHARE
    )
    is_shown_whole = np.zeros(len(fragments.boxes), np.bool_)
    is_shown_whole[fragment[covers]] = True
    # The owner may have only a cut box; then a neighbour's whole box is taken for the object.
    candidate = whole.near | whole.owned | (whole.unowned & whole.in_core)
    candidate[cover[covers]] = True
    chosen = candidate & ~_suppressed(whole, candidate, same_iou=same_iou)
    return whole.boxes.take(chosen), fragments.take(~is_shown_whole)


def _suppressed(candidates: _Candidates, candidate: _Mask, *, same_iou: float) -> _Mask:
    """Find candidates that show the same object as a better candidate of another tile."""
    xyxy = candidates.boxes.xyxy
    first, second = overlapping_pairs(xyxy, xyxy)
    apart = candidates.tile[first] != candidates.tile[second]
    first, second = first[apart], second[apart]
    iou = box_iou(xyxy[first], xyxy[second])
    same = iou >= same_iou
    same[same] = _are_mutual_best(first[same], second[same], iou[same], group=candidates.tile)
    # A box without an owner is a substitute and must be clearly apart from the others.
    same |= (iou >= same_iou / 2) & ~(candidates.owned[first] & candidates.owned[second])
    same &= candidate[first] & candidate[second]
    first, second = first[same], second[same]

    rank = np.empty(len(xyxy), np.intp)
    rank[np.lexsort((*xyxy.T[::-1], -candidates.boxes.score, ~candidates.owned))] = np.arange(len(xyxy))
    better = rank[first] < rank[second]
    first, second = first[better], second[better]
    gone = np.zeros(len(xyxy), np.bool_)
    order = np.lexsort((rank[second], rank[first]))
    for winner, loser in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if not gone[winner]:
            gone[loser] = True
    return gone


def _are_mutual_best(first: _Indices, second: _Indices, iou: _Floats, *, group: _Indices) -> _Mask:
    """Find pairs that are each other's best match in the other's group; pairs are given in both directions."""
    order = np.lexsort((second, -iou, group[second], first))
    start = np.ones(len(order), np.bool_)
    ahead, behind = order[1:], order[:-1]
    start[1:] = (first[ahead] != first[behind]) | (group[second[ahead]] != group[second[behind]])
    best = np.zeros(len(order), np.bool_)
    best[order[start]] = True
    count = len(group)
    forth, back = first * count + second, second * count + first
    return best & np.isin(forth, back[best])


def _join_fragments(fragments: _Candidates, *, reach: float) -> Boxes:
    """Join fragments of objects larger than a window where one continues in the other.

    A fragment without a continuation is kept only if its tile owns it.
    """
    xyxy = fragments.boxes.xyxy
    count = len(xyxy)
    if count == 0:
        return Boxes.empty()
    wide = xyxy + np.array([-reach, -reach, reach, reach])
    first, second = overlapping_pairs(wide, wide)
    continues = (fragments.tile[first] != fragments.tile[second]) & _crosses_cut(
        xyxy[first], fragments.cut[first], wide[second]
    )
    first, second = first[continues], second[continues]
    links = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    groups, group = connected_components(links, directed=False)
    low, high = np.full((groups, 2), np.inf), np.full((groups, 2), -np.inf)
    np.minimum.at(low, group, xyxy[:, :2])
    np.maximum.at(high, group, xyxy[:, 2:])
    score = np.zeros(groups, np.float32)
    np.maximum.at(score, group, fragments.boxes.score)
    counts = np.zeros(groups, np.bool_)
    counts[group] |= np.bincount(group, minlength=groups)[group] > 1
    counts[group[fragments.owned]] = True
    return Boxes(np.concatenate([low, high], axis=1), score).take(counts)


def _crosses_cut(fragment: _Floats, cut: _Mask, other: _Floats) -> _Mask:
    """Return whether `other` is on both sides of an edge at which `fragment` is cut."""
    low = (other[:, :2] <= fragment[:, :2]) & (other[:, 2:] >= fragment[:, :2]) & cut[:, :2]
    high = (other[:, :2] <= fragment[:, 2:]) & (other[:, 2:] >= fragment[:, 2:]) & cut[:, 2:]
    return np.asarray((low | high).any(axis=1), np.bool_)


def _join_passes(coarser: Boxes, whole: Boxes, joined: Boxes, *, largest_px: float, same_iou: float) -> Boxes:
    """Combine the objects of coarser passes with those of this one; objects that both detect are kept once."""
    too_large = _longest(whole.xyxy) > largest_px
    is_shown_better = _covered(whole.xyxy, coarser.xyxy) | _matched(whole.xyxy, coarser.xyxy, same_iou)
    whole = whole.take(~(too_large & is_shown_better))
    known = concatenate_boxes([coarser, whole])
    joined = joined.take(~_matched(joined.xyxy, known.xyxy, same_iou))

    group = np.repeat([0, 1], [len(coarser), len(whole)])
    first, second = overlapping_pairs(known.xyxy, known.xyxy)
    iou = box_iou(known.xyxy[first], known.xyxy[second])
    apart = (group[first] != group[second]) & (iou >= same_iou)
    first, second, iou = first[apart], second[apart], iou[apart]
    same = _are_mutual_best(first, second, iou, group=group)
    stays = np.ones(len(known), np.bool_)
    stays[first[same & (group[first] == 0)]] = False
    return concatenate_boxes([known.take(stays), joined])


def in_row_order(boxes: Boxes) -> Boxes:
    """Sort boxes by blocks, row by row, so that neighbours on the slide are neighbours in the table."""
    xyxy = boxes.xyxy
    column, row = ((xyxy[:, :2] + xyxy[:, 2:]) / 2 // _ORDER_BLOCK_PX).T
    return boxes.take(np.lexsort((boxes.score, *xyxy[:, [2, 3, 0, 1]].T, column, row)))


def overlapping_pairs(these: _Floats, those: _Floats) -> tuple[_Indices, _Indices]:
    """Return index pairs of boxes that overlap or touch."""
    if len(these) == 0 or len(those) == 0:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    # The tree compares envelopes only, and diagonals are faster to make than rectangles.
    diagonals = shapely.linestrings(those.reshape(-1, 2, 2))
    queries = diagonals if these is those else shapely.linestrings(these.reshape(-1, 2, 2))
    first, second = shapely.STRtree(diagonals).query(queries)
    return first, second


def _matched(these: _Floats, those: _Floats, same_iou: float) -> _Mask:
    first, second = overlapping_pairs(these, those)
    matched = np.zeros(len(these), np.bool_)
    matched[first[box_iou(these[first], those[second]) >= same_iou]] = True
    return matched


def _covered(these: _Floats, those: _Floats) -> _Mask:
    first, second = overlapping_pairs(these, those)
    covered = np.zeros(len(these), np.bool_)
    covered[first[share_inside(these[first], those[second]) > _COVERED_SHARE]] = True
    return covered


def share_inside(a: _Floats, b: _Floats) -> _Floats:
    """Return the share of each box of `a` (n, 4) that lies inside the box of `b` in the same row."""
    return np.asarray(box_intersection(a, b) / np.maximum(box_area(a), 1e-9), np.float64)


def _longest(boxes: _Floats) -> _Floats:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0), np.float64)


def concatenate_boxes(parts: Sequence[Boxes]) -> Boxes:
    """Return all boxes of several in their order; at least one part is given."""
    return Boxes(
        np.concatenate([part.xyxy for part in parts]), np.concatenate([part.score for part in parts])
    )
