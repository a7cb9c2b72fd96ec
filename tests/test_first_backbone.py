"""Teaching a small backbone on labelled crops: what it learns from, what it is judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from fossilray.errors import UsageError
from fossilray.learn.first_backbone import (
    FirstRecipe,
    judge_network,
    random_network,
    train_first_backbone,
)
from fossilray.learn.labelled_crops import LabelledCrops, hold_out, load_labelled_crops
from fossilray.learn.metrics import judge_retrieval
from fossilray.learn.views import make_views

QUICK = FirstRecipe(
    kwargs={"channels": [8, 8, 16, 16]},
    input_px=32,
    early_px=32,
    late_px=32,
    classes_per_batch=3,
    crops_per_class=4,
)


@pytest.fixture
def crops() -> LabelledCrops:
    """Discs, bars and rings on clear field: classes that shape alone tells apart."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    masks = [x**2 + y**2 < 0.5, np.abs(x) < 0.3, np.abs(np.hypot(x, y) - 0.7) < 0.15]
    pixels = np.full((36, 48, 48, 3), 225.0)
    label = np.arange(36) % 3
    for i in range(36):
        pixels[i][masks[label[i]]] *= rng.uniform(0.3, 0.6)
    noisy = np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
    return LabelledCrops(noisy, np.ones((36, 2), np.float32), label, ("t/bar", "t/disc", "t/ring"))


def test_crops_are_read_by_folder_and_classes_are_held_out_whole(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        folder = tmp_path / "genera" / name
        folder.mkdir(parents=True)
        Pillow.new("RGB", (40, 20), (200, 100, 50)).save(folder / "one.png")
    crops = load_labelled_crops([tmp_path / "genera"], side_px=16)
    assert crops.pixels.shape == (4, 16, 16, 3)
    assert crops.shape.tolist() == [[1.0, 0.5]] * 4
    held = hold_out(crops.classes, {"genera": 2}, rng=np.random.default_rng(2))
    assert held == hold_out(crops.classes, {"genera": 2}, rng=np.random.default_rng(2))
    assert len(held) == len(set(held)) == 2
    some = crops.of_classes(held)
    assert (some.classes, some.label.tolist()) == (tuple(held), [0, 1])
    with pytest.raises(UsageError, match="4 classes"):
        hold_out(crops.classes, {"genera": 4}, rng=np.random.default_rng(2))


def test_folder_without_classes_and_damaged_image_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no"):
        load_labelled_crops([tmp_path], side_px=16)
    (tmp_path / "genus").mkdir()
    (tmp_path / "genus" / "text.jpg").write_text("no image")
    with pytest.raises(UsageError, match="cannot be decoded"):
        load_labelled_crops([tmp_path], side_px=16)


def test_retrieval_figures_of_a_case_worked_by_hand() -> None:
    angles = np.radians([0, 10, 21, 60, 75])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    figures = judge_retrieval(vectors, np.array([0, 0, 1, 1, 1]))
    # Nearest: 0->1, 1->0, 2->1 (wrong), 3->4, 4->3. F1: 2*2/(2+3) and 2*2/(3+2).
    assert figures.accuracy == pytest.approx(4 / 5)
    assert figures.macro_f1 == pytest.approx((4 / 5 + 4 / 5) / 2)
    # Of the N_k = 1, 1, 2, 2, 2 nearest, of their class: 1, 1, 0, 2, 2.
    assert figures.precision_at_nk == pytest.approx((1 + 1 + 0 + 1 + 1) / 5)


def test_views_repeat_with_their_generator_and_keep_clear_field_clear(crops: LabelledCrops) -> None:
    pixels = torch.from_numpy(crops.pixels).permute(0, 3, 1, 2)
    views = [
        make_views(pixels, torch.from_numpy(crops.shape), side_px=32, rng=torch.Generator().manual_seed(4))
        for _ in range(2)
    ]
    assert views[0].shape == (36, 3, 32, 32)
    assert torch.equal(views[0], views[1])
    assert float(views[0].min()) >= 0
    assert float(views[0].max()) <= 1
    disc = crops.label == 0
    assert (
        views[0][disc][:, :, :2, :2].mean(dim=(1, 2, 3))
        > views[0][disc][:, :, 14:18, 14:18].mean(dim=(1, 2, 3))
    ).all()


def test_equal_seeds_and_steps_teach_equal_weights(crops: LabelledCrops) -> None:
    first, second = (train_first_backbone(crops, QUICK, seed=5, steps=2, report=str) for _ in range(2))
    assert first.steps == 2
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_taught_network_tells_shapes_apart_better_than_a_random_one(crops: LabelledCrops) -> None:
    trained = train_first_backbone(crops, QUICK, seed=6, steps=60, report=str)
    taught = judge_network(trained.network, crops, QUICK.preprocessing)
    untaught = judge_network(random_network(QUICK, seed=6), crops, QUICK.preprocessing)
    assert taught.precision_at_nk > max(0.7, untaught.precision_at_nk)
