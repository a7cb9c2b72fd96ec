"""Blending of the pixels at the edges of pieces, where several pieces show through each other.

These pixels are few, a line or two around each piece. All edges of a window are blended at once, in three steps: find
the pieces that each pixel shows, add the pixels of each piece while it is in memory, and draw layer after layer.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fossilray.core.types import Image
from fossilray.slides.direct.interpolation import as_bytes, weighted_sum, weights_of
from fossilray.slides.direct.placement import PiecePlacement
from fossilray.slides.tile_layout import Ints

Bytes: TypeAlias = NDArray[np.uint8]
Values: TypeAlias = NDArray[np.float32]

_UNIT = np.float32(1) / np.float32(255)
_ONE, _SCALE = np.float32(1), np.float32(256)


class EdgeBlender:
    """Edge pixels of a window that no piece above covers completely; x, y: their positions in the window, px.

    A layer is a pair of such a pixel and a piece that touches it; layers are sorted by piece, topmost first.
    """

    def __init__(self, placing: PiecePlacement) -> None:
        lines, line, piece, begin, count = _shown(placing)
        self.x, self.y = _pixels(lines, np.zeros_like(lines[0]), _areas(lines))
        self._pixel = _ranges(begin + _starts(_areas(lines))[line], count)
        self._first = np.searchsorted(np.repeat(piece, count), np.arange(len(placing.number) + 1)).tolist()
        across, down, width = placing.across, placing.down, placing.level.tiles.width
        x, y = _pixels(lines[:, line], begin, count)
        number = np.repeat(piece, count)
        columns, rows = x - across.inner_begin[number], y - down.inner_begin[number]
        # Axis 0: the pixel, its right, its lower and its lower right neighbour; beyond the piece the weight is 0.
        on_x, on_y = (
            (positions >= 0, positions < sizes[number] - 1)
            for positions, sizes in ((columns, across.size), (rows, down.size))
        )
        known = np.stack([on_x[0] & on_y[0], on_x[1] & on_y[0], on_x[0] & on_y[1], on_x[1] & on_y[1]])
        self._weights = known.astype(np.float32)
        for neighbour, weights in enumerate(weights_of(across.fraction, down.fraction)):
            self._weights[neighbour] *= weights[number]
        self._is_opaque = placing.is_opaque[number]
        corner_x, corner_y = placing.corners
        # Positions beyond the piece have no weight, so any value is valid.
        position = (y + corner_y[number]) * width + x + corner_x[number]
        self._position = np.empty((len(position), 4), np.int64)
        for neighbour, step in enumerate((0, 1, width, width + 1)):
            self._position[:, neighbour] = position + step
        self._colours = np.empty((len(position), 4, 3), np.uint8)

    def add_tile(self, at: int, tile: Image) -> None:
        """Add the pixels of a piece. at: index of the piece in the placement. tile: its stored tile, (h, w, 3)."""
        part = slice(self._first[at], self._first[at + 1])
        tile.reshape(-1, 3).take(self._position[part], axis=0, out=self._colours[part], mode="clip")

    def blend(self) -> tuple[Bytes, Bytes]:
        """Return colours (n, 3) and coverage (n,), uint8; the pixels of all pieces must have been added."""
        # Axes: neighbour, colour, layer.
        values = self._colours.transpose(1, 2, 0).astype(np.float32, order="C")
        values *= np.where(self._is_opaque, _ONE, _UNIT * _SCALE)
        values *= self._weights[:, None]
        colours, cover = weighted_sum(values), weighted_sum(self._weights)
        first, left = np.empty(len(self.x), np.int64), np.arange(len(self._pixel))
        is_next = self._are_uppermost(left, first)
        # The first layer of a pixel is drawn unchanged.
        rgb, alpha = as_bytes(colours.take(first, axis=1)), as_bytes(cover[first] * _SCALE)
        left = left[~is_next]
        while len(left := left[alpha[self._pixel[left]] < 255]):
            is_next = self._are_uppermost(left, first)
            layers, left = left[is_next], left[~is_next]
            for chosen in (layers[self._is_opaque[layers]], layers[~self._is_opaque[layers]]):
                if len(chosen):
                    pixels = self._pixel[chosen]
                    draw = _put_beneath if self._is_opaque[chosen[0]] else _saturate
                    rgb[:, pixels], alpha[pixels] = draw(
                        rgb[:, pixels], alpha[pixels], colours[:, chosen], cover[chosen]
                    )
        return rgb.T, alpha

    def _are_uppermost(self, layers: Ints, first: Ints) -> NDArray[np.bool_]:
        """Return a mask of the layers that are the topmost of their pixel.

        first: receives the topmost of these layers for each pixel that has any.
        """
        # With repeated indices, the value written last remains.
        first[self._pixel[layers[::-1]]] = layers[::-1]
        return np.asarray(first[self._pixel[layers]] == layers)


def _shown(placing: PiecePlacement) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Return the lines of edge pixels, (left right top bottom, lines), and their contacts with pieces.

    A contact is a line, a piece, the first pixel of the line that the piece touches, and the number of such pixels;
    contacts are sorted by piece, topmost first.
    """
    across, down = placing.across, placing.down
    some, others = placing.neighbours()
    owner, lines = _edges(placing)
    line, piece = _joined(owner, some, others)
    inner = np.stack([across.inner_begin, across.inner_end, down.inner_begin, down.inner_end])
    is_above = piece < owner[line]
    line, piece = line[is_above], piece[is_above]
    owner, lines = _less(owner, lines, line, *_common(lines[:, line], inner[:, piece]))
    line, piece = _joined(owner, some, others)
    begin, count = _common(
        lines[:, line], np.stack([across.begin, across.end, down.begin, down.end])[:, piece]
    )
    order = np.argsort(piece, kind="stable")
    order = order[count[order] > 0]
    return lines, line[order], piece[order], begin[order], count[order]


def _edges(placing: PiecePlacement) -> tuple[Ints, Ints]:
    """Return the owners (pieces, ascending) and the edges: lines one px wide, (left right top bottom, lines)."""
    across, down = placing.across, placing.down
    edges = np.stack(
        [
            np.stack([across.begin, across.inner_begin, down.begin, down.end]),
            np.stack([across.inner_end, across.end, down.begin, down.end]),
            np.stack([across.inner_begin, across.inner_end, down.begin, down.inner_begin]),
            np.stack([across.inner_begin, across.inner_end, down.inner_end, down.end]),
        ],
        axis=-1,
    )
    most = np.array([placing.width, placing.width, placing.height, placing.height])
    edges = np.clip(edges, 0, most[:, None, None])
    owner, edge = np.nonzero(_areas(edges))
    return owner, edges[:, owner, edge]


def _less(owner: Ints, lines: Ints, line: Ints, begin: Ints, count: Ints) -> tuple[Ints, Ints]:
    """Subtract pixels from lines and return the remaining parts, with their owners.

    line, begin, count: lines to subtract from, with the first pixel and the number of pixels.
    """
    lengths = _areas(lines)
    starts, total = _starts(lengths), int(lengths.sum())
    begin, count = (begin + starts[line])[count > 0], count[count > 0]
    change = np.bincount(begin, minlength=total + 1) - np.bincount(begin + count, minlength=total + 1)
    is_left = np.cumsum(change)[:total] == 0
    # Parts begin and end at the ends of lines and of the remaining pixels.
    is_edge = np.zeros(total + 1, np.bool_)
    is_edge[starts] = is_edge[total] = True
    is_edge[1:-1] |= is_left[1:] != is_left[:-1]
    edges = np.flatnonzero(is_edge)
    parts = np.flatnonzero(is_left[edges[:-1]])
    first, last = edges[parts], edges[parts + 1]
    line = np.searchsorted(starts, first, side="right") - 1
    left, _, top, bottom = lines[:, line]
    first, last, is_level = first - starts[line], last - starts[line], bottom - top == 1
    across, down = (
        np.where(is_level, (first, last), ([0], [1])),
        np.where(is_level, ([0], [1]), (first, last)),
    )
    return owner[line], np.stack([left + across[0], left + across[1], top + down[0], top + down[1]])


def _areas(boxes: Ints) -> Ints:
    left, right, top, bottom = boxes
    return np.asarray(np.maximum(right - left, 0) * np.maximum(bottom - top, 0))


def _starts(lengths: Ints) -> Ints:
    return np.cumsum(lengths) - lengths


def _joined(owner: Ints, some: Ints, others: Ints) -> tuple[Ints, Ints]:
    """Return pairs of a line and a piece, from pairs of a piece (some) and its neighbour (others).

    owner: the piece that owns each line, ascending.
    """
    first, last = np.searchsorted(owner, some), np.searchsorted(owner, some, side="right")
    return _ranges(first, last - first), np.repeat(others, last - first)


def _common(lines: Ints, boxes: Ints) -> tuple[Ints, Ints]:
    """Return the first pixel of each line inside the box of the same index, and the number of pixels inside."""
    left, top = np.maximum(lines[0], boxes[0]), np.maximum(lines[2], boxes[2])
    shared = np.stack([left, np.minimum(lines[1], boxes[1]), top, np.minimum(lines[3], boxes[3])])
    return left - lines[0] + top - lines[2], _areas(shared)


def _ranges(begin: Ints, count: Ints) -> Ints:
    """Return the concatenated ranges of `count` integers from each `begin`."""
    return np.repeat(begin - _starts(count), count) + np.arange(count.sum())


def _pixels(lines: Ints, begin: Ints, count: Ints) -> tuple[Ints, Ints]:
    """Return x and y of `count` pixels of each line, from the pixel `begin` on."""
    left, _, top, bottom = lines
    is_level = bottom - top == 1
    along = _ranges(begin, count)
    is_along = np.repeat(is_level, count)
    return np.repeat(left, count) + along * is_along, np.repeat(top, count) + along * ~is_along


def _put_beneath(rgb: Bytes, alpha: Bytes, colours: Values, cover: Values) -> tuple[Bytes, Bytes]:
    """Return colours (3, n) and alpha (n,) after an opaque piece was drawn beneath."""
    product = as_bytes(colours).astype(np.uint16) * (255 - alpha.astype(np.uint16)) + 128
    added = (product + (product >> 8)) >> 8
    return np.minimum(rgb + added, 255).astype(np.uint8), np.full_like(alpha, 255)


def _saturate(rgb: Bytes, alpha: Bytes, colours: Values, cover: Values) -> tuple[Bytes, Bytes]:
    """Return colours (3, n) and alpha (n,) after a piece was added up to an alpha of 255.

    colours: of the piece, premultiplied, times 256. cover: of the piece, 0 to 1.
    """
    covered = alpha.astype(np.float32) * _UNIT
    factor = np.clip((_ONE - covered) / cover, 0, _ONE)
    mixed = colours / _SCALE * factor + rgb.astype(np.float32) * _UNIT
    return (
        as_bytes(np.minimum(mixed, _ONE) * _SCALE),
        as_bytes(np.minimum(cover * factor + covered, _ONE) * _SCALE),
    )
