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
from fossilray.core.errors import UsageError
from fossilray.core.text import strip_control_characters
from fossilray.core.types import Image
from fossilray.core.whole_files import write_whole
from fossilray.render.crops import jpeg_uri
from fossilray.render.html import encode_picture, template_environment

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

ENDINGS = (".html", ".png", ".jpg", ".jpeg")
METHOD_NAMES: dict[Method, str] = {
    "grad-cam": "Grad-CAM",
    "guided": "guided Grad-CAM",
    "features": "features",
    "rollout": "attention rollout",
    "attention": "gradient-weighted attention",
}

_CELL_PX = 176
_GAP_PX, _CAPTION_PX, _NAME_PX = 14, 32, 236
_GROUND, _INK, _FAINT = (252, 251, 248), (36, 33, 28), (113, 106, 95)
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


def check_ending(out: Path) -> None:
    """Raise UsageError unless a sheet can be written into a file of this name."""
    if out.suffix.lower() not in ENDINGS:
        raise UsageError(f"--out {out} is neither .html nor .png nor .jpg; choose one of these")


def write_sheet(
    shown: Sequence[ShownCase], choice: TargetSelection, out: Path, *, facts: Sequence[str]
) -> None:
    """The sheet as .html, .png or .jpg, by the file's name; facts: lines about what was asked.

    Raises:
        UsageError: another ending, or the file cannot be written.
    """
    check_ending(out)
    if out.suffix.lower() == ".html":
        write_whole(out, render_page(shown, choice, facts=facts))
    else:
        write_whole(out, encode_picture(draw_sheet(shown, choice, facts=facts), out.suffix))


def render_page(shown: Sequence[ShownCase], choice: TargetSelection, *, facts: Sequence[str]) -> str:
    """The page as HTML; no network, no script."""
    environment = template_environment()
    return environment.get_template("explain.html.j2").render(choice=choice, facts=facts, cases=shown)


def draw_sheet(shown: Sequence[ShownCase], choice: TargetSelection, *, facts: Sequence[str]) -> Image:
    """One picture: a row for each crop, its maps in a line."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    across = max((len(one.panels) for one in shown), default=1)
    pitch_x, pitch_y = _CELL_PX + _GAP_PX, _CELL_PX + _CAPTION_PX + _GAP_PX
    width = _NAME_PX + across * pitch_x + 2 * _GAP_PX
    large, font = ImageFont.load_default(20), ImageFont.load_default(12)
    scratch = ImageDraw.Draw(Pillow.new("RGB", (1, 1)))
    told = [line for text in (choice.says, *facts) for line in _wrapped(scratch, text, font, width - 40)]
    top = 48 + 17 * len(told) + _GAP_PX
    plate = Pillow.new("RGB", (width, top + pitch_y * len(shown)), _GROUND)
    draw = ImageDraw.Draw(plate)
    draw.text((_GAP_PX, 12), strip_control_characters(choice.title), _INK, large)
    for number, line in enumerate(told):
        draw.text((_GAP_PX, 44 + 17 * number), line, _FAINT, font)
    for row in shown:
        lines = [part for text in row.lines for part in _wrapped(draw, text, font, _NAME_PX - _GAP_PX)]
        names = _wrapped(draw, row.name, font, _NAME_PX - _GAP_PX)[:4]
        for number, (line, ink) in enumerate([(n, _INK) for n in names] + [(t, _FAINT) for t in lines]):
            draw.text((_GAP_PX, top + 17 * number), line, ink, font)
        for number, panel in enumerate(row.panels):
            left = _NAME_PX + _GAP_PX + number * pitch_x
            plate.paste(Pillow.fromarray(panel.picture), (left, top + _CELL_PX - panel.height_px))
            draw.text((left, top + _CELL_PX + 2), _fitting(draw, panel.title, font), _INK, font)
            draw.text((left, top + _CELL_PX + 16), _fitting(draw, panel.detail, font), _FAINT, font)
        top += pitch_y
    return np.asarray(plate)


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
        paper, ink = np.array(_GROUND, np.float32), np.array([120.0, 20, 40], np.float32)
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
    plate = np.full((_GRID * (height + 1) - 1, _GRID * (width + 1) - 1, 3), _GROUND, np.uint8)
    for number, one in enumerate(layer.maps.numpy()[: _GRID * _GRID]):
        method = cv2.INTER_AREA if one.shape[0] > height else cv2.INTER_NEAREST
        small = cv2.resize(one, (width, height), interpolation=method)
        top, left = number // _GRID * (height + 1), number % _GRID * (width + 1)
        plate[top : top + height, left : left + width] = np.round(255 * small)[..., None]
    return plate


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


def _wrapped(draw: ImageDraw, text: str, font: FreeTypeFont | ImageFont, width: int) -> list[str]:
    """A text in lines that fit, broken between words or, where a word is longer, within it."""
    lines = [""]
    for word in strip_control_characters(text).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for sign in word:
            if draw.textlength(lines[-1] + sign, font) > width:
                lines.append("")
            lines[-1] += sign
    return lines


def _fitting(draw: ImageDraw, text: str, font: Any) -> str:
    """As much of a text as fits below a picture."""
    text = strip_control_characters(text)
    while text and draw.textlength(text, font) > _CELL_PX + _GAP_PX - 4:
        text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
    return text
