"""Specimens of a synthetic slide, each painted once through the optics of its scanner."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.synthetic.painters.palynomorphs import FOSSIL_KINDS, paint
from fossilray.synthetic.scanner.optics import defocus

MOST_DIFFERENT = 640
"""Largest number of distinct specimens; further objects repeat them, rotated or mirrored, to bound memory."""

# A 20x objective resolves about 0.35 um: finer painting would cost time and show nothing.
_RESOLVED_UM = 0.36
_OUT_OF_FOCUS_SHARE = 0.1
_MAY_BE_DYED = ("fibre", "mineral_grain", "air_bubble")
_OPAQUE = 0.12
"""Transmittance below which a pixel hides what is under it."""

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class Specimen:
    """Painted specimen.

    light: (h, w, 3) float16 transmittance. mask: (h, w) visible pixels. opaque: (h, w) pixels that hide objects under
    them.
    """

    kind: str
    light: NDArray[np.float16]
    mask: NDArray[np.bool_]
    opaque: NDArray[np.bool_]
    contrast: float
    """Mean change of light over the mask, of the channel that changes most."""

    @property
    def is_fossil(self) -> bool:
        return self.kind in FOSSIL_KINDS

    def turned(self, turn: int) -> Specimen:
        """Return the specimen in one of eight orientations: turn % 4 quarter turns, mirrored from 4 on (views)."""

        def turned(sheet: NDArray[_Number]) -> NDArray[_Number]:
            rotated = np.rot90(sheet, turn % 4)
            return rotated[:, ::-1] if turn >= 4 else rotated

        return replace(self, light=turned(self.light), mask=turned(self.mask), opaque=turned(self.opaque))


@dataclass(frozen=True)
class Optics:
    """Optics of a slide's scanner, and the ageing of its specimens.

    pigment: (3,) factors on the optical density. blur_px: standard deviation of the blur. fringe_px: distance between
    red and blue.
    """

    um_per_px: float
    pigment: NDArray[np.float32]
    blur_px: float
    fringe_px: float


def paint_specimen(kind: str, *, size_um: float, optics: Optics, rng: np.random.Generator) -> Specimen:
    """Paint a new individual of a kind through the optics of the slide."""
    um_per_px = optics.um_per_px
    coarse = max(um_per_px, _RESOLVED_UM) if size_um > 25 else um_per_px
    painted = paint(kind, size_um=size_um, um_per_px=coarse, rng=rng)
    light, mask = painted.transmittance, painted.mask
    if coarse > um_per_px:
        shape = tuple(round(side * coarse / um_per_px) for side in light.shape[1::-1])
        light = np.asarray(cv2.resize(light, shape, interpolation=cv2.INTER_CUBIC), np.float32)
        mask = cv2.resize(mask.astype(np.float32), shape, interpolation=cv2.INTER_LINEAR) > 0.5
    light = np.clip(light, 0.004, 1.25)
    light = _age(light if kind in _MAY_BE_DYED else _unstained(light, mask), optics)
    blur_um = optics.blur_px * um_per_px
    if rng.random() < _OUT_OF_FOCUS_SHARE:
        blur_um = float(min(rng.uniform(0.8, 3.0), 0.06 * size_um))
    blurred = np.minimum(defocus(light, blur_um, um_per_px), np.float32(1.25))
    mask = np.pad(mask, (blurred.shape[0] - light.shape[0]) // 2)
    change = np.abs(blurred[mask] - 1).max(1) if mask.any() else np.zeros(1)
    opaque = blurred.max(2) <= _OPAQUE
    return Specimen(kind, blurred.astype(np.float16), mask, opaque, float(change.mean()))


def _unstained(light: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the light with channels sorted as for unstained walls: mean transmittance highest in red, lowest in blue.

    Real slides are stained as a whole or not at all, but the painter stains single specimens.
    """
    if not mask.any():
        return light
    order = np.argsort(-light[mask].mean(0), kind="stable")
    return np.ascontiguousarray(light[..., order])


def _age(light: NDArray[np.float32], optics: Optics) -> NDArray[np.float32]:
    """Return the light through aged walls (to the power of the pigment), with red and blue shifted apart."""
    size = (light.shape[1], light.shape[0])
    planes = []
    for plane, power, side in zip(cv2.split(light), optics.pigment, (1, 0, -1), strict=True):
        aged = cv2.pow(plane, float(power))
        if side and optics.fringe_px:
            shift = side * optics.fringe_px
            move = np.array([[1, 0, shift], [0, 1, 0.6 * shift]], np.float32)
            aged = cv2.warpAffine(aged, move, size, borderMode=cv2.BORDER_REPLICATE)
        planes.append(aged)
    return np.asarray(cv2.merge(planes), np.float32)
