"""Scene of one synthetic slide: its objects, and any region of its image on demand."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.types import Rect
from fossilray.synthetic.assemblage import Assemblage, draw_size_um
from fossilray.synthetic.painted_specimens import MOST_DIFFERENT, Optics, Specimen, paint_specimen
from fossilray.synthetic.painters.palynomorphs import KINDS
from fossilray.synthetic.placement import CoverGlass, Field, Placement, arrange_objects
from fossilray.synthetic.scanner.backdrop import BLOCK_PX, Backdrop

SMALLEST_UM = 5.0
"""Longest side of the smallest object that the truth names."""
LEAST_CONTRAST = 0.045
"""Least mean change of light over an object that an eye would notice."""
_LEAST_VISIBLE_SHARE = 0.4
_CACHED_BLOCKS = 128


@dataclass(frozen=True)
class SceneObject:
    """Visible object; box: of its visible pixels, px of the scene."""

    kind: str
    is_fossil: bool
    box: Rect


class Scene:
    """PixelSource of a synthetic slide, rendered block by block from specimens that are painted once.

    Memory: at most MOST_DIFFERENT specimens, _CACHED_BLOCKS blocks, and some numbers for each object.
    """

    def __init__(
        self, assemblage: Assemblage, *, width: int, height: int, um_per_px: float, seed: list[int]
    ) -> None:
        self.width, self.height, self.um_per_px = width, height, um_per_px
        rng = np.random.default_rng(seed)
        self._glass = CoverGlass(width, height)
        self._backdrop = Backdrop(rng, width=width, height=height, um_per_px=um_per_px)
        area_mm2 = self._glass.area_px * um_per_px**2 * 1e-6
        count = int(rng.poisson(assemblage.density_per_mm2 * area_mm2))
        self._specimens = self._paint(assemblage, min(max(count, 1), MOST_DIFFERENT), rng)
        sheets = [specimen.mask.shape for specimen in self._specimens]
        self._field = arrange_objects(sheets, count, glass=self._glass, clumping=assemblage.clumping, rng=rng)
        self._dust, self._dust_field = self._scatter_dust(area_mm2, rng)
        self._blocks: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        """Colour of the clear field, RGB 0..255."""
        red, green, blue = (round(float(value) * 255) for value in self._backdrop.lamp_rgb)
        return red, green, blue

    def is_scanned(self, x: int, y: int, width: int, height: int) -> bool:
        return self._glass.meets(x, y, x + width, y + height)

    def region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        picture = np.empty((height, width, 3), np.uint8)
        for row in range(y // BLOCK_PX, -(-(y + height) // BLOCK_PX)):
            for column in range(x // BLOCK_PX, -(-(x + width) // BLOCK_PX)):
                left, top = column * BLOCK_PX, row * BLOCK_PX
                x_min, x_max = max(x, left), min(x + width, left + BLOCK_PX)
                y_min, y_max = max(y, top), min(y + height, top + BLOCK_PX)
                part = self._block(column, row)[y_min - top : y_max - top, x_min - left : x_max - left]
                picture[y_min - y : y_max - y, x_min - x : x_max - x] = part
        return picture

    def forget(self) -> None:
        """Clear the cache of rendered blocks; they are rendered again when needed."""
        self._blocks.clear()

    def objects(self, *, inset_px: int = 0) -> list[SceneObject]:
        """Return the visible objects with the boxes of their visible pixels.

        Boxes end inset_px inside the rim. Objects under 5 um, too faint or mostly hidden are left out.
        """
        seen: list[SceneObject] = []
        for index, placement in enumerate(self._field.placements):
            specimen = self._specimens[placement.specimen]
            if specimen.contrast < LEAST_CONTRAST:
                continue
            box = self._visible_box(index, placement, inset_px)
            if box is not None and max(box.width, box.height) * self.um_per_px >= SMALLEST_UM:
                seen.append(SceneObject(specimen.kind, specimen.is_fossil, box))
        return seen

    def _paint(self, assemblage: Assemblage, count: int, rng: np.random.Generator) -> list[Specimen]:
        optics = Optics(
            um_per_px=self.um_per_px,
            pigment=assemblage.pigment,
            blur_px=float(rng.uniform(0.4, 0.8)),
            fringe_px=float(rng.choice([0.0, 0.3, 0.5])),
        )
        largest_um = 0.4 * min(self.width, self.height) * self.um_per_px
        kinds = [str(kind) for kind in rng.choice(KINDS, count, p=assemblage.weights)]
        return [
            paint_specimen(
                kind, size_um=draw_size_um(kind, rng, largest_um=largest_um), optics=optics, rng=rng
            )
            for kind in kinds
        ]

    def _scatter_dust(self, area_mm2: float, rng: np.random.Generator) -> tuple[list[Specimen], Field]:
        """Paint and arrange specks of 0.8 to 2.6 um, too small for the truth, anywhere under the glass."""
        optics = Optics(self.um_per_px, np.full(3, 0.5, np.float32), 0.6, 0.0)
        dust = [
            paint_specimen("speck", size_um=float(rng.uniform(0.8, 2.6)), optics=optics, rng=rng)
            for _ in range(16)
        ]
        field = arrange_objects(
            [speck.mask.shape for speck in dust],
            int(rng.poisson(rng.uniform(20, 60) * area_mm2)),
            glass=self._glass,
            clumping=0.1,
            rng=rng,
        )
        return dust, field

    def _block(self, column: int, row: int) -> NDArray[np.uint8]:
        key = column, row
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = self._render(column, row)
            if len(self._blocks) > _CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(key)
        return block

    def _render(self, column: int, row: int) -> NDArray[np.uint8]:
        """Render a block, (BLOCK_PX, BLOCK_PX, 3): light of the empty slide times transmittance of all objects."""
        light = self._backdrop.block(column, row)
        lamp = [float(value) * 255 for value in self._backdrop.lamp_rgb]
        frame = Rect(column * BLOCK_PX, row * BLOCK_PX, (column + 1) * BLOCK_PX, (row + 1) * BLOCK_PX)
        through = self._through(frame)
        if through is None:
            return np.asarray(
                cv2.merge([cv2.convertScaleAbs(light, alpha=level) for level in lamp]), np.uint8
            )
        planes = [cv2.multiply(light, np.ascontiguousarray(plane)) for plane in cv2.split(through)]
        shown = [cv2.convertScaleAbs(plane, alpha=level) for plane, level in zip(planes, lamp, strict=True)]
        return np.asarray(cv2.merge(shown), np.uint8)

    def _through(self, frame: Rect) -> NDArray[np.float32] | None:
        """Return the transmittance of all objects in a frame, (h, w, 3); None if there are none."""
        corners = frame.x_min, frame.y_min, frame.x_max, frame.y_max
        layers = ((self._field, self._specimens), (self._dust_field, self._dust))
        lying = [(field.placements[index], bank) for field, bank in layers for index in field.near(*corners)]
        if not lying:
            return None
        through = np.ones((frame.height, frame.width, 3), np.float32)
        for placement, bank in lying:
            specimen = bank[placement.specimen].turned(placement.turn)
            on_frame, on_sheet = _windows(placement, frame)
            through[on_frame] *= specimen.light[on_sheet]
        return through

    def _visible_box(self, index: int, placement: Placement, inset_px: int) -> Rect | None:
        """Return the box of an object's visible pixels, px of the scene; None if under 40 % of them are visible."""
        mask = self._specimens[placement.specimen].turned(placement.turn).mask.copy()
        frame = Rect(placement.left, placement.top, placement.right, placement.bottom)
        whole = int(mask.sum())
        mask[: max(0, inset_px - frame.y_min)] = False
        mask[:, : max(0, inset_px - frame.x_min)] = False
        mask[max(0, self.height - inset_px - frame.y_min) :] = False
        mask[:, max(0, self.width - inset_px - frame.x_min) :] = False
        for other_index in self._field.near(frame.x_min, frame.y_min, frame.x_max, frame.y_max):
            if other_index == index:
                continue
            other = self._field.placements[other_index]
            hiding = self._specimens[other.specimen].turned(other.turn).opaque
            on_frame, on_sheet = _windows(other, frame)
            mask[on_frame] &= ~hiding[on_sheet]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not rows.size or mask.sum() < _LEAST_VISIBLE_SHARE * whole:
            return None
        return Rect(
            frame.x_min + int(columns[0]),
            frame.y_min + int(rows[0]),
            frame.x_min + int(columns[-1]) + 1,
            frame.y_min + int(rows[-1]) + 1,
        )


def _windows(placement: Placement, frame: Rect) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the window of a frame that an object covers, and the matching window of the object's sheet."""
    left, right = max(placement.left, frame.x_min), min(placement.right, frame.x_max)
    top, bottom = max(placement.top, frame.y_min), min(placement.bottom, frame.y_max)
    on_frame = slice(top - frame.y_min, bottom - frame.y_min), slice(left - frame.x_min, right - frame.x_min)
    on_sheet = (
        slice(top - placement.top, bottom - placement.top),
        slice(left - placement.left, right - placement.left),
    )
    return on_frame, on_sheet
