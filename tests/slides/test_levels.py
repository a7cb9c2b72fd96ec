"""Boxes found at coarse levels of slides whose photos overlap, held against level 0."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fossilray.slides.slide import Slide, open_slide
from fossilray.synthetic.assemblage import Column
from fossilray.synthetic.scene import Scene
from fossilray.synthetic.truth import match_boxes
from fossilray.synthetic.writers.mirax import MiraxOptions, write_mirax

MPP = 0.25
SIZE_PX = 3072
VISIBLE_LOSS = 0.08
"""Of the light in any channel: what the painter calls seen."""

GAP_PX = 24
"""Objects nearer than three pixels of level 3 may run together there."""

STATED_ERROR_PX = 2.0
"""Side error of a box, in pixels of its level, for 95 sides in 100: 4 um at level 3 of a 0.25 um slide."""
STATED_WORST_PX = 3.0
"""No side is farther off: the tip of a process fades when it is thinner than a coarse pixel."""
STATED_SHIFT_PX = 0.4
"""Mean distance of the centres, in pixels of the level: no level lies askew on level 0."""


@dataclass(frozen=True)
class Sheet:
    """A slide and the painted boxes (n, 4) of objects that lie apart and have sharp rims, level-0 px."""

    slide: Slide
    truth: NDArray[np.float64]


@pytest.fixture(scope="module", params=["overlapping", "aligned"])
def sheet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sheet:
    column = Column(2)
    assemblage = replace(column.assemblage(column.samples(4)[1], slide=1, slides=4), clumping=0.0)
    scene = Scene(assemblage, width=SIZE_PX, height=SIZE_PX, um_per_px=MPP, seed=[2, 1])
    path = tmp_path_factory.mktemp("levels") / "coarse.mrxs"
    options = MiraxOptions(
        mpp=MPP, photo_px=512, overlap_px=44, jitter_px=16, layout=request.param, data_files=2, seed=7
    )
    layout = write_mirax(path, scene, options)
    boxes = [
        (seen.box.x_min, seen.box.y_min, seen.box.x_max, seen.box.y_max)
        for seen in scene.objects(inset_px=options.jitter_px)
    ]
    painted = np.array(boxes, np.float64) + np.tile([layout.offset_x, layout.offset_y], 2)
    slide = open_slide(path)
    at_level_0 = find_dark(slide, 0)
    # What a ghost or a neighbour does to a threshold is not the level's fault.
    sharp = [
        i
        for i, j in match_boxes(painted, at_level_0, iou=0.5)
        if np.abs(painted[i] - at_level_0[j]).max() <= 3
        and np.ptp(painted[i].reshape(2, 2), axis=0).max() > 60
        and meeting(at_level_0, painted[i] + [-GAP_PX, -GAP_PX, GAP_PX, GAP_PX]) == 1
    ]
    assert len(sharp) > 12
    return Sheet(slide, painted[sharp])


def meeting(boxes: NDArray[np.float64], one: NDArray[np.float64]) -> int:
    """How many boxes meet one."""
    return int(((boxes[:, :2] < one[2:]) & (boxes[:, 2:] > one[:2])).all(1).sum())


def find_dark(slide: Slide, level: int) -> NDArray[np.float64]:
    """Boxes (n, 4) in level-0 px of everything that takes light away, as seen at one level."""
    bounds, down = slide.info.bounds, slide.info.levels[level].downsample
    width, height = (round(side / down) for side in (bounds.width, bounds.height))
    picture = slide.read(level, bounds.x_min, bounds.y_min, width, height).astype(np.float32)
    clear = np.median(picture.reshape(-1, 3), axis=0)
    dark = (picture / clear).min(2) < 1 - VISIBLE_LOSS
    _, _, parts, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8), connectivity=8)
    corners = np.stack(
        [parts[1:, 0], parts[1:, 1], parts[1:, 0] + parts[1:, 2], parts[1:, 1] + parts[1:, 3]], 1
    )
    return corners * down + np.tile([bounds.x_min, bounds.y_min], 2)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_box_found_at_a_coarse_level_lies_where_level_0_shows_the_object(sheet: Sheet, level: int) -> None:
    down = sheet.slide.info.levels[level].downsample
    found = find_dark(sheet.slide, level)
    pairs = match_boxes(sheet.truth, found, iou=0.5)
    assert len(pairs) >= 0.9 * len(sheet.truth)
    px_um = MPP * down
    off_um = np.array([found[j] - sheet.truth[i] for i, j in pairs]) * MPP
    centres_um = (off_um[:, :2] + off_um[:, 2:]) / 2
    assert np.quantile(np.abs(off_um), 0.95) <= STATED_ERROR_PX * px_um
    assert np.abs(off_um).max() <= STATED_WORST_PX * px_um
    assert np.abs(centres_um.mean(0)).max() <= STATED_SHIFT_PX * px_um
