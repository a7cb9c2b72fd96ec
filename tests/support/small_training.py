"""Trainings of a tiny network on a few drawn crops."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from support.synthetic_crops import draw_folder

from fossilray.core.config import TrainConfig
from fossilray.training.checkpoint import latest_checkpoint
from fossilray.training.data import open_training_crops
from fossilray.training.loop import LoopResult, TrainingLoop, TrainingProgress

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
) -> LoopResult:
    def stop(progress: TrainingProgress) -> None:
        if progress.step == stop_after:
            loop.request_stop()

    loop = TrainingLoop(config, open_training_crops(config.data), folder=folder, report=stop)
    return loop.run(latest_checkpoint(folder / "checkpoints") if resume else None)


def losses(folder: Path, column: str = "loss") -> list[float]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row[column]) for row in csv.DictReader(file)]
