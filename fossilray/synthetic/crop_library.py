"""Real crops as objects for composites: transmittance, cut out along the outline of each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.images import IMAGE_SUFFIXES

_LONGEST_PX = 256
"""Crops are kept no larger than this: composites show them smaller."""
_MIN_AREA_SHARE, _MAX_AREA_SHARE = 0.04, 0.97
_MIN_CONTRAST = 0.035
"""Least difference from the background (optical density) that an outline is trusted to follow."""


@dataclass(frozen=True)
class Cutout:
    """Real object, cut out of its crop.

    transmittance: (h, w, 3) float32, 1 outside the object. mask: (h, w) bool, pixels of the object.
    """

    kind: str
    transmittance: NDArray[np.float32]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class CropLibrary:
    """Cutouts by kind, in the order of their files."""

    cutouts: tuple[Cutout, ...]
    rejected: int
    """Crops whose outline could not be separated from background or neighbours."""

    @staticmethod
    def from_folder(
        folder: Path, *, only: Sequence[str] | None = None, without: Sequence[str] = ()
    ) -> CropLibrary:
        """Read and cut out the images of a folder with one subfolder per kind.

        Args:
            folder: its subfolders name the kinds; images in the folder itself have the kind `crop`.
            only: kinds to include; None includes all.
            without: kinds to exclude, so that whole genera can be held out for validation.
        """
        cutouts: list[Cutout] = []
        rejected = 0
        for path in sorted(folder.rglob("*")):
            kind = path.parent.name if path.parent != folder else "crop"
            if path.suffix.lower() not in IMAGE_SUFFIXES or kind in without:
                continue
            if only is not None and kind not in only:
                continue
            cutout = cut_out(_read_rgb(path), kind=kind)
            if cutout is None:
                rejected += 1
            else:
                cutouts.append(cutout)
        return CropLibrary(tuple(cutouts), rejected)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(sorted({cutout.kind for cutout in self.cutouts}))

    def joined(self, other: CropLibrary) -> CropLibrary:
        """Return a library with the cutouts of both."""
        return CropLibrary(self.cutouts + other.cutouts, self.rejected + other.rejected)


def cut_out(crop: NDArray[np.uint8], *, kind: str) -> Cutout | None:
    """Return the object in the middle of an RGB crop, or None if its outline is not reliable.

    The transmittance is the crop divided by its background. The outline is the central connected component of high
    optical density (or texture, for ghosts).
    """
    crop = _at_most(crop, _LONGEST_PX)
    background = _background(crop)
    transmittance = np.clip(crop.astype(np.float32) / background, 0.02, 1.25)
    mask = _central_component(_contrast(transmittance))
    if mask is None:
        return None
    alpha = _soft_edge(mask)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    # The soft edge extends beyond the outline; the margin keeps it, and `mask` marks the object alone.
    margin = 3
    window = (
        slice(max(0, rows[0] - margin), rows[-1] + 1 + margin),
        slice(max(0, columns[0] - margin), columns[-1] + 1 + margin),
    )
    soft = 1 + alpha[..., None] * (transmittance - 1)
    return Cutout(kind, np.ascontiguousarray(soft[window], np.float32), np.ascontiguousarray(mask[window]))


def _read_rgb(path: Path) -> NDArray[np.uint8]:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is not an image; remove it from the folder of crops")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _at_most(crop: NDArray[np.uint8], longest_px: int) -> NDArray[np.uint8]:
    scale = longest_px / max(crop.shape[:2])
    if scale >= 1:
        return crop
    size = (max(8, round(crop.shape[1] * scale)), max(8, round(crop.shape[0] * scale)))
    return np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), np.uint8)


def _background(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the RGB (3,) of the clear field: the median of border pixels near the mode of brightness."""
    depth = max(2, round(0.06 * min(crop.shape[:2])))
    border = np.concatenate(
        [
            crop[:depth].reshape(-1, 3),
            crop[-depth:].reshape(-1, 3),
            crop[:, :depth].reshape(-1, 3),
            crop[:, -depth:].reshape(-1, 3),
        ]
    ).astype(np.float32)
    grey = border.mean(1)
    counts, edges = np.histogram(grey, bins=32)
    counts = np.convolve(counts, [1, 2, 1], mode="same")
    # Bright modes win: an object that fills much of the border is darker than the field.
    centres = (edges[:-1] + edges[1:]) / 2
    best = int(np.argmax(counts * np.clip(centres / centres.max(), 0, 1) ** 3))
    near = np.abs(grey - centres[best]) <= 1.5 * (edges[1] - edges[0]) + 1
    return np.asarray(np.maximum(np.median(border[near], axis=0), 16), np.float32)


def _contrast(transmittance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the optical density of the most absorbed colour, or the local relief if that is larger (ghosts)."""
    density = np.abs(np.log10(transmittance)).max(2)
    smooth = cv2.GaussianBlur(density, (0, 0), 1.2)
    grey = cv2.GaussianBlur(transmittance.mean(2), (0, 0), 0.8)
    relief = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
    return np.asarray(np.maximum(smooth, 0.5 * cv2.GaussianBlur(relief, (0, 0), 1.5)), np.float32)


def _central_component(contrast: NDArray[np.float32]) -> NDArray[np.bool_] | None:
    """Return the mask of the central object, at the lowest threshold that separates it; None if no threshold does."""
    height, width = contrast.shape
    scaled = np.clip(contrast * 400, 0, 255).astype(np.uint8)
    otsu, _ = cv2.threshold(scaled, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    # Otsu may split dark from pale inside one object; the noise of the field bounds the faintest object.
    depth = max(2, round(0.05 * min(height, width)))
    border = np.concatenate([contrast[:depth].ravel(), contrast[-depth:].ravel()])
    quiet = float(np.percentile(border, 30))
    lowest = max(_MIN_CONTRAST, 2.2 * quiet, min(0.45 * otsu / 400, 0.12))
    for factor in (1.0, 1.5, 2.2, 3.2):
        mask = _component_in_the_middle(contrast > lowest * factor)
        if mask is not None and _is_one_whole_object(mask):
            return mask
    return None


def _component_in_the_middle(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    height, width = mask.shape
    size = max(3, round(0.02 * max(height, width))) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    closed = _fill_holes(
        np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel), np.uint8)
    )
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, kernel)
    count, labels = cv2.connectedComponents(opened, connectivity=4)
    middle = labels[height // 4 : height - height // 4, width // 4 : width - width // 4]
    share = np.bincount(middle.ravel(), minlength=count)
    share[0] = 0
    label = int(share.argmax())
    if share[label] == 0:
        return None
    # The opening removed thin processes: grow back into the closed mask next to the chosen body.
    reach = np.asarray(cv2.dilate((labels == label).astype(np.uint8), kernel, iterations=3), np.uint8)
    others = ((labels != label) & (labels > 0)).astype(np.uint8)
    _, pieces = cv2.connectedComponents(reach & closed & (1 - others), connectivity=8)
    names = np.bincount(pieces[labels == label])
    return np.asarray(pieces == int(names.argmax()), np.bool_)


def _is_one_whole_object(mask: NDArray[np.bool_]) -> bool:
    """Return whether the mask is one whole object; a ragged mask that leaves the crop includes neighbours."""
    if not _MIN_AREA_SHARE < float(mask.mean()) < _MAX_AREA_SHARE:
        return False
    off_crop = float(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean())
    points = cv2.findNonZero(mask.astype(np.uint8))
    solidity = float(mask.sum()) / max(1.0, float(cv2.contourArea(cv2.convexHull(points))))
    return solidity > 0.45 and off_crop < (0.3 if solidity > 0.9 else 0.02)


def _fill_holes(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(mask)
    cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
    return filled


def _soft_edge(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return weights of 1 inside the mask, falling to 0 within 3 px outside it, near 0 at the crop's border."""
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    padded = np.pad(grown, 2)[2:-2, 2:-2].astype(np.float32)
    padded[[0, -1], :] = 0
    padded[:, [0, -1]] = 0
    return np.asarray(cv2.GaussianBlur(padded, (0, 0), 1.0), np.float32)
