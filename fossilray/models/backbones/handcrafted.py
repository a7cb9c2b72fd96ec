"""A backbone that nobody trained: what textbooks measure on a picture, as one vector; the floor to stand on."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.images import resize_to

_SEEN_PX = 64
_CELL_PX = 8
_DIRECTIONS = 9
_BINS = 8
_CLEAREST = 32.0


def handcrafted_features(pixels: NDArray[np.uint8], shape: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (n, 1815) of crops (n, S, S, 3) with true proportions (n, 2), width and height.

    Histograms of oriented gradients (Dalal & Triggs 2005: cells of 8 px, blocks of 2 x 2, 9 directions) of a 64 px
    picture, histograms of optical density for each colour and of the colour's balance, and shape: proportions,
    share of the box filled, mean and spread of density, and the seven invariants of Hu (1962). Each of the three
    parts has length 1.
    """
    found = np.zeros((len(pixels), 1815), np.float32)
    for row, (crop, proportions) in enumerate(zip(pixels, shape, strict=True)):
        density = _density(resize_to(crop, size_px=_SEEN_PX))
        parts = (oriented_gradients(density.mean(axis=2)), _colour(density), _shape(density, proportions))
        found[row] = np.concatenate([part / max(float(np.linalg.norm(part)), 1e-12) for part in parts])
    return found


def oriented_gradients(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Histograms of gradient directions without sign, weighed by strength, block by block brought to length 1."""
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)
    place = (np.arctan2(down, right) % np.pi) / np.pi * _DIRECTIONS - 0.5
    below = np.floor(place)
    share = place - below
    cells = len(grey) // _CELL_PX
    votes = np.zeros((cells, cells, _DIRECTIONS))
    y, x = np.indices(grey.shape) // _CELL_PX
    for bin_, weight in ((below, 1 - share), (below + 1, share)):
        np.add.at(votes, (y, x, bin_.astype(np.int64) % _DIRECTIONS), strength * weight)
    blocks = np.concatenate([votes[:-1, :-1], votes[:-1, 1:], votes[1:, :-1], votes[1:, 1:]], axis=2)
    for _ in range(2):  # Lowe's clipping: normalise, cut at 0.2, normalise again
        blocks /= np.maximum(np.linalg.norm(blocks, axis=2, keepdims=True), 1e-6)
        blocks = np.minimum(blocks, 0.2)
    blocks /= np.maximum(np.linalg.norm(blocks, axis=2, keepdims=True), 1e-6)
    return blocks.ravel()


def _density(seen: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Optical density (H, W, 3) over the clear field, which the border shows: light multiplies, density adds."""
    border = np.concatenate([seen[0], seen[-1], seen[:, 0], seen[:, -1]])
    field = np.maximum(np.quantile(border, 0.8, axis=0), _CLEAREST)
    density: NDArray[np.float64] = np.clip(-np.log(np.maximum(seen, 1) / field), 0, 2.5)
    return density


def _colour(density: NDArray[np.float64]) -> NDArray[np.float64]:
    each = [np.histogram(density[..., c], bins=_BINS, range=(0, 2.5))[0] for c in range(3)]
    total = np.maximum(density.sum(axis=2), 1e-6)
    matter = total > 0.15
    share = density[matter] / total[matter][:, None]
    balance = [np.histogram(share[:, c], bins=_BINS, range=(0, 1))[0] for c in (0, 2)]
    found: NDArray[np.float64] = np.sqrt(np.concatenate([*each, *balance]).astype(np.float64))
    return found


def _shape(density: NDArray[np.float64], proportions: NDArray[np.float32]) -> NDArray[np.float64]:
    mean = density.mean(axis=2)
    grey = np.clip(mean * 255 / 2.5, 0, 255).astype(np.uint8)
    _, mask = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    invariants = np.asarray(cv2.HuMoments(cv2.moments(mask, binaryImage=True)), np.float64).ravel()
    logs = -np.sign(invariants) * np.log10(np.abs(invariants) + 1e-12) / 10
    ratio = float(np.log(proportions[0] / proportions[1]))
    filled = float((np.asarray(mask) > 0).mean())
    return np.concatenate([[ratio, filled, mean.mean(), mean.std()], logs])
