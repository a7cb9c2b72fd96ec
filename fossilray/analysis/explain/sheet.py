"""Sheets of explained crops: each crop, and beside it its maps; a page without script, or a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.explain.crops import CropsToExplain
from fossilray.analysis.explain.gradcam import FeatureMaps
from fossilray.analysis.explain.maps import Explained, Map, Method
from fossilray.analysis.explain.selection import TargetSelection
from fossilray.core.types import Image
from fossilray.render.contact_sheet import GROUND, Ink, Plate, tile_grid, wrap_text, write_sheet
from fossilray.render.crops import jpeg_uri
from fossilray.render.html import template_environment

if TYPE_CHECKING:
    pass

METHOD_NAMES: dict[Method, str] = {
    "grad-cam": "Grad-CAM",
    "guided": "guided Grad-CAM",
    "features": "features",
    "rollout": "attention rollout",
    "attention": "gradient-weighted attention",
}

_CELL_PX = 176
_GAP_PX, _CAPTION_PX, _NAME_PX = 14, 32, 236
_CAPTION_WIDTH_PX = _CELL_PX + _GAP_PX - 4
_GRID = 4
"""Feature maps across and down."""
_BRIGHTEST = 99.5
"""Percentile of a guided map that is drawn darkest: single pixels stand far above the rest."""


@dataclass(frozen=True)
class Panel:
    """One picture of a row, with what it is."""

    picture: Image
    title: str
    detail: str = ""

    @property
    def uri(self) -> str:
        return jpeg_uri(self.picture, quality=88)

    @property
    def width_px(self) -> int:
        return int(self.picture.shape[1])

    @property
    def height_px(self) -> int:
        return int(self.picture.shape[0])


@dataclass(frozen=True)
class ShownCase:
    """A row of the sheet."""

    name: str
    lines: tuple[str, ...]
    panels: tuple[Panel, ...]


def show_cases(
    material: CropsToExplain,
    shares: NDArray[np.float32],
    classes: Sequence[str],
    explained: Sequence[Explained],
) -> list[ShownCase]:
    """The rows of a sheet: the crop, then its maps laid over it."""
    shown = []
    for one in explained:
        case = one.case
        crop = _true(material.pixels[case.row], *material.shape[case.row].tolist())
        lines = [f"head: {classes[case.said]} {shares[case.row, case.said]:.2f}"]
        if material.labels is not None:
            lines.insert(0, f"label: {material.labels[case.row]}")
        panels = [Panel(crop, "crop")]
        for map_ in one.maps:
            largest = max(float(_top(other)) for other in one.maps if other.method == map_.method)
            told = "" if map_.target is None else classes[map_.target]
            share = "" if map_.target is None else f" {shares[case.row, map_.target]:.2f}"
            nothing = "" if float(map_.heat.max()) > 0 else " · nothing"
            panels.append(
                Panel(_draw(map_, crop, largest), METHOD_NAMES[map_.method], f"{told}{share}{nothing}")
            )
        panels += [
            Panel(
                _plate(layer, crop.shape[:2]),
                f"features, {layer.module}",
                f"{len(layer.channels)} of {layer.of} at {layer.maps.shape[2]} by {layer.maps.shape[1]}",
            )
            for layer in one.features
        ]
        shown.append(ShownCase(material.names[case.row], tuple(lines), tuple(panels)))
    return shown


def write_explanation_sheet(
    shown: Sequence[ShownCase], choice: TargetSelection, out: Path, *, facts: Sequence[str]
) -> None:
    """The sheet as .html, .png or .jpg, by the file's name; facts: lines about what was asked.

    Raises:
        UsageError: another ending, or the file cannot be written.
    """
    write_sheet(
        out,
        page=lambda: render_explanation_page(shown, choice, facts=facts),
        picture=lambda: draw_explanation_sheet(shown, choice, facts=facts),
        option="--out",
    )


def render_explanation_page(
    shown: Sequence[ShownCase], choice: TargetSelection, *, facts: Sequence[str]
) -> str:
    """The page as HTML; no network, no script."""
    environment = template_environment()
    return environment.get_template("explain.html.j2").render(choice=choice, facts=facts, cases=shown)


def draw_explanation_sheet(
    shown: Sequence[ShownCase], choice: TargetSelection, *, facts: Sequence[str]
) -> Image:
    """One picture: a row for each crop, its maps in a line."""
    across = max((len(one.panels) for one in shown), default=1)
    pitch_x, pitch_y = _CELL_PX + _GAP_PX, _CELL_PX + _CAPTION_PX + _GAP_PX
    width = _NAME_PX + across * pitch_x + 2 * _GAP_PX
    header = [line for text in (choice.says, *facts) for line in wrap_text(text, size=12, width=width - 40)]
    top = 48 + 17 * len(header) + _GAP_PX
    plate = Plate(width, top + pitch_y * len(shown))
    plate.add_text(choice.title, _GAP_PX, 12, size=20)
    for number, line in enumerate(header):
        plate.add_text(line, _GAP_PX, 44 + 17 * number, size=12, ink="faint")
    for row in shown:
        names = wrap_text(row.name, size=12, width=_NAME_PX - _GAP_PX)[:4]
        lines = [part for text in row.lines for part in wrap_text(text, size=12, width=_NAME_PX - _GAP_PX)]
        for number, line in enumerate((*names, *lines)):
            ink: Ink = "ink" if number < len(names) else "faint"
            plate.add_text(line, _GAP_PX, top + 17 * number, size=12, ink=ink)
        for number, panel in enumerate(row.panels):
            left, below = _NAME_PX + _GAP_PX + number * pitch_x, top + _CELL_PX
            plate.add_image(panel.picture, left, below - panel.height_px)
            plate.add_text(panel.title, left, below + 2, size=12, width=_CAPTION_WIDTH_PX)
            plate.add_text(panel.detail, left, below + 16, size=12, ink="faint", width=_CAPTION_WIDTH_PX)
        top += pitch_y
    return plate.to_image()


def _top(map_: Map) -> float:
    """What is drawn strongest."""
    if map_.method == "guided":
        return float(np.percentile(map_.heat, _BRIGHTEST))
    return float(map_.heat.max())


def _draw(map_: Map, crop: Image, largest: float) -> Image:
    """The map over its crop: guided ones as ink on paper, others as colour over the grey crop."""
    import cv2

    height, width = crop.shape[:2]
    low = float(map_.heat.min()) if map_.method == "rollout" else 0.0
    share = np.clip((map_.heat - low) / max(largest - low, 1e-30), 0, 1).astype(np.float32)
    method = cv2.INTER_AREA if map_.heat.shape[0] > height else cv2.INTER_LINEAR
    share = np.clip(cv2.resize(share, (width, height), interpolation=method), 0, 1)[..., None]
    if map_.method == "guided":
        paper, ink = np.array(GROUND, np.float32), np.array([120.0, 20, 40], np.float32)
        return _image(paper + (ink - paper) * share)
    grey = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2).astype(np.float32)
    colour = _colours(share[..., 0])
    alpha = 0.85 * share**0.75
    return _image(grey * (1 - alpha) + colour * alpha)


def _image(light: NDArray[Any]) -> Image:
    return np.asarray(np.round(light), np.uint8)


def _plate(layer: FeatureMaps, size: tuple[int, int]) -> Image:
    """A grid of feature maps, each in the crop's proportions; black is a channel's least, white its most."""
    import cv2

    height, width = (max(4, (side - _GRID + 1) // _GRID) for side in size)
    cells = np.zeros((_GRID * _GRID, height, width, 3), np.uint8)
    cells[:] = GROUND
    for number, one in enumerate(layer.maps.numpy()[: _GRID * _GRID]):
        method = cv2.INTER_AREA if one.shape[0] > height else cv2.INTER_NEAREST
        small = cv2.resize(one, (width, height), interpolation=method)
        cells[number] = np.round(255 * small)[..., None]
    return tile_grid(cells, columns=_GRID, gap_px=1)


def _true(crop: Image, across: float, down: float) -> Image:
    """The crop in its true proportions, its longest side as on the sheet."""
    import cv2

    width, height = (max(24, round(_CELL_PX * side)) for side in (across, down))
    smaller = width * height < crop.shape[0] * crop.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(crop, (width, height), interpolation=method))


def _colours(share: NDArray[np.float32]) -> NDArray[np.float32]:
    from matplotlib import colormaps

    painted: NDArray[np.float32] = 255 * np.asarray(colormaps["inferno"](share), np.float32)[..., :3]
    return painted
