"""The morphology map: every crop where its vector lies, as a page to zoom into, by UMAP or by t-SNE."""

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

THUMB_PX = 56
MOST_SHOWN = 4000
"""Crops on a map; of more, so many are drawn, alike of every class. A thumbnail is some 1.5 kB of the page."""


def choose_shown(label: NDArray[np.int64], *, most: int = MOST_SHOWN, seed: int = 0) -> NDArray[np.int64]:
    """Rows to show: all, or the same share of every class, at least one of each."""
    if len(label) <= most:
        return np.arange(len(label))
    rng = np.random.default_rng(seed)
    chosen = []
    for c in np.unique(label).tolist():
        own = np.flatnonzero(label == c)
        chosen.append(rng.permutation(own)[: max(1, math.floor(len(own) * most / len(label)))])
    return np.sort(np.concatenate(chosen))


def render_map(
    labelled: LabelledSet,
    layouts: Mapping[str, NDArray[np.floating]],
    *,
    rows: NDArray[np.int64],
    title: str,
    says: str,
    withheld: Sequence[str] = (),
) -> str:
    """One HTML file that needs no network: drag, wheel, choose a layout, point at a crop, pick out a class.

    layouts: places (len(rows), 2) by the layout's name; the first is shown at first. withheld: classes that the
    backbone never learned from, marked.
    """

    crops = labelled.crops
    script = (TEMPLATES / "morphology.js").read_text(encoding="utf-8")
    across = max(1, math.ceil(math.sqrt(len(rows))))
    content = {
        "thumb": THUMB_PX,
        "across": across,
        "layouts": {name: _to_square(places) for name, places in layouts.items()},
        "label": crops.label[rows].tolist(),
        "shape": np.round(crops.shape[rows], 3).tolist(),
        "names": [labelled.names[row] for row in rows.tolist()],
        "classes": list(crops.classes),
        "withheld": [name in set(withheld) for name in crops.classes],
    }
    environment = template_environment()
    return environment.get_template("morphology.html.j2").render(
        title=title,
        says=says,
        layouts=list(layouts),
        shown=len(rows),
        total=len(labelled),
        data=_for_script(content),
        sprite=jpeg_uri(_sprite(crops.pixels, rows, across)),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _to_square(places: NDArray[np.floating]) -> list[list[float]]:
    """Places in 0..1, their proportions kept."""
    low, high = places.min(axis=0), places.max(axis=0)
    span = float(np.max(high - low)) or 1.0
    centred = (places - (low + high) / 2) / span + 0.5
    shown: list[list[float]] = np.round(centred, 5).tolist()
    return shown


def _sprite(pixels: NDArray[np.uint8], rows: NDArray[np.int64], across: int) -> NDArray[np.uint8]:
    """All thumbnails in one picture, row by row."""
    down = math.ceil(len(rows) / across)
    sheet = np.full((down * THUMB_PX, across * THUMB_PX, 3), 255, np.uint8)
    for place, row in enumerate(rows.tolist()):
        y, x = (THUMB_PX * number for number in divmod(place, across))
        sheet[y : y + THUMB_PX, x : x + THUMB_PX] = resize_to(pixels[row], size_px=THUMB_PX)
    return sheet


def _for_script(content: Mapping[str, Any]) -> str:
    """JSON that ends no script element and begins no comment, whatever names it holds."""
    plain = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        plain = plain.replace(sign, f"\\u{ord(sign):04x}")
    return plain
