"""Handcrafted features of crops as a baseline for backbones: gradients, colour and shape."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.images import resize_to
from fossilray.core.vectors import unit_vectors

_IMAGE_PX = 64
_CELL_PX = 8
_DIRECTIONS = 9
_BINS = 8
_MIN_BACKGROUND = 32.0


def handcrafted_features(pixels: NDArray[np.uint8], shape: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute features (n, 1815) of crops (n, S, S, 3) with widths and heights (n, 2) before stretching.

    Histograms of oriented gradients (Dalal & Triggs 2005: cells of 8 px, blocks of 2 x 2, 9 directions) of a 64 px
    image; histograms of optical density per channel and of the colour balance; and shape: aspect ratio, filled share
    of the box, mean and standard deviation of density, and the seven invariants of Hu (1962). Each of the three groups
    has length 1.
    """
    features = np.zeros((len(pixels), 1815), np.float32)
    for row, (crop, proportions) in enumerate(zip(pixels, shape, strict=True)):
        density = _density(resize_to(crop, size_px=_IMAGE_PX))
        groups = (oriented_gradients(density.mean(axis=2)), _colour(density), _shape(density, proportions))
        features[row] = np.concatenate([unit_vectors(group) for group in groups])
    return features


def oriented_gradients(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute histograms of unsigned gradient directions, weighted by magnitude and normalised per block."""
    down, right = np.gradient(grey)
    magnitude = np.hypot(down, right)
    position = (np.arctan2(down, right) % np.pi) / np.pi * _DIRECTIONS - 0.5
    below = np.floor(position)
    fraction = position - below
    cells = len(grey) // _CELL_PX
    votes = np.zeros((cells, cells, _DIRECTIONS))
    y, x = np.indices(grey.shape) // _CELL_PX
    for bin_, weight in ((below, 1 - fraction), (below + 1, fraction)):
        np.add.at(votes, (y, x, bin_.astype(np.int64) % _DIRECTIONS), magnitude * weight)
    blocks = np.concatenate([votes[:-1, :-1], votes[:-1, 1:], votes[1:, :-1], votes[1:, 1:]], axis=2)
    for _ in range(2):  # Lowe's clipping: normalise, cut at 0.2, normalise again
        blocks /= np.maximum(np.linalg.norm(blocks, axis=2, keepdims=True), 1e-6)
        blocks = np.minimum(blocks, 0.2)
    blocks /= np.maximum(np.linalg.norm(blocks, axis=2, keepdims=True), 1e-6)
    return blocks.ravel()


def _density(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Compute the optical density (H, W, 3) relative to the background, which is estimated from the border."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    background = np.maximum(np.quantile(border, 0.8, axis=0), _MIN_BACKGROUND)
    density: NDArray[np.float64] = np.clip(-np.log(np.maximum(image, 1) / background), 0, 2.5)
    return density


def _colour(density: NDArray[np.float64]) -> NDArray[np.float64]:
    per_channel = [np.histogram(density[..., c], bins=_BINS, range=(0, 2.5))[0] for c in range(3)]
    total = np.maximum(density.sum(axis=2), 1e-6)
    foreground = total > 0.15
    relative = density[foreground] / total[foreground][:, None]
    balance = [np.histogram(relative[:, c], bins=_BINS, range=(0, 1))[0] for c in (0, 2)]
    histograms: NDArray[np.float64] = np.sqrt(np.concatenate([*per_channel, *balance]).astype(np.float64))
    return histograms


def _shape(density: NDArray[np.float64], proportions: NDArray[np.float32]) -> NDArray[np.float64]:
    mean = density.mean(axis=2)
    grey = np.clip(mean * 255 / 2.5, 0, 255).astype(np.uint8)
    _, mask = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    invariants = np.asarray(cv2.HuMoments(cv2.moments(mask, binaryImage=True)), np.float64).ravel()
    logs = -np.sign(invariants) * np.log10(np.abs(invariants) + 1e-12) / 10
    ratio = float(np.log(proportions[0] / proportions[1]))
    filled = float((np.asarray(mask) > 0).mean())
    return np.concatenate([[ratio, filled, mean.mean(), mean.std()], logs])
