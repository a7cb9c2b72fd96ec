"""Schedules of learning rate and weight decay."""

from __future__ import annotations

import pytest

from fossilray.core.config import TrainConfig
from fossilray.core.config.training import ScheduleConfig
from fossilray.training.schedules import learning_rate, weight_decay


def test_cosine_rises_in_the_warm_up_and_ends_at_its_last_share() -> None:
    schedule = ScheduleConfig(learning_rate=1.0, warmup_share=0.1, last_share=0.01)
    rates = [learning_rate(schedule, progress=p, epoch=0) for p in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 0.505, 0.01])


def test_inverse_time_counts_epochs() -> None:
    paper = TrainConfig.model_validate({"method": "simclr", "epochs": 100}).schedule
    assert learning_rate(paper, progress=0.0, epoch=0) == pytest.approx(1e-3)
    assert learning_rate(paper, progress=0.2, epoch=20) == pytest.approx(1e-3 / 2)


def test_weight_decay_of_dino_rises_along_a_cosine() -> None:
    schedule = TrainConfig.model_validate({"method": "dino"}).schedule
    decays = [weight_decay(schedule, progress=p) for p in (0.0, 0.5, 1.0)]
    assert decays == pytest.approx([0.04, 0.22, 0.4])


def test_what_is_given_replaces_the_recipe_and_one_length_is_demanded() -> None:
    config = TrainConfig.model_validate({"method": "dino", "minutes": 3, "schedule": {"clip": 1.0}})
    assert (config.schedule.clip, config.schedule.last_weight_decay) == (1.0, 0.4)
    assert (config.minutes, config.epochs) == (3, None)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    assert TrainConfig.model_validate({"init": "file:some.pth"}).arch is None
    with pytest.raises(ValueError, match="one of epochs, steps and minutes"):
        TrainConfig.model_validate({"minutes": 3, "steps": 3})
    with pytest.raises(ValueError, match="init must be"):
        TrainConfig.model_validate({"init": "weights.pth"})


@pytest.mark.parametrize("method", ["supcon", "simclr", "byol", "simsiam"])
@pytest.mark.parametrize("kind", ["multicrop", "multicrop_microscope"])
def test_local_crops_are_for_dino_alone(method: str, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"kind={kind} gives 6 local crops.*method is {method}; set"):
        TrainConfig.model_validate({"method": method, "views": {"kind": kind}})
    TrainConfig.model_validate({"method": method, "views": {"kind": kind, "local_count": 0}})
    TrainConfig.model_validate({"method": "dino", "views": {"kind": kind}})
