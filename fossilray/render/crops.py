"""One crop as it is shown: in proportion, with its scale bar and caption."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import CropFit
from fossilray.core.records import UNASSIGNED_WELL
from fossilray.core.types import Image
from fossilray.render.slide_overview import round_length_um

if TYPE_CHECKING:
    pass


_CELL_PX = 118  # longest side of a crop on a contact sheet, in CSS pixels


_JPEG_QUALITY = 84


_THINNEST_PX = 6  # of a crop amid a square, however thin the object


@dataclass(frozen=True)
class CropFigure:
    """One crop as the page shows it: in its true proportions, with a scale bar and a caption."""

    uri: str
    width_px: int
    height_px: int
    bar_px: float
    bar_label: str
    slide_id: str
    object_id: int
    place: str
    """Well and depth, or the slide where neither is known."""
    detail: str


@dataclass(frozen=True)
class ContactSheet:
    """Crops chosen in one way."""

    title: str
    says: str
    crops: tuple[CropFigure, ...]


def show_crop(row: Mapping[str, Any], crop: Image, *, fit: CropFit, detail: str) -> CropFigure:
    """The crop of a row of `objects` as the page shows it, with `detail` below it."""
    width_um, height_um = float(row["width_um"]), float(row["height_um"])
    longest_um = max(width_um, height_um, 1e-6)
    px_per_um = _CELL_PX / longest_um
    if fit == "letterbox":
        width, height = _CELL_PX, _CELL_PX
    else:
        width, height = (max(round(side * px_per_um), 8) for side in (width_um, height_um))
    bar_um = round_length_um(0.42 * longest_um)
    return CropFigure(
        uri=jpeg_uri(resize_image(crop, min(2 * width, crop.shape[1]), min(2 * height, crop.shape[0]))),
        width_px=width,
        height_px=height,
        bar_px=bar_um * px_per_um,
        bar_label=f"{bar_um:g} µm",
        slide_id=row["slide_id"],
        object_id=row["object_id"],
        place=_name_place(row["slide_id"], row["well"], row["measured_depth_m"]),
        detail=detail,
    )


def centre_in_square(
    crop: Image, across: float, down: float, *, side_px: int, ground: tuple[int, int, int]
) -> Image:
    """The crop in the proportions of across : down, its longer side the square's, on a ground of one colour.

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
    """An image (H, W, 3) as a data URI."""
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    # Not optimize=True: Pillow then has room for one byte a pixel, and a crop of noise takes more.
    Pillow.fromarray(image).save(buffer, "JPEG", quality=quality)
    return to_uri(buffer.getvalue())


def to_uri(jpeg: bytes) -> str:
    """A JPEG file as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def name_size(row: Mapping[str, Any]) -> str:
    return f"{row['width_um']:.0f} × {row['height_um']:.0f} µm · {row['score']:.2f}"


def _name_place(slide_id: str, well: str, depth_m: float | None) -> str:
    if well == UNASSIGNED_WELL or depth_m is None:
        return slide_id
    return f"{well} {depth_m:,.10g} m"


def field_of(crop: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colour of the clear field of a crop: bright, and on its border if there is any there."""
    border = np.concatenate([crop[0], crop[-1], crop[:, 0], crop[:, -1]])
    return np.asarray(np.quantile(border, 0.6, axis=0), dtype=np.float32)


def resize_image(crop: Image, width: int, height: int) -> Image:
    from PIL import Image as Pillow

    return np.asarray(Pillow.fromarray(crop).resize((width, height), Pillow.Resampling.LANCZOS))
