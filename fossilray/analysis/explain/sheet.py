"""Sheets of explanations: a row for each crop with its maps, as a page without scripts or as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.explain.crops import CropsToExplain
from fossilray.analysis.explain.gradcam import FeatureMaps
from fossilray.analysis.explain.maps import Explanation, ExplanationMap, Method
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
"""Feature maps per row and column."""
_TOP_PERCENTILE = 99.5
"""Percentile of a guided map that gets full colour; a few pixels are far above the others."""


@dataclass(frozen=True)
class Panel:
    """One picture of a row with its caption."""

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
class SheetRow:
    """One crop of the sheet with its maps."""

    name: str
    lines: tuple[str, ...]
    panels: tuple[Panel, ...]


def sheet_rows(
    crops: CropsToExplain,
    probabilities: NDArray[np.float32],
    classes: Sequence[str],
    explanations: Sequence[Explanation],
) -> list[SheetRow]:
    """Return the rows of a sheet: each crop, then its maps drawn over it."""
    rows = []
    for explanation in explanations:
        target = explanation.target
        crop = _resize(crops.pixels[target.row], *crops.shape[target.row].tolist())
        lines = [f"predicted: {classes[target.predicted]} {probabilities[target.row, target.predicted]:.2f}"]
        if crops.labels is not None:
            lines.insert(0, f"label: {crops.labels[target.row]}")
        panels = [Panel(crop, "crop")]
        for map_ in explanation.maps:
            top = max(_top(other) for other in explanation.maps if other.method == map_.method)
            genus = "" if map_.target is None else classes[map_.target]
            probability = "" if map_.target is None else f" {probabilities[target.row, map_.target]:.2f}"
            empty = "" if float(map_.heat.max()) > 0 else " · no evidence"
            panels.append(
                Panel(draw_heat(map_, crop, top), METHOD_NAMES[map_.method], f"{genus}{probability}{empty}")
            )
        panels += [
            Panel(
                _draw_features(layer, crop.shape[:2]),
                f"feature maps, {layer.module}",
                f"{len(layer.channels)} of {layer.channel_count}, {layer.maps.shape[2]} × {layer.maps.shape[1]} px",
            )
            for layer in explanation.features
        ]
        rows.append(SheetRow(crops.names[target.row], tuple(lines), tuple(panels)))
    return rows


def write_explanation_sheet(
    rows: Sequence[SheetRow], selection: TargetSelection, out: Path, *, notes: Sequence[str]
) -> None:
    """Write a sheet as .html, .png or .jpg, by the suffix of `out`. `notes`: lines below the caption.

    Raises:
        UsageError: another suffix, or the file cannot be written.
    """
    write_sheet(
        out,
        page=lambda: render_explanation_page(rows, selection, notes=notes),
        picture=lambda: draw_explanation_sheet(rows, selection, notes=notes),
        option="--out",
    )


def render_explanation_page(
    rows: Sequence[SheetRow], selection: TargetSelection, *, notes: Sequence[str]
) -> str:
    """Render a sheet as a page without network or scripts."""
    template = template_environment().get_template("explain.html.j2")
    return template.render(selection=selection, notes=notes, rows=rows)


def draw_explanation_sheet(
    rows: Sequence[SheetRow], selection: TargetSelection, *, notes: Sequence[str]
) -> Image:
    """Draw a sheet as one picture with a row for each crop."""
    across = max((len(row.panels) for row in rows), default=1)
    pitch_x, pitch_y = _CELL_PX + _GAP_PX, _CELL_PX + _CAPTION_PX + _GAP_PX
    width = _NAME_PX + across * pitch_x + 2 * _GAP_PX
    header = [
        line for text in (selection.caption, *notes) for line in wrap_text(text, size=12, width=width - 40)
    ]
    top = 48 + 17 * len(header) + _GAP_PX
    plate = Plate(width, top + pitch_y * len(rows))
    plate.add_text(selection.title, _GAP_PX, 12, size=20)
    for number, line in enumerate(header):
        plate.add_text(line, _GAP_PX, 44 + 17 * number, size=12, ink="faint")
    for row in rows:
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


def _top(map_: ExplanationMap) -> float:
    """Return the value of a map that gets full colour."""
    if map_.method == "guided":
        return float(np.percentile(map_.heat, _TOP_PERCENTILE))
    return float(map_.heat.max())


def draw_heat(map_: ExplanationMap, crop: Image, top: float) -> Image:
    """Draw a map over its crop: guided maps in one ink on white, others in colour over the grey crop."""
    import cv2

    height, width = crop.shape[:2]
    low = float(map_.heat.min()) if map_.method == "rollout" else 0.0
    strength = np.clip((map_.heat - low) / max(top - low, 1e-30), 0, 1).astype(np.float32)
    method = cv2.INTER_AREA if map_.heat.shape[0] > height else cv2.INTER_LINEAR
    strength = np.clip(cv2.resize(strength, (width, height), interpolation=method), 0, 1)[..., None]
    if map_.method == "guided":
        paper, ink = np.array(GROUND, np.float32), np.array([120.0, 20, 40], np.float32)
        return _image(paper + (ink - paper) * strength)
    grey = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2).astype(np.float32)
    colour = _colours(strength[..., 0])
    alpha = 0.85 * strength**0.75
    return _image(grey * (1 - alpha) + colour * alpha)


def _image(light: NDArray[Any]) -> Image:
    return np.asarray(np.round(light), np.uint8)


def _draw_features(layer: FeatureMaps, size: tuple[int, int]) -> Image:
    """Draw feature maps in a grid, each in the crop's proportions, from black (minimum) to white (maximum)."""
    import cv2

    height, width = (max(4, (side - _GRID + 1) // _GRID) for side in size)
    cells = np.zeros((_GRID * _GRID, height, width, 3), np.uint8)
    cells[:] = GROUND
    for number, feature_map in enumerate(layer.maps.numpy()[: _GRID * _GRID]):
        method = cv2.INTER_AREA if feature_map.shape[0] > height else cv2.INTER_NEAREST
        small = cv2.resize(feature_map, (width, height), interpolation=method)
        cells[number] = np.round(255 * small)[..., None]
    return tile_grid(cells, columns=_GRID, gap_px=1)


def _resize(crop: Image, relative_width: float, relative_height: float) -> Image:
    """Scale a crop to its proportions and to the cell of the sheet."""
    import cv2

    width, height = (max(24, round(_CELL_PX * side)) for side in (relative_width, relative_height))
    smaller = width * height < crop.shape[0] * crop.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(crop, (width, height), interpolation=method))


def _colours(strength: NDArray[np.float32]) -> NDArray[np.float32]:
    from matplotlib import colormaps

    colours: NDArray[np.float32] = 255 * np.asarray(colormaps["inferno"](strength), np.float32)[..., :3]
    return colours
