"""The morphology map: a page to pan and zoom, on which each crop is shown at the position of its vector."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.images import resize_to
from fossilray.labels.load import LabelledSet
from fossilray.render.crops import jpeg_uri
from fossilray.render.html import TEMPLATES, template_environment

MAX_SHOWN = 4000
"""Crops on a map; a thumbnail adds about 1.5 kB to the page."""
_THUMBNAIL_PX = 56


def choose_shown(label: NDArray[np.int64], *, limit: int = MAX_SHOWN, seed: int = 0) -> NDArray[np.int64]:
    """Return the rows to show: all, or an equal share of every class drawn at random, at least one of each."""
    if len(label) <= limit:
        return np.arange(len(label))
    rng = np.random.default_rng(seed)
    chosen = []
    for c in np.unique(label).tolist():
        rows = np.flatnonzero(label == c)
        chosen.append(rng.permutation(rows)[: max(1, math.floor(len(rows) * limit / len(label)))])
    return np.sort(np.concatenate(chosen))


def render_map(
    labelled: LabelledSet,
    layouts: Mapping[str, NDArray[np.floating]],
    *,
    rows: NDArray[np.int64],
    title: str,
    caption: str,
    withheld: Sequence[str] = (),
) -> str:
    """Render the map as one HTML file that needs no network.

    Args:
        labelled: The labelled crops.
        layouts: Positions (len(rows), 2) by the layout's name; the first is shown first.
        rows: Rows of the crops shown.
        title: Heading of the page.
        caption: Sentences under the heading.
        withheld: Classes to mark as withheld from training.
    """
    crops = labelled.crops
    script = (TEMPLATES / "morphology.js").read_text(encoding="utf-8")
    columns = max(1, math.ceil(math.sqrt(len(rows))))
    data = {
        "thumb": _THUMBNAIL_PX,
        "across": columns,
        "layouts": {name: _fit_unit_square(positions) for name, positions in layouts.items()},
        "label": crops.label[rows].tolist(),
        "shape": np.round(crops.shape[rows], 3).tolist(),
        "names": [labelled.names[row] for row in rows.tolist()],
        "classes": list(crops.classes),
        "withheld": [name in set(withheld) for name in crops.classes],
    }
    return (
        template_environment()
        .get_template("morphology.html.j2")
        .render(
            title=title,
            caption=caption,
            layouts=list(layouts),
            shown=len(rows),
            total=len(labelled),
            data=_script_safe_json(data),
            sprite=jpeg_uri(_sprite(crops.pixels, rows, columns)),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def _fit_unit_square(positions: NDArray[np.floating]) -> list[list[float]]:
    """Return positions scaled to 0..1 with their aspect ratio kept."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    span = float(np.max(high - low)) or 1.0
    fitted: list[list[float]] = np.round((positions - (low + high) / 2) / span + 0.5, 5).tolist()
    return fitted


def _sprite(pixels: NDArray[np.uint8], rows: NDArray[np.int64], columns: int) -> NDArray[np.uint8]:
    """Return all thumbnails in one image (H, W, 3), row by row."""
    side = _THUMBNAIL_PX
    sprite = np.full((math.ceil(len(rows) / columns) * side, columns * side, 3), 255, np.uint8)
    for number, row in enumerate(rows.tolist()):
        y, x = (side * index for index in divmod(number, columns))
        sprite[y : y + side, x : x + side] = resize_to(pixels[row], size_px=side)
    return sprite


def _script_safe_json(data: Mapping[str, Any]) -> str:
    """Encode as JSON that cannot close a script element or open a comment, whatever names it contains."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
