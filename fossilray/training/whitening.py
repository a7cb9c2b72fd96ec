"""A linear last layer that whitens vectors by the variance between views of one crop, and reduces their dimension.

Directions in which a vector moves when its crop is rotated, relit or blurred carry no information about the specimen.
They are divided by the standard deviation between views, as in within-class covariance normalisation (Hatch, Kajarekar
and Stolcke 2006); here the views of a crop are the class, so no labels are needed. The result is reduced to its
principal components over all crops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fossilray.core.config.training import WhitenConfig
from fossilray.core.errors import UsageError
from fossilray.training.crops.stream import CropBatch


@dataclass(frozen=True)
class Whitening:
    """The affine map `vector -> matrix @ vector + offset`."""

    matrix: NDArray[np.float32]
    """(k, d), by decreasing variance over crops."""
    offset: NDArray[np.float32]
    """(k,)"""


def collect_views(
    network: torch.nn.Module,
    batches: Iterator[CropBatch],
    make_views: Callable[[CropBatch, torch.Generator], list[torch.Tensor]],
    embed: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor],
    *,
    config: WhitenConfig,
    seed: int,
) -> NDArray[np.float32]:
    """Return vectors (crops, views, d) of random views of the first crops of the batches."""
    rng = torch.Generator().manual_seed(seed)
    collected: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        while sum(map(len, collected)) < config.crops and (batch := next(batches, None)) is not None:
            views: list[torch.Tensor] = []
            while len(views) < config.views:
                side = views[0].shape[-1] if views else None
                # Smaller, local views do not show the whole crop.
                views += [v for v in make_views(batch, rng) if side is None or v.shape[-1] == side]
            vectors = [embed(network, view).float().cpu().numpy() for view in views[: config.views]]
            collected.append(np.stack(vectors, axis=1))
    return np.concatenate(collected)[: config.crops]


def fit_whitening(vectors: NDArray[np.float32], *, dimension: int, shrinkage: float) -> Whitening:
    """Fit the whitening to vectors (crops, views, d).

    Args:
        vectors: Vectors of several views of each crop.
        dimension: Length of the whitened vectors.
        shrinkage: This multiple of the mean variance is added to every direction, so that directions with little
            variance are not amplified without bound.

    Raises:
        UsageError: `dimension` exceeds the length of the vectors.
    """
    crops, views, width = vectors.shape
    if dimension > width:
        raise UsageError(
            f"whiten.dimension={dimension} exceeds the backbone's {width} dimensions; give fewer"
        )
    vectors = vectors.astype(np.float64)
    deviations = (vectors - vectors.mean(axis=1, keepdims=True)).reshape(-1, width)
    within = deviations.T @ deviations / max(crops * (views - 1), 1)
    within += shrinkage * np.trace(within) / width * np.eye(width)
    variance, axes = np.linalg.eigh(within)
    whiten = (axes / np.sqrt(np.maximum(variance, np.finfo(float).tiny))) @ axes.T
    flat = vectors.reshape(-1, width)
    centre = flat.mean(axis=0)
    whitened = (flat - centre) @ whiten
    _, components = np.linalg.eigh(whitened.T @ whitened)
    matrix = (whiten @ components[:, ::-1][:, :dimension]).T
    return Whitening(matrix.astype(np.float32), (-matrix @ centre).astype(np.float32))


def append_whitening(network: Any, whitening: Whitening) -> None:
    """Make the whitening the last layer of a timm network, as its classifier."""
    network.reset_classifier(len(whitening.offset))
    layer: torch.nn.Linear = network.get_classifier()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(whitening.matrix))
        layer.bias.copy_(torch.from_numpy(whitening.offset))
