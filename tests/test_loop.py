"""The training loop: it learns, it can be stopped anywhere and goes on to the same end, it leaves what it says."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_crops import draw_folder

from fossilray.config import EmbedderConfig, TrainConfig
from fossilray.embed.loading import load_embedder
from fossilray.errors import TrainingDiverged, UsageError, WeightsError
from fossilray.learn.loop import Loop, Result, TrainingProgress
from fossilray.learn.training_checkpoint import latest_checkpoint
from fossilray.learn.training_data import open_sources

TINY = {"channels": [8, 8, 16, 16]}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("drawn") / "shapes")


def a_config(crops: Path, **given: Any) -> TrainConfig:
    tree: dict[str, Any] = {
        "arch": "resnet18",
        "arch_kwargs": TINY,
        "input_px": 32,
        "views": {"early_px": None},
        "supcon": {"classes_per_batch": 4, "crops_per_class": 2},
        "data": {"sources": [str(crops)]},
        "precision": "float32",
        "log_every": 1,
        "device": "cpu",
    }
    return TrainConfig.model_validate({**tree, **({"steps": 6} if "epochs" not in given else {}), **given})


def train(
    config: TrainConfig, folder: Path, *, stop_after: int | None = None, resume: bool = False
) -> Result:
    def stop(progress: TrainingProgress) -> None:
        if progress.step == stop_after:
            loop.ask_to_stop()

    loop = Loop(config, open_sources(config.data), folder=folder, report=stop)
    return loop.run(latest_checkpoint(folder / "checkpoints") if resume else None)


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_drawn_shapes_are_learned_and_the_backbone_embeds_as_the_embedder_takes_it(
    crops: Path, tmp_path: Path
) -> None:
    result = train(a_config(crops, steps=40, supcon={"classes_per_batch": 4, "crops_per_class": 4}), tmp_path)
    seen = losses(tmp_path)
    assert result.finished
    assert np.mean(seen[-5:]) < 0.85 * np.mean(seen[:5])
    assert result.probe["nearest_f1"] > 0.5  # of four classes
    embedder = load_embedder(EmbedderConfig(weights=f"file:{result.backbone}"), device="cpu")
    assert embedder is not None
    vectors = embedder.embed(np.full((2, 224, 224, 3), 200, np.uint8))
    assert vectors.shape == (2, 16)


def test_stopped_anywhere_a_training_goes_on_to_the_same_curve_and_weights(
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
    with pytest.raises(TrainingDiverged, match=r"last good checkpoint is .*step-0000"):
        train(often, tmp_path / "some")


def test_checkpoint_of_another_training_is_refused_by_what_differs(crops: Path, tmp_path: Path) -> None:
    train(a_config(crops, steps=2), tmp_path)
    with pytest.raises(UsageError, match="arch_kwargs was"):
        train(a_config(crops, arch_kwargs={"channels": [8, 8, 8, 8]}), tmp_path, resume=True)
    path = latest_checkpoint(tmp_path / "checkpoints")
    assert path is not None
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="no whole checkpoint"):
        train(a_config(crops, steps=2), tmp_path, resume=True)


def test_weights_of_another_network_are_refused_by_their_keys(crops: Path, tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="missing"):
        train(a_config(crops, init=f"file:{tmp_path / 'other.pth'}", arch="resnet18"), tmp_path / "out")


def test_classes_held_out_are_judged_and_not_learned(crops: Path, tmp_path: Path) -> None:
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


def test_accumulated_batches_make_one_step(crops: Path, tmp_path: Path) -> None:
    config = a_config(crops, steps=3, accumulate=2)
    result = train(config, tmp_path)
    assert result.position.step == 3
    assert len(losses(tmp_path)) == 3
