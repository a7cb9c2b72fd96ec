"""The training loop: it learns, can be stopped and resumed anywhere with the same result, and writes its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.small_training import a_config, crops, losses, train
from support.synthetic_crops import draw_folder

from fossilray.core.config import EmbedderConfig, TrainConfig
from fossilray.core.errors import StoreError, TrainingDiverged, UsageError, WeightsError
from fossilray.models.backbones.load import load_embedder, load_network
from fossilray.training.checkpoint import latest_checkpoint
from fossilray.training.initial_weights import start_backbone

__all__ = ["crops"]

pytestmark = pytest.mark.usefixtures("one_thread")


def test_drawn_shapes_are_learned_and_the_backbone_embeds_as_the_embedder_takes_it(
    crops: Path, tmp_path: Path
) -> None:
    result = train(a_config(crops, steps=40, supcon={"classes_per_batch": 4, "crops_per_class": 4}), tmp_path)
    seen = losses(tmp_path)
    assert result.finished
    assert np.mean(seen[-5:]) < 0.85 * np.mean(seen[:5])
    assert result.probe["nearest_f1"] > 0.5  # of four classes
    assert "that were trained on, so these figures are too high" in (tmp_path / "training.html").read_text(
        encoding="utf-8"
    )
    embedder = load_embedder(EmbedderConfig(weights=f"file:{result.backbone}"), device="cpu")
    assert embedder is not None
    vectors = embedder.embed(np.full((2, 224, 224, 3), 200, np.uint8))
    assert vectors.shape == (2, 16)


def test_a_training_stopped_anywhere_resumes_to_the_same_curve_and_weights(
    crops: Path, tmp_path: Path
) -> None:
    config = a_config(crops, steps=9)
    whole = train(config, tmp_path / "whole")
    stopped = train(config, tmp_path / "parts", stop_after=4)
    assert (stopped.finished, stopped.position.step) == (False, 4)
    resumed = train(config, tmp_path / "parts", resume=True)
    assert resumed.finished
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert resumed.backbone is not None
    assert whole.backbone is not None
    assert resumed.backbone.read_bytes() == whole.backbone.read_bytes()


def test_loss_that_is_no_number_stops_with_the_last_good_checkpoint_named(
    crops: Path, tmp_path: Path
) -> None:
    config = a_config(crops, steps=50, schedule={"optimiser": "sgd", "learning_rate": 1e30})
    with pytest.raises(TrainingDiverged, match="no checkpoint yet"):
        train(config, tmp_path / "none")
    often = a_config(
        crops, steps=50, checkpoint_minutes=1e-9, schedule={"optimiser": "sgd", "learning_rate": 1e30}
    )
    with pytest.raises(TrainingDiverged, match=r"latest checkpoint is .*step-0000"):
        train(often, tmp_path / "some")


def test_checkpoint_of_another_training_is_refused_by_what_differs(crops: Path, tmp_path: Path) -> None:
    train(a_config(crops, steps=2), tmp_path)
    with pytest.raises(UsageError, match="arch_kwargs was"):
        train(a_config(crops, arch_kwargs={"channels": [8, 8, 8, 8]}), tmp_path, resume=True)
    path = latest_checkpoint(tmp_path / "checkpoints")
    assert path is not None
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="not a complete checkpoint"):
        train(a_config(crops, steps=2), tmp_path, resume=True)


def test_weights_of_another_network_are_refused_by_their_keys(crops: Path, tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="missing"):
        train(a_config(crops, init=f"file:{tmp_path / 'other.pth'}", arch="resnet18"), tmp_path / "out")


def test_the_bundled_backbone_is_a_start(crops: Path) -> None:
    start = start_backbone(a_config(crops, init="bundled", arch=None, arch_kwargs={}))
    bundled, _, _ = load_network(EmbedderConfig())
    trained = start.network.state_dict()
    assert all(torch.equal(trained[name], tensor) for name, tensor in bundled.state_dict().items())


def test_held_out_classes_are_probed_and_not_trained_on(crops: Path, tmp_path: Path) -> None:
    config = a_config(
        crops,
        epochs=1,
        data={"sources": [str(crops)], "hold_out": ["class0", "class1"]},
        supcon={"classes_per_batch": 2, "crops_per_class": 2},
    )
    result = train(config, tmp_path)
    assert 0 <= result.probe["nearest_f1"] <= 1
    checkpoint = torch.load(result.checkpoint, weights_only=True)
    assert checkpoint["method"]["classify.weight"].shape[0] == 2
    with pytest.raises(UsageError, match="class9"):
        train(a_config(crops, data={"sources": [str(crops)], "hold_out": ["class9"]}), tmp_path / "no")


def test_crops_that_do_not_decode_are_counted_and_too_many_refused(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "shapes", classes=2)
    for number in range(2):
        (folder / "class0" / f"{number}.png").write_bytes(b"no image")
    few = {"classes_per_batch": 2, "crops_per_class": 2}
    for held_gb in (1.0, 0.0):
        data = {"sources": [str(folder)], "held_gb": held_gb}
        result = train(a_config(folder, data=data, supcon=few, steps=12), tmp_path / str(held_gb))
        assert result.failed_crops == 2
        strict = a_config(folder, data={**data, "max_failed_share": 0.0}, supcon=few)
        with pytest.raises(StoreError, match=r"class0/[01]\.png"):
            train(strict, tmp_path / "strict")


def test_accumulated_batches_make_one_step(crops: Path, tmp_path: Path) -> None:
    config = a_config(crops, steps=3, accumulate=2)
    result = train(config, tmp_path)
    assert result.position.step == 3
    assert len(losses(tmp_path)) == 3


VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 8}


DINO: dict[str, Any] = {
    "arch": "vit_tiny_patch16_224",
    "arch_kwargs": VIT,
    "dino": {"outputs": 64, "hidden": 32, "bottleneck": 16},
    "views": {"local_px": 16, "local_count": 2},
}


@pytest.mark.parametrize(
    ("method", "network"),
    [
        ("simclr", {}),
        ("byol", {"byol": {"hidden": 32, "projection": 16}}),
        ("simsiam", {"simsiam": {"hidden": 16, "projection": 32}}),
        ("dino", DINO),
    ],
)
def test_every_method_without_labels_resumes_to_the_same_curve_and_weights(
    crops: Path, tmp_path: Path, method: str, network: dict[str, Any]
) -> None:
    config = without_labels(crops, method, network)
    whole = train(config, tmp_path / "whole", stop_after=4)
    train(config, tmp_path / "parts", stop_after=2)
    resumed = train(config, tmp_path / "parts", stop_after=4, resume=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    one, other = (torch.load(result.checkpoint, weights_only=True) for result in (whole, resumed))
    for name, tensor in one["method"].items():
        assert torch.equal(tensor, other["method"][name]), name


def test_teacher_of_dino_is_exported_for_dinos_scripts_and_tuned_from_there(
    crops: Path, tmp_path: Path
) -> None:
    config = without_labels(crops, "dino", DINO)
    result = train(config, tmp_path)
    held = torch.load(tmp_path / "checkpoint_dino.pth", weights_only=True)
    checkpoint = torch.load(result.checkpoint, weights_only=True)
    for name, tensor in checkpoint["method"].items():
        if name.startswith("teacher."):
            assert torch.equal(held["teacher"][f"module.backbone.{name.removeprefix('teacher.')}"], tensor)
    for weights in (result.backbone, tmp_path / "checkpoint_dino.pth"):
        tuned = without_labels(crops, "dino", {**DINO, "init": f"file:{weights}"})
        again = train(tuned, tmp_path / "tuned", stop_after=1)
        assert again.position.step == 1


def without_labels(crops: Path, method: str, network: dict[str, Any]) -> TrainConfig:
    given: dict[str, Any] = {
        "method": method,
        "steps": 6,
        "batch": 8,
        "views": {},
        "supcon": {},
        "input_px": 32,
    }
    return a_config(crops, **{**given, **network})
