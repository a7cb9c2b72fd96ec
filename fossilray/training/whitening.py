"""A last layer that makes the views of one crop alike: vectors whitened by how views differ, and shortened.

Directions in which a vector moves when its crop is turned, relit or blurred say nothing of what the crop shows. They
are divided by how far it moves there, as within-class covariance normalisation does with classes (Hatch, Kajarekar and
Stolcke 2006); here the views of a crop are the class, so no labels are needed. What then varies least over all crops
is left out (principal components).
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
    """vector -> matrix @ vector + offset."""

    matrix: NDArray[np.float32]
    """(k, d), the most telling direction first."""
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
    """Vectors (crops, views, d) of random views of the crops that come first in the batches."""
    rng = torch.Generator().manual_seed(seed)
    found: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        while sum(map(len, found)) < config.crops and (batch := next(batches, None)) is not None:
            views: list[torch.Tensor] = []
            while len(views) < config.views:
                side = views[0].shape[-1] if views else None
                # Smaller local views are no views of the whole crop.
                views += [v for v in make_views(batch, rng) if side is None or v.shape[-1] == side]
            vectors = [embed(network, view).float().cpu().numpy() for view in views[: config.views]]
            found.append(np.stack(vectors, axis=1))
    return np.concatenate(found)[: config.crops]


def fit_whitening(vectors: NDArray[np.float32], *, dimension: int, shrinkage: float) -> Whitening:
    """The whitening that vectors (crops, views, d) ask for.

    shrinkage: this many times the mean variance is added to the variance of every direction, so that those hardly
    seen to vary are not blown up.

    Raises:
        UsageError: more numbers are asked for than the vectors have.
    """
    crops, views, width = vectors.shape
    if dimension > width:
        raise UsageError(
            f"whiten.dimension={dimension} is more than the {width} numbers of the backbone; give fewer"
        )
    vectors = vectors.astype(np.float64)
    apart = (vectors - vectors.mean(axis=1, keepdims=True)).reshape(-1, width)
    within = apart.T @ apart / max(crops * (views - 1), 1)
    within += shrinkage * np.trace(within) / width * np.eye(width)
    variance, axes = np.linalg.eigh(within)
    whiten = (axes / np.sqrt(np.maximum(variance, np.finfo(float).tiny))) @ axes.T
    every = vectors.reshape(-1, width)
    centre = every.mean(axis=0)
    spread = (every - centre) @ whiten
    _, main = np.linalg.eigh(spread.T @ spread)
    matrix = (whiten @ main[:, ::-1][:, :dimension]).T
    return Whitening(matrix.astype(np.float32), (-matrix @ centre).astype(np.float32))


def append_whitening(network: Any, whitening: Whitening) -> None:
    """Make the whitening the last layer of a timm network, in the place of its classifier."""
    network.reset_classifier(len(whitening.offset))
    layer: torch.nn.Linear = network.get_classifier()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(whitening.matrix))
        layer.bias.copy_(torch.from_numpy(whitening.offset))
