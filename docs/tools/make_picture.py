"""Draw docs/pictures/demo.png: part of a demo's slide with every object that the run found.

fossilray demo && python docs/tools/make_picture.py fossilray-demo
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fossilray.core.types import Boxes, Rect
from fossilray.render.slide_overview import draw_boxes
from fossilray.slides.slide import open_slide
from fossilray.store import RunStore
from fossilray.store.query.connection import run_query

PICTURE = Path(__file__).parents[1] / "pictures" / "demo.png"
WIDTH_PX, HEIGHT_PX = 1200, 640
LEVEL0_PER_PX = 4


def main(demo: Path) -> None:
    """Write the richest field of the slide with the second most objects."""
    store = RunStore.open(str(demo / "run"))
    ranked = run_query(
        store,
        "SELECT slide_id, path FROM slides JOIN (SELECT slide_id, count(*) AS n FROM objects GROUP BY ALL) "
        "USING (slide_id) ORDER BY n DESC, slide_id LIMIT 2",
    ).to_pylist()
    chosen = ranked[-1]
    table = run_query(
        store,
        f"SELECT x_min, y_min, x_max, y_max, score FROM objects WHERE slide_id = '{chosen['slide_id']}'",
    )
    columns = [np.asarray(table.column(name).to_numpy(), np.float64) for name in table.column_names]
    boxes = Boxes(np.stack(columns[:4], 1), columns[4].astype(np.float32))
    with open_slide(Path(chosen["path"])) as slide:
        field = _richest(boxes, slide.info.bounds)
        level = slide.level_for(slide.info.mpp * LEVEL0_PER_PX)
        down = slide.info.levels[level].downsample
        pixels = slide.read(
            level, field.x_min, field.y_min, round(field.width / down), round(field.height / down)
        )
        inside = boxes.take(
            (boxes.xyxy[:, 2:] > [field.x_min, field.y_min]).all(1)
            & (boxes.xyxy[:, :2] < [field.x_max, field.y_max]).all(1)
        )
        jpeg = draw_boxes(pixels, field, inside, mpp=slide.info.mpp, quality=95)
    PICTURE.parent.mkdir(exist_ok=True)
    with Image.open(io.BytesIO(jpeg)) as drawn:
        # A palette keeps the file small, without a visible difference.
        drawn.quantize(256).save(PICTURE, optimize=True)
    print(f"{len(inside)} objects -> {PICTURE}, {PICTURE.stat().st_size // 1000} kB")


def _richest(boxes: Boxes, bounds: Rect) -> Rect:
    """The field that holds most objects, among those on a grid of half fields."""
    width, height = WIDTH_PX * LEVEL0_PER_PX, HEIGHT_PX * LEVEL0_PER_PX
    centres = (boxes.xyxy[:, :2] + boxes.xyxy[:, 2:]) / 2
    best, most = Rect(bounds.x_min, bounds.y_min, bounds.x_min + width, bounds.y_min + height), -1
    for top in range(bounds.y_min, max(bounds.y_min, bounds.y_max - height) + 1, height // 2):
        for left in range(bounds.x_min, max(bounds.x_min, bounds.x_max - width) + 1, width // 2):
            held = ((centres >= [left, top]) & (centres < [left + width, top + height])).all(1).sum()
            if held > most:
                best, most = Rect(left, top, left + width, top + height), int(held)
    return best


if __name__ == "__main__":
    main(Path(sys.argv[1]))
