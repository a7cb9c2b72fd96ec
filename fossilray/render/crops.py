"""Crops on pages: in their aspect ratio, with scale bar and caption."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import CropFit
from fossilray.core.records import UNASSIGNED_WELL
from fossilray.core.types import Image
from fossilray.render.slide_overview import round_length_um

_CELL_PX = 118  # longest side of a crop on a contact sheet, in CSS pixels


_JPEG_QUALITY = 84


_THINNEST_PX = 6  # smallest side of a crop in a square


@dataclass(frozen=True)
class CropFigure:
    """A crop on a page: an image in its true aspect ratio, with scale bar and caption."""

    uri: str
    width_px: int
    height_px: int
    bar_px: float
    bar_label: str
    slide_id: str
    object_id: int
    location: str
    """Well and depth, or the slide if they are unknown."""
    detail: str


@dataclass(frozen=True)
class ContactSheet:
    """Crops that were selected by one rule."""

    title: str
    caption: str
    crops: tuple[CropFigure, ...]


def show_crop(row: Mapping[str, Any], crop: Image, *, fit: CropFit, detail: str) -> CropFigure:
    """Return the figure of a crop of a row of `objects`, with `detail` in its caption."""
    width_um, height_um = float(row["width_um"]), float(row["height_um"])
    longest_um = max(width_um, height_um, 1e-6)
    px_per_um = _CELL_PX / longest_um
    if fit == "letterbox":
        width, height = _CELL_PX, _CELL_PX
    else:
        width, height = (max(round(side * px_per_um), 8) for side in (width_um, height_um))
    bar_um = round_length_um(0.42 * longest_um)
    return CropFigure(
        uri=jpeg_uri(resize_lanczos(crop, min(2 * width, crop.shape[1]), min(2 * height, crop.shape[0]))),
        width_px=width,
        height_px=height,
        bar_px=bar_um * px_per_um,
        bar_label=f"{bar_um:g} µm",
        slide_id=row["slide_id"],
        object_id=row["object_id"],
        location=_describe_location(row["slide_id"], row["well"], row["measured_depth_m"]),
        detail=detail,
    )


def centre_in_square(
    crop: Image, across: float, down: float, *, side_px: int, ground: tuple[int, int, int]
) -> Image:
    """Resize a crop to the aspect ratio across : down and centre it in a square of one colour.

    Returns:
        (side_px, side_px, 3) uint8.
    """
    import cv2

    scale = side_px / max(across, down, 1e-6)
    width, height = (min(side_px, max(_THINNEST_PX, round(side * scale))) for side in (across, down))
    square = np.empty((side_px, side_px, 3), np.uint8)
    square[:] = ground
    left, top = (side_px - width) // 2, (side_px - height) // 2
    square[top : top + height, left : left + width] = cv2.resize(
        crop, (width, height), interpolation=cv2.INTER_AREA
    )
    return square


def jpeg_uri(image: Image, *, quality: int = _JPEG_QUALITY) -> str:
    """Encode an image (H, W, 3) as JPEG in a data URI."""
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    # Not optimize=True: Pillow then reserves one byte per pixel, and a crop of noise takes more.
    Pillow.fromarray(image).save(buffer, "JPEG", quality=quality)
    return jpeg_data_uri(buffer.getvalue())


def jpeg_data_uri(jpeg: bytes) -> str:
    """Return the data URI of a JPEG file."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def describe_size(row: Mapping[str, Any]) -> str:
    """Width, height and score of a row of `objects`: `42 × 30 µm · 0.87`."""
    return f"{row['width_um']:.0f} × {row['height_um']:.0f} µm · {row['score']:.2f}"


def _describe_location(slide_id: str, well: str, depth_m: float | None) -> str:
    if well == UNASSIGNED_WELL or depth_m is None:
        return slide_id
    return f"{well} {depth_m:,.10g} m"


def background_colour(crop: NDArray[np.float32]) -> NDArray[np.float32]:
    """Background colour of a crop, as (3,): the 0.6 quantile of its border, which is mostly background."""
    border = np.concatenate([crop[0], crop[-1], crop[:, 0], crop[:, -1]])
    return np.asarray(np.quantile(border, 0.6, axis=0), dtype=np.float32)


def resize_lanczos(crop: Image, width: int, height: int) -> Image:
    """Resize an image with the Lanczos filter."""
    from PIL import Image as Pillow

    return np.asarray(Pillow.fromarray(crop).resize((width, height), Pillow.Resampling.LANCZOS))
