"""Heads trained on few labels: predictions, files, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression

from fossilray.core.config.choices import HeadKind
from fossilray.core.errors import UsageError, WeightsError
from fossilray.models.heads import (
    BackboneReference,
    Head,
    head_digest,
    load_head,
    save_head,
    train_head,
)
from fossilray.models.heads.svm import fit_logit_scale

CLASSES = ("Azolla", "Wetzeliella", "Đinofyt ‹ø›")
OURS = BackboneReference(name="small", sha256="ab" * 32)


def clouds(seed: int, each: tuple[int, ...] = (30, 20, 8)) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Three clouds in 12 dimensions that lie apart, of unequal size."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(each)), each)
    centre = np.eye(3, 12)[label] * 6 + 1
    return (centre + rng.normal(0, 1, (len(label), 12))).astype(np.float32), label


def trained(kind: HeadKind, seed: int = 1) -> Head:
    vectors, label = clouds(seed)
    return train_head(vectors, label, CLASSES, kind=kind, backbone=OURS)


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_every_head_separates_clouds_and_gives_probabilities(kind: HeadKind) -> None:
    vectors, label = clouds(seed=2)
    predicted = trained(kind).predict(vectors)
    assert predicted.shape == (58, 3)
    assert predicted.dtype == np.float32
    assert np.allclose(predicted.sum(axis=1), 1, atol=1e-5)
    assert (predicted >= 0).all()
    assert (predicted <= 1).all()
    assert (predicted.argmax(axis=1) == label).mean() > 0.85
    assert predicted[np.arange(58), label].mean() > 0.6


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_a_head_read_back_predicts_alike_and_equal_heads_are_equal_files(
    kind: HeadKind, tmp_path: Path
) -> None:
    head = trained(kind)
    save_head(tmp_path / "one.safetensors", head)
    save_head(tmp_path / "again.safetensors", trained(kind))
    assert head_digest(tmp_path / "one.safetensors") == head_digest(tmp_path / "again.safetensors")
    found = load_head(tmp_path / "one.safetensors")
    assert found.meta == head.meta
    assert found.classes == CLASSES
    vectors, _ = clouds(seed=3)
    assert np.array_equal(found.predict(vectors), head.predict(vectors))


def test_a_head_of_half_precision_vectors_predicts_on_them() -> None:
    vectors, label = clouds(seed=1)
    half = vectors.astype(np.float16)
    head = train_head(half, label, CLASSES, kind="logistic", backbone=OURS)
    assert (head.predict(half).argmax(axis=1) == label).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_head_is_scikit_learns_class_weighted_regression(classes: int) -> None:
    vectors, label = clouds(seed=4)
    some = label < classes
    head = train_head(
        vectors[some], label[some], CLASSES[:classes], kind="logistic", backbone=OURS, strength=0.5
    )
    std = (vectors[some] - vectors[some].mean(0)) / vectors[some].std(0)
    theirs = LogisticRegression(C=0.5, class_weight="balanced", max_iter=5000, tol=1e-8).fit(std, label[some])
    assert np.allclose(head.predict(vectors[some]), theirs.predict_proba(std), atol=2e-3)


def test_nearest_neighbours_vote_by_nearness_and_one_vote_is_spread() -> None:
    known = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    head = train_head(known, np.arange(3), CLASSES, kind="knn", backbone=OURS, k=1)
    # Length does not matter, direction does; half of the say is the one neighbour's.
    predicted = head.predict(np.array([[5, 0.1], [0, 0.2]], np.float32))
    assert np.allclose(predicted, [[0.5 + 1 / 6, 1 / 6, 1 / 6], [1 / 6, 0.5 + 1 / 6, 1 / 6]])
    pair = train_head(known, np.arange(3), CLASSES, kind="knn", backbone=OURS, k=2)
    near, far = np.exp(np.array([np.cos(0.6), np.cos(np.pi / 2 - 0.6)]) / 0.07)
    predicted = pair.predict(np.array([[np.cos(0.6), np.sin(0.6)]], np.float32))
    assert predicted[0, 0] == pytest.approx(2 / 3 * near / (near + far) + 1 / 9, abs=1e-5)
    assert len(train_head(known, np.arange(3), CLASSES, kind="knn", backbone=OURS).predict(known)) == 3


def test_calibration_finds_the_temperature_that_the_labels_were_drawn_at() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(0, 1, (20_000, 4))
    share = np.exp(2.5 * values)
    share /= share.sum(axis=1, keepdims=True)
    label = (share.cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    assert fit_logit_scale(values, label) == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_a_class_of_one_crop_is_learned_and_a_class_of_none_is_left_out(kind: HeadKind) -> None:
    vectors, label = clouds(seed=6, each=(12, 1, 9))
    head = train_head(vectors, label, (*CLASSES, "never seen"), kind=kind, backbone=OURS, k=1)
    assert head.classes == CLASSES
    assert head.meta.counts == (12, 1, 9)
    assert head.predict(vectors)[label == 1].argmax() == 1


def test_a_number_that_never_varied_in_the_labels_is_not_blown_up() -> None:
    vectors, label = clouds(seed=7)
    vectors[:, 5] = 3.0
    head = train_head(vectors, label, CLASSES, kind="logistic", backbone=OURS)
    other = vectors.copy()
    other[:, 5] = 3.5
    assert np.allclose(head.predict(other), head.predict(vectors), atol=1e-3)


def test_vectors_that_do_not_fit_are_refused_and_none_are_none() -> None:
    head = trained("linear")
    with pytest.raises(WeightsError, match="vectors of length 12, made by small"):
        head.predict(np.zeros((2, 13), np.float32))
    with pytest.raises(ValueError, match="1 vectors are not finite"):
        head.predict(np.array([[np.nan] * 12, [0] * 12], np.float32))
    assert head.predict(np.zeros((0, 12), np.float32)).shape == (0, 3)


def test_one_class_alone_is_no_classifier() -> None:
    with pytest.raises(UsageError, match="at least two classes"):
        train_head(np.ones((3, 4)), np.zeros(3, np.int64), CLASSES, kind="knn", backbone=OURS)


def test_a_file_that_is_no_head_or_was_tampered_with_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    with pytest.raises(WeightsError, match="does not exist"):
        load_head(path)
    save_head(path, trained("mlp"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load_head(path)
    save_file({"weight": np.zeros((2, 2), np.float32)}, str(path))
    with pytest.raises(WeightsError, match="does not describe a head"):
        load_head(path)
    save_file({"weight": np.zeros((2, 2), np.float32)}, str(path), {"fossilray": '{"format": "other"}'})
    with pytest.raises(WeightsError, match=r"of format '.*', not fossilray-head/1 or fossilray-head/2"):
        load_head(path)


def test_numbers_that_contradict_the_description_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    head = trained("knn")
    save_head(path, head)
    arrays, meta = load_file(path), json.dumps(head.meta.model_dump(mode="json"))
    for name, wrong in [
        ("label", arrays["label"] + 3),
        ("vectors", arrays["vectors"][:, :5].copy()),
        ("vectors", arrays["vectors"] * np.nan),
        ("more", arrays["label"]),
    ]:
        save_file({**arrays, name: wrong}, str(path), {"fossilray": meta})
        with pytest.raises(WeightsError, match="train"):
            load_head(path)
