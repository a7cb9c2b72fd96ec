"""What methods minimise, beside independent computations: loops in float64, and cases worked by hand."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fossilray.core.config import TrainConfig
from fossilray.training.methods import MethodModule, build_method
from fossilray.training.methods.contrastive_losses import nt_xent, supervised_contrast
from fossilray.training.methods.siamese import symmetric_loss

NARROW: dict[str, Any] = {
    "supcon": {"projection": 8},
    "simclr": {"hidden": 16, "projection": 8},
    "dino": {"outputs": 12, "hidden": 16, "bottleneck": 8, "teacher_momentum": 0.9},
    "byol": {"hidden": 16, "projection": 8, "momentum": 0.9},
    "simsiam": {"hidden": 8, "projection": 16},
}


class Flat(torch.nn.Module):
    """A backbone small enough to be followed: mean colours of a 2 x 2 grid, then a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(12, 6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1))
        return found


def a_method(name: str, **given: Any) -> MethodModule:
    torch.manual_seed(1)
    config = TrainConfig.model_validate({"method": name, "arch": "resnet18", name: {**NARROW[name], **given}})
    return build_method(config, backbone=Flat(), dimension=6, classes=3).train()


def some_views(count: int, crops: int = 6, side_px: int = 8) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    return [torch.rand(crops, 3, side_px, side_px, generator=rng) for _ in range(count)]


LABEL = torch.tensor([0, 0, 1, 1, 2, 2])


def nt_xent_in_loops(first: NDArray[np.float64], second: NDArray[np.float64], temperature: float) -> float:
    """Chen et al. 2020, eq. 1 and algorithm 1, one pair after the other."""
    every = np.concatenate([first, second])
    n, total = len(first), 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        similar = [
            float(every[i] @ every[k] / (np.linalg.norm(every[i]) * np.linalg.norm(every[k]))) / temperature
            for k in range(2 * n)
        ]
        total -= similar[j] - math.log(sum(math.exp(similar[k]) for k in range(2 * n) if k != i))
    return total / (2 * n)


def test_nt_xent_is_that_of_loops_in_float64() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 9, 5))
    found = nt_xent(torch.from_numpy(first), torch.from_numpy(second), temperature=0.1)
    assert float(found) == pytest.approx(nt_xent_in_loops(first, second, 0.1), rel=1e-10)


def test_nt_xent_is_that_of_lightly() -> None:
    os.environ["LIGHTLY_DID_VERSION_CHECK"] = "True"
    from lightly.loss import NTXentLoss

    first, second = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(2))
    theirs = NTXentLoss(temperature=0.1)(first, second)
    assert float(nt_xent(first, second, temperature=0.1)) == pytest.approx(float(theirs), rel=1e-5)


def test_supervised_contrast_is_that_of_loops_in_float64() -> None:
    rng = np.random.default_rng(4)
    vectors, label = rng.normal(size=(7, 4)), np.array([0, 0, 0, 1, 1, 2, 3])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    terms = []
    for i in range(7):  # Khosla et al. 2020, eq. 2
        others = [k for k in range(7) if k != i]
        positives = [k for k in others if label[k] == label[i]]
        whole = sum(math.exp(unit[i] @ unit[k] / 0.2) for k in others)
        if positives:  # a crop alone in its class is a negative of others only
            terms.append(-np.mean([math.log(math.exp(unit[i] @ unit[p] / 0.2) / whole) for p in positives]))
    found = supervised_contrast(torch.from_numpy(vectors), torch.from_numpy(label), temperature=0.2)
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-10)


def test_crosswise_cosine_of_a_case_worked_by_hand() -> None:
    east, north = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    diagonal = torch.tensor([[3.0, 3.0]])
    # East predicts the diagonal (cos 45 degrees), north predicts east (cos 90 degrees).
    assert float(symmetric_loss([east, north], [east, diagonal])) == pytest.approx(-(math.sqrt(0.5) + 0) / 2)


def test_simclr_minimises_nt_xent_of_its_projections() -> None:
    method, views = a_method("simclr"), some_views(2)
    projected = [method.project(method.backbone((v - method.mean) / method.std)) for v in views]  # type: ignore[operator]
    first, second = (one.detach().double().numpy() for one in projected)
    found = method.loss(views, LABEL, progress=0.5).loss
    assert float(found) == pytest.approx(nt_xent_in_loops(first, second, 0.1), rel=1e-5)


def test_byol_and_simsiam_minimise_symmetric_distances_and_stop_the_targets_gradient() -> None:
    for name, scale, offset in (("simsiam", 1.0, 0.0), ("byol", 2.0, 2.0)):
        method, views = a_method(name), some_views(2)
        found = method.loss(views, LABEL, progress=0.5).loss
        plain: Any = copy.deepcopy(method)
        seen = [plain.project(plain.backbone((v - plain.mean) / plain.std)) for v in views]
        guessed = [plain.predict(one).detach().double().numpy() for one in seen]
        target = [one.detach().double().numpy() for one in seen]  # byol's target is a copy at first
        cosines = [
            (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
            for a, b in ((guessed[0], target[1]), (guessed[1], target[0]))
        ]
        assert float(found) == pytest.approx(offset - scale * np.mean(cosines), rel=1e-4)
        found.backward()
        learning = {key for key, p in method.named_parameters() if p.grad is not None}
        assert not any(key.startswith("target") for key in learning)


def test_dino_minimises_the_cross_entropy_of_its_paper_and_centres_the_teacher() -> None:
    method: Any = a_method("dino", first_teacher_temperature=0.04, teacher_temperature=0.07)
    views = [*some_views(2), *some_views(3, side_px=4)]
    weights = copy.deepcopy(method.state_dict())
    found = method.loss(views, LABEL, progress=0.15)  # half of the warm-up, so 0.055

    def outputs(group: Sequence[torch.Tensor]) -> list[NDArray[np.float64]]:
        seen = [method.head(method.backbone((v - method.mean) / method.std)) for v in group]
        return [one.detach().double().numpy() for one in seen]

    def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
        grown = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(grown / grown.sum(axis=1, keepdims=True))

    student, teacher = outputs(views), outputs(views[:2])  # the teacher is a copy at first
    terms = [
        -(softmax(teacher[t] / 0.055) * np.log(softmax(student[s] / 0.1))).sum(axis=1).mean()
        for t in range(2)
        for s in range(5)
        if s != t
    ]
    assert float(found.loss.detach()) == pytest.approx(np.mean(terms), rel=1e-4)
    assert float(weights["distance.center"].abs().max()) == 0.0
    expected = 0.1 * np.concatenate(teacher).mean(axis=0)
    np.testing.assert_allclose(method.distance.center[0, 0].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_dino_keeps_its_last_layer_in_the_first_epoch_and_its_teacher_follows() -> None:
    method: Any = a_method("dino")
    method.loss(some_views(4), LABEL, progress=0.0).loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    method.after_backward(epoch=1)
    assert method.head.last_layer.weight_v.grad is not None
    method.after_backward(epoch=0)
    assert method.head.last_layer.weight_v.grad is None
    before = method.teacher.layer.weight.clone()
    with torch.no_grad():
        method.backbone.layer.weight += 1.0
    method.after_step(0.0)
    torch.testing.assert_close(method.teacher.layer.weight, before + 0.1)
    method.after_step(1.0)
    torch.testing.assert_close(method.teacher.layer.weight, before + 0.1)


def test_supcon_adds_nt_xent_of_crops_without_label() -> None:
    method: Any = a_method("supcon", unlabelled=3, unlabelled_weight=0.5, label_smoothing=0.0)
    views, label = some_views(2), torch.tensor([0, 0, 1, -1, -1, -1])
    found = method.loss(views, label, progress=0.5)
    vectors = [method.backbone((v - method.mean) / method.std) for v in views]
    first, second = (method.project(one).detach().double().numpy()[3:] for one in vectors)
    assert found.terms["unlabelled"] == pytest.approx(nt_xent_in_loops(first, second, 0.1), rel=1e-4)
    logits = torch.cat([method.classify(one[:3]) for one in vectors])
    entropy = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 0, 1, 0, 0, 1]))
    assert found.terms["cross_entropy"] == pytest.approx(float(entropy.detach()), rel=1e-5)
    terms = found.terms
    whole = terms["cross_entropy"] + terms["contrast"] + 0.5 * terms["unlabelled"]
    assert float(found.loss.detach()) == pytest.approx(whole, rel=1e-5)
