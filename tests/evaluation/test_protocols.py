"""The published protocols, compared with results by hand and with plain loops over the same definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import auc, balanced_accuracy_score, log_loss, pairwise_distances, precision_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from support.clouds import clouds

from fossilray.core.errors import UsageError
from fossilray.evaluation.martinsen2024 import LOGISTIC, NEAREST, score_classification
from fossilray.evaluation.scampi import CurvePoint, area_under, score_retrieval
from fossilray.models.retrieval_metrics import retrieve

ON_A_LINE = np.array([[0.0], [1.0], [2.1], [3.3], [10.0], [11.5]])
LINE_LABEL = np.array([0, 0, 1, 0, 1, 1])
"""Crops on a line, by hand: the nearest of each in order are 1 2 3 4 5, 0 2 3 4 5, 1 3 0 4 5, 2 1 0 4 5 …"""


def test_precision_at_nk_is_what_a_pencil_finds() -> None:
    found = retrieve(ON_A_LINE, LINE_LABEL, group=np.arange(6), distance="euclidean")
    assert found.nearest[0].tolist() == [1, 2, 3, 4, 5]
    assert found.nearest[3].tolist() == [2, 1, 0, 4, 5]
    assert found.relevant.tolist() == [2] * 6
    # N_k is 2 for all: of {1, 2} one is of class 0, of {0, 2} one, of {1, 3} none, of {2, 1} one, of {5, 3} one,
    # of {4, 3} one.
    assert found.precision_at(2).tolist() == [0.5, 0.5, 0.0, 0.5, 0.5, 0.5]
    assert found.recall_at(1).tolist() == [0.5, 0.5, 0.0, 0.0, 0.5, 0.5]
    assert found.recall_at(5).tolist() == [1.0] * 6


def test_direction_alone_counts_by_cosine() -> None:
    vectors = np.array([[1.0, 0.0], [9.0, 0.5], [0.9, 0.6]])
    label = np.array([0, 0, 1])
    near = retrieve(vectors, label, group=np.arange(3), distance="euclidean").nearest[0]
    along = retrieve(vectors, label, group=np.arange(3), distance="cosine").nearest[0]
    assert (near.tolist(), along.tolist()) == ([2, 1], [1, 2])


def test_what_is_the_same_picture_is_neither_retrieved_nor_counted() -> None:
    found = retrieve(ON_A_LINE, LINE_LABEL, group=np.array([0, 0, 2, 3, 4, 5]), distance="euclidean")
    assert found.relevant.tolist() == [1, 1, 2, 2, 2, 2]
    assert found.nearest[0, 0] == 2
    assert found.precision_at(found.relevant).tolist() == [0.0, 0.0, 0.0, 0.5, 0.5, 0.5]


def test_scampi_on_the_line_gives_the_figures_worked_out_by_hand() -> None:
    line = np.concatenate([ON_A_LINE, ON_A_LINE + 1000])
    label = np.concatenate([LINE_LABEL, LINE_LABEL + 2])
    found = score_retrieval(line, label, ("a", "b", "c", "d"), group=np.arange(12), splits=0)
    assert found.precision_at_nk == pytest.approx(2.5 / 6)
    assert found.per_class == pytest.approx((0.5, 1 / 3, 0.5, 1 / 3))
    # Of twelve crops, k = 10 sees all five others of the line and five beyond: two hits of ten, all that there are.
    assert found.curve == (
        CurvePoint(1, pytest.approx(2 / 6), pytest.approx(4 / 6)),
        CurvePoint(None, pytest.approx(2.5 / 6), pytest.approx(2.5 / 6)),
        CurvePoint(10, pytest.approx(1.0), pytest.approx(0.2)),
    )
    by_hand = (2 / 6) * (1 + 4 / 6) / 2 + (0.5 / 6) * (4 / 6 + 2.5 / 6) / 2 + (3.5 / 6) * (2.5 / 6 + 0.2) / 2
    assert found.pr_auc == pytest.approx(by_hand)
    assert [one.row for one in found.best[:3]] == [0, 1, 3]
    assert found.worst[-1].precision >= found.worst[0].precision == 0.0


def test_scampi_equals_a_plain_loop_over_the_published_definitions() -> None:
    vectors, label = clouds((60, 35, 20, 110), dimensions=7, seed=1, spread=1.2)
    found = score_retrieval(vectors, label, "abcd", group=np.arange(len(label)), splits=3)
    apart = pairwise_distances(vectors)
    np.fill_diagonal(apart, np.inf)
    recalls, precisions = [], []
    for k in (None, 1, *range(10, 200, 10)):
        precision, recall = [], []
        for row in range(len(label)):
            own = int((label == label[row]).sum()) - 1
            taken = np.argsort(apart[row])[: own if k is None else k]
            hits = int((label[taken] == label[row]).sum())
            precision.append(hits / (own if k is None else k))
            recall.append(hits / own)
        precisions.append(np.mean(precision))
        recalls.append(np.mean(recall))
    assert found.precision_at_nk == pytest.approx(precisions[0])
    order = np.argsort(recalls)
    theirs = auc([0, *np.array(recalls)[order], 1], [1, *np.array(precisions)[order], 0])
    assert found.pr_auc == pytest.approx(theirs)


def test_a_perfect_backbone_scores_one_and_the_curve_ends_where_it_must() -> None:
    label = np.repeat(np.arange(3), 12)
    found = score_retrieval(np.eye(3)[label] * 9.0, label, "abc", group=np.arange(36), splits=2)
    assert found.precision_at_nk == 1.0
    assert found.nn_f1 == (1.0, 1.0)
    assert all(one.precision == 1.0 for one in (*found.best, *found.worst))
    assert area_under([CurvePoint(1, 1.0, 1.0)]) == 1.0
    assert area_under([]) == 0.5


def test_martinsen2024_equals_scikit_learn_called_as_published() -> None:
    vectors, label = clouds((30, 18, 12), dimensions=7, seed=2, spread=1.2)
    vectors = vectors.astype(np.float32)
    found = score_classification(vectors, label, "abc", group=np.arange(60), splits=3)
    scores = {one.method: one.values for one in found.methods}
    confusion = np.zeros((3, 3), int)
    for seed in range(3):
        train, test = train_test_split(np.arange(60), test_size=0.2, stratify=label, random_state=seed)
        model = LogisticRegression(max_iter=10_000, class_weight="balanced", random_state=seed)
        predicted = model.fit(vectors[train], label[train]).predict(vectors[test])
        own = scores[LOGISTIC]
        assert own["recall"][seed] == pytest.approx(balanced_accuracy_score(label[test], predicted))
        assert own["precision"][seed] == pytest.approx(
            precision_score(label[test], predicted, average="macro")
        )
        assert own["accuracy"][seed] == pytest.approx((predicted == label[test]).mean())
        assert own["log_loss"][seed] == pytest.approx(
            log_loss(label[test], model.predict_proba(vectors[test].astype(float))), rel=1e-4
        )
        np.add.at(confusion, (label[test], predicted), 1)
        for k in (1, 9):
            predicted = KNeighborsClassifier(k, p=2).fit(vectors[train], label[train]).predict(vectors[test])
            assert scores[f"kNN, k = {k}"]["recall"][seed] == pytest.approx(
                balanced_accuracy_score(label[test], predicted)
            )
    assert found.confusion.tolist() == confusion.tolist()
    assert found.not_converged == 0
    spread = found.methods[0].summary("accuracy")
    assert spread is not None
    assert spread.deviation == pytest.approx(np.std(scores[NEAREST]["accuracy"], ddof=1))
    assert found.methods[0].summary("log_loss") is None


def test_scores_of_a_class_are_means_over_the_splits_that_test_it() -> None:
    vectors, label = clouds((40, 25, 1), dimensions=7, seed=3, spread=0.1)
    found = score_classification(vectors, label, ("a", "b", "alone"), group=np.arange(66), splits=4)
    rows = {(one.method, one.name): one for one in found.per_class}
    assert rows[LOGISTIC, "a"].recall == 1.0
    assert rows[LOGISTIC, "a"].tested == 4 * 8
    alone = rows[NEAREST, "alone"]
    assert (alone.crops, alone.tested) == (1, 0)
    assert math.isnan(alone.recall)
    assert found.confusion.sum() == 4 * 13


def test_copies_of_a_picture_do_not_help() -> None:
    rng = np.random.default_rng(4)
    label = np.repeat(np.arange(2), 40)
    vectors = rng.normal(0, 1, (80, 5))
    copies, labels = np.repeat(vectors, 2, axis=0), np.repeat(label, 2)
    group = np.repeat(np.arange(0, 160, 2), 2)
    fooled = score_classification(copies, labels, "ab", group=np.arange(160), splits=3)
    honest = score_classification(copies, labels, "ab", group=group, splits=3)
    assert fooled.methods[0].values["accuracy"][0] > 0.75
    assert honest.methods[0].values["accuracy"][0] < 0.75
    assert honest.confusion.sum() == pytest.approx(3 * 32, abs=6)


def test_too_few_labels_are_refused() -> None:
    with pytest.raises(UsageError, match="give more labels"):
        score_classification(np.zeros((4, 2)), np.array([0, 0, 1, 1]), "ab", group=np.arange(4))
    with pytest.raises(UsageError, match="nothing can be retrieved"):
        score_retrieval(np.zeros((2, 2)), np.array([0, 1]), "ab", group=np.arange(2))
