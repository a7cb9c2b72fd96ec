"""The slide small, with its boxes drawn."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from fossilray.core.types import Boxes, Rect
from fossilray.render.slide_overview import SIZE_CLASSES, draw_boxes, round_length_um, size_classes

FIELD_RGB = (226, 222, 219)


def _picture(boxes: list[list[float]], *, rect: Rect, side_px: int = 400) -> NDArray[np.int64]:
    thumbnail = np.full((side_px, side_px, 3), FIELD_RGB, np.uint8)
    xyxy = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    found = Boxes(xyxy, np.ones(len(xyxy), np.float32))
    jpeg = draw_boxes(thumbnail, rect, found, mpp=0.25, quality=95)
    return np.asarray(Pillow.open(io.BytesIO(jpeg)).convert("RGB"), dtype=np.int64)


def _marked(picture: NDArray[np.int64]) -> NDArray[np.intp]:
    """Pixels (y, x) of the slide's part of the picture that are no longer clear field."""
    away = np.abs(picture[:400] - np.array(FIELD_RGB)).max(axis=2) > 30
    return np.argwhere(away)


def test_a_frame_surrounds_its_object_where_the_thumbnail_shows_it() -> None:
    rect = Rect(1000, 2000, 5000, 6000)  # ten level-0 pixels per pixel of the thumbnail
    marked = _marked(_picture([[2000, 4000, 3000, 4500]], rect=rect))
    assert marked.min(axis=0) == pytest.approx([198, 98], abs=2)
    assert marked.max(axis=0) == pytest.approx([252, 202], abs=2)


def test_the_object_inside_its_frame_stays_visible() -> None:
    picture = _picture([[1000, 1000, 3000, 3000]], rect=Rect(0, 0, 4000, 4000))
    assert np.abs(picture[150:250, 150:250] - np.array(FIELD_RGB)).max() < 12


def test_a_tiny_object_still_gets_a_frame_that_can_be_seen() -> None:
    marked = _marked(_picture([[2000, 2000, 2004, 2004]], rect=Rect(0, 0, 4000, 4000)))
    assert np.ptp(marked, axis=0).min() >= 5


def test_a_slide_without_objects_has_a_picture_too() -> None:
    picture = _picture([], rect=Rect(0, 0, 4000, 4000))
    assert picture.shape[0] > 400
    assert len(_marked(picture)) == 0


def test_boxes_beyond_the_thumbnail_are_no_trouble() -> None:
    picture = _picture([[-900, -900, -100, -100], [3900, 3900, 9000, 9000]], rect=Rect(0, 0, 4000, 4000))
    assert picture.shape[1] == 400


def test_a_size_class_holds_its_lower_edge_and_not_its_upper() -> None:
    classes = size_classes(np.array([0.0, 9.99, 10.0, 19.99, 20.0, 150.0, 499.0, 500.0, 5000.0]))
    assert [SIZE_CLASSES[i].from_um for i in classes] == [0, 0, 10, 10, 20, 150, 150, 500, 500]


@pytest.mark.parametrize(
    ("at_most", "length"), [(199.0, 100.0), (200.0, 200.0), (0.7, 0.5), (7000.0, 5000.0)]
)
def test_scale_bars_are_1_2_or_5_of_a_decade(at_most: float, length: float) -> None:
    assert round_length_um(at_most) == pytest.approx(length)


def test_equal_boxes_give_equal_bytes() -> None:
    thumbnail = np.full((100, 120, 3), FIELD_RGB, np.uint8)
    boxes = Boxes(np.array([[10.0, 10, 60, 70]]), np.ones(1, np.float32))
    rect = Rect(0, 0, 120, 100)
    first, second = (draw_boxes(thumbnail, rect, boxes, mpp=0.25) for _ in range(2))
    assert first == second
