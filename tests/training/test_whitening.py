"""The layer that makes views of one crop alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from support.synthetic_crops import draw_folder

from fossilray.core.config import EmbedderConfig
from fossilray.core.config.training import TrainConfig
from fossilray.core.errors import UsageError
from fossilray.models.backbones.load import load_embedder
from fossilray.training.data import open_training_crops
from fossilray.training.loop import TrainingLoop
from fossilray.training.whitening import fit_whitening


def shaken_vectors(*, crops: int = 300, views: int = 5) -> np.ndarray:
    """(crops, views, 6): what a crop is lies in the first three numbers, its views differ most in the last ones."""
    rng = np.random.default_rng(3)
    signal = np.concatenate([rng.normal(size=(crops, 1, 3)), np.zeros((crops, 1, 3))], axis=2)
    noise = rng.normal(size=(crops, views, 6)) * (0.1, 0.1, 0.1, 3.0, 5.0, 0.2)
    return (signal + noise).astype(np.float32)


def test_views_differ_equally_in_all_directions_afterwards() -> None:
    vectors = shaken_vectors()
    fitted = fit_whitening(vectors, dimension=6, shrinkage=0.0)
    found = vectors @ fitted.matrix.T + fitted.offset
    apart = (found - found.mean(axis=1, keepdims=True)).reshape(-1, 6)
    within = apart.T @ apart / (300 * 4)
    assert within == pytest.approx(np.eye(6), abs=1e-3)
    assert found.reshape(-1, 6).mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-3)


def test_what_distinguishes_crops_is_kept_when_vectors_are_shortened() -> None:
    vectors = shaken_vectors()
    fitted = fit_whitening(vectors, dimension=3, shrinkage=0.01)
    found = vectors @ fitted.matrix.T + fitted.offset

    def own_view_is_nearest(vectors: np.ndarray) -> float:
        first, second = vectors[:, 0], vectors[:, 1]
        distances = np.linalg.norm(first[:, None] - second[None], axis=2)
        return float((distances.argmin(axis=1) == np.arange(len(first))).mean())

    assert own_view_is_nearest(vectors) < 0.2
    assert own_view_is_nearest(found) > 0.6


def test_more_numbers_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match=r"whiten\.dimension=7"):
        fit_whitening(shaken_vectors(), dimension=7, shrinkage=1.0)


def test_training_exports_the_layer_and_its_share_of_the_start(tmp_path: Path) -> None:
    crops = draw_folder(tmp_path / "crops")
    torch.manual_seed(1)
    start = timm.create_model("resnet18", num_classes=0)
    torch.save(start.state_dict(), tmp_path / "start.pth")
    config = TrainConfig.model_validate(
        {
            "init": f"file:{tmp_path / 'start.pth'}",
            "input_px": 32,
            "views": {"early_px": None},
            "supcon": {"classes_per_batch": 4, "crops_per_class": 2},
            "data": {"sources": [str(crops)]},
            "whiten": {"dimension": 8, "crops": 32},
            "kept_start": 0.25,
            "steps": 2,
            "precision": "float32",
            "device": "cpu",
        }
    )
    loop = TrainingLoop(config, open_training_crops(config.data), folder=tmp_path / "out")
    result = loop.run()
    embedder = load_embedder(EmbedderConfig(weights=f"file:{result.backbone}"), device="cpu")
    assert embedder is not None
    assert embedder.embed(np.full((2, 224, 224, 3), 200, np.uint8)).shape == (2, 8)
    # Other projects' scripts load the network without that layer, interpolated by the configured share.
    other = torch.load(tmp_path / "out" / "checkpoint_dino.pth", weights_only=True)["teacher"]
    assert {name.removeprefix("module.backbone.") for name in other} == set(start.state_dict())
    learned = torch.load(next((tmp_path / "out" / "checkpoints").iterdir()), weights_only=True)
    averaged = learned["method"]["averaged.layer4.0.conv1.weight"]
    mixed = 0.75 * averaged + 0.25 * start.state_dict()["layer4.0.conv1.weight"]
    assert torch.allclose(other["module.backbone.layer4.0.conv1.weight"], mixed, atol=1e-6)


def test_there_is_nothing_to_keep_of_a_random_start() -> None:
    with pytest.raises(ValueError, match="kept_start needs initial weights"):
        TrainConfig(arch="resnet18", steps=1, kept_start=0.5)
