"""Heads and losses of lightly, an optional package; the only module that imports it."""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch

from fossilray.core.config.training import ByolConfig, DinoConfig, SimsiamConfig
from fossilray.core.errors import UsageError


def dino_head(dimension: int, settings: DinoConfig) -> torch.nn.Module:
    """Build DINO's head: three layers, unit vectors, weight-normalised prototypes in `last_layer`."""
    head: torch.nn.Module = _import("models.modules.heads").DINOProjectionHead(
        dimension,
        settings.hidden,
        settings.bottleneck,
        settings.outputs,
        norm_last_layer=settings.normalised_last_layer,
    )
    return head


def dino_loss(settings: DinoConfig) -> Any:
    """Build DINO's loss; its centre is shared by all workers. Call it with (teacher, student, teacher_temp=…)."""
    return _import("loss").DINOLoss(
        settings.outputs,
        student_temp=settings.student_temperature,
        teacher_temp=settings.teacher_temperature,
        center_momentum=settings.centre_momentum,
    )


def byol_heads(dimension: int, settings: ByolConfig) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Build BYOL's projection and prediction heads."""
    heads = _import("models.modules.heads")
    return (
        heads.BYOLProjectionHead(dimension, settings.hidden, settings.projection),
        heads.BYOLPredictionHead(settings.projection, settings.hidden, settings.projection),
    )


def simsiam_heads(dimension: int, settings: SimsiamConfig) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Build SimSiam's projection and prediction heads."""
    heads = _import("models.modules.heads")
    return (
        heads.SimSiamProjectionHead(dimension, settings.projection, settings.projection),
        heads.SimSiamPredictionHead(settings.projection, settings.hidden, settings.projection),
    )


def negative_cosine(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return minus the mean cosine similarity of predictions and targets (n, d); targets get no gradient."""
    similarity: torch.Tensor = _import("loss").NegativeCosineSimilarity()(predicted, target.detach())
    return similarity


def _import(module: str) -> Any:
    # Otherwise lightly queries a server for its latest version when it is imported.
    os.environ["LIGHTLY_DID_VERSION_CHECK"] = "True"
    try:
        return importlib.import_module(f"lightly.{module}")
    except ImportError as error:
        raise UsageError(
            f"this method needs lightly, which cannot be imported ({error}); pip install 'fossilray[learn]'"
        ) from None
