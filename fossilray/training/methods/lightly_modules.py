"""Heads and losses from lightly, an extra: the one place that imports it."""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch

from fossilray.core.config.training import ByolConfig, DinoConfig, SimsiamConfig
from fossilray.core.errors import UsageError


def dino_head(dimension: int, asked: DinoConfig) -> torch.nn.Module:
    """DINO's head: three layers, vectors of length 1, weight-normalised prototypes in `last_layer`."""
    head: torch.nn.Module = _import("models.modules.heads").DINOProjectionHead(
        dimension,
        asked.hidden,
        asked.bottleneck,
        asked.outputs,
        norm_last_layer=asked.normalised_last_layer,
    )
    return head


def dino_loss(asked: DinoConfig) -> Any:
    """DINO's loss with its centre, which several workers share; called with (teacher, student, teacher_temp=…)."""
    return _import("loss").DINOLoss(
        asked.outputs,
        student_temp=asked.student_temperature,
        teacher_temp=asked.teacher_temperature,
        center_momentum=asked.centre_momentum,
    )


def byol_heads(dimension: int, asked: ByolConfig) -> tuple[torch.nn.Module, torch.nn.Module]:
    """BYOL's projection and prediction."""
    heads = _import("models.modules.heads")
    return (
        heads.BYOLProjectionHead(dimension, asked.hidden, asked.projection),
        heads.BYOLPredictionHead(asked.projection, asked.hidden, asked.projection),
    )


def simsiam_heads(dimension: int, asked: SimsiamConfig) -> tuple[torch.nn.Module, torch.nn.Module]:
    """SimSiam's projection and prediction."""
    heads = _import("models.modules.heads")
    return (
        heads.SimSiamProjectionHead(dimension, asked.projection, asked.projection),
        heads.SimSiamPredictionHead(asked.projection, asked.hidden, asked.projection),
    )


def negative_cosine(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Minus the mean cosine of predictions (n, d) and what they should be, which gets no gradient."""
    similarity: torch.Tensor = _import("loss").NegativeCosineSimilarity()(predicted, target.detach())
    return similarity


def _import(module: str) -> Any:
    # Unset, importing lightly asks a server for its latest version.
    os.environ["LIGHTLY_DID_VERSION_CHECK"] = "True"
    try:
        return importlib.import_module(f"lightly.{module}")
    except ImportError as error:
        raise UsageError(
            f"this method needs lightly, which cannot be imported ({error}); pip install 'fossilray[learn]'"
        ) from None
