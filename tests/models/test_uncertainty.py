"""Uncertainty of heads: calibrated probabilities, prediction sets that cover, selections with few wrong predictions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow
from safetensors import safe_open
from scipy.stats import multivariate_normal
from sklearn.neighbors import NearestNeighbors
from support.cli_runner import run_command
from support.labelled_folders import picture

from fossilray.core.errors import UsageError, WeightsError
from fossilray.core.vectors import entropy, unit_vectors
from fossilray.labels.embed import EmbeddedCrops
from fossilray.labels.labelled_crops import LabelledCrops
from fossilray.labels.load import LabelledSet, LabelReport
from fossilray.models.heads import BackboneReference, Head, load_head, save_head, train_head
from fossilray.models.heads.calibration import (
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from fossilray.models.heads.conformal import (
    benjamini_hochberg_threshold,
    class_p_values,
    crops_needed_for_coverage,
    novelty_p_values,
    prediction_sets,
    wrong_prediction_p_values,
)
from fossilray.models.heads.head import apply_temperature
from fossilray.models.heads.novelty import fit_novelty, leave_one_genus_out
from fossilray.models.heads.uncertainty import predict_uncertainty
from fossilray.training.heads import train_and_cross_validate

CLASSES = ("Azolla", "Betula", "Corylus")
OURS = BackboneReference(name="small", sha256="ab" * 32)
NOTHING = LabelReport((), 0, (), (), ())
SPREAD = 2.2
"""Clouds so wide that they overlap: about one call in eight is wrong."""


def clouds(
    seed: int, each: tuple[int, ...], *, spread: float = SPREAD
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Clouds of these sizes in eight dimensions."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(each)), each)
    centre = np.eye(len(each), 8)[label] * 5 + 1
    return (centre + rng.normal(0, spread, (len(label), 8))).astype(np.float32), label


def labels_of(label: NDArray[np.int64], *, wells: tuple[str, ...] | None = None) -> LabelledSet:
    count = len(label)
    crops = LabelledCrops(
        np.zeros((count, 2, 2, 3), np.uint8), np.ones((count, 2), np.float32), label, CLASSES
    )
    return LabelledSet(crops, tuple(map(str, range(count))), np.arange(count), NOTHING, wells=wells)


def trained(seed: int = 0, each: tuple[int, ...] = (60, 45, 30)) -> Head:
    vectors, label = clouds(seed, each)
    return train_and_cross_validate(labels_of(label), EmbeddedCrops(vectors, OURS), kind="knn", k=15)[0]


def test_sets_have_the_coverage_of_each_class() -> None:
    # Split conformal on exchangeable scores: coverage lies between 0.8 and 0.8 + 1 / (n + 1) in expectation.
    rng, coverage, rounds, objects = np.random.default_rng(0), 0.8, 300, 40
    counts = np.array([9, 25, 40])
    hits = np.zeros(3)
    for _ in range(rounds):
        held_label = np.repeat(np.arange(3), counts)
        held_score = rng.beta(1 + held_label, 2)
        for c in range(3):
            score = np.full((objects, 3), 2.0)
            score[:, c] = rng.beta(1 + c, 2, objects)
            sets = prediction_sets(class_p_values(score, held_score, held_label), coverage=coverage)
            hits[c] += sets[:, c].sum()
    found = hits / (rounds * objects)
    assert (found > coverage - 0.015).all()
    assert (found < coverage + 1 / (counts + 1) + 0.015).all()


def test_sets_are_those_of_the_quantile_that_textbooks_give() -> None:
    rng = np.random.default_rng(1)
    label = np.repeat([0, 1], [30, 19])
    held, score = rng.random(49), rng.random((500, 2))
    for coverage in (0.7, 0.9, 0.95):
        sets = prediction_sets(class_p_values(score, held, label), coverage=coverage)
        for c, count in enumerate((30, 19)):
            rank = int(np.ceil(round((count + 1) * coverage, 9)))
            limit = np.sort(held[label == c])[rank - 1] if rank <= count else np.inf
            assert np.array_equal(sets[:, c], score[:, c] <= limit)


def test_a_class_with_too_few_held_out_crops_is_never_excluded() -> None:
    assert (
        crops_needed_for_coverage(0.9),
        crops_needed_for_coverage(0.95),
        crops_needed_for_coverage(0.5),
    ) == (9, 19, 1)
    for count, excluded in ((8, False), (9, True)):
        p_values = class_p_values(np.array([[1.0]]), np.zeros(count), np.zeros(count, np.int64))
        assert prediction_sets(p_values, coverage=0.9)[0, 0] != excluded


def test_a_trained_head_covers_new_crops_of_the_same_kind_class_by_class() -> None:
    covered = np.zeros((6, 3))
    for seed in range(6):
        head = trained(seed)
        vectors, label = clouds(1000 + seed, (2000, 2000, 2000))
        uncertainty = predict_uncertainty(head, vectors, head.predict(vectors), coverage=0.9)
        held = uncertainty.sets[np.arange(len(label)), label]
        covered[seed] = [held[label == c].mean() for c in range(3)]
        assert 1 <= uncertainty.sets.sum(axis=1).mean() < 2.5
    # Of the smallest class 30 crops were held out: one draw of them moves its coverage by about 0.055.
    assert (covered.mean(axis=0) > 0.9 - 2 * 0.055 / np.sqrt(6)).all()


def test_calls_kept_are_wrong_no_more_often_than_was_allowed() -> None:
    for allowed in (0.05, 0.1):
        shares = []
        for seed in range(8):
            head = trained(seed, each=(120, 90, 60))
            vectors, label = clouds(2000 + seed, (1000, 750, 500))
            share = head.predict(vectors)
            p_values = predict_uncertainty(head, vectors, share).wrong_p
            values, count = np.unique(p_values, return_counts=True)
            limit = benjamini_hochberg_threshold(values, count, wrong_share=allowed)
            assert limit is not None
            kept = p_values <= limit
            assert kept.mean() > 0.5
            shares.append((share.argmax(axis=1) != label)[kept].mean())
        assert np.mean(shares) <= allowed + 0.01
        assert (share.argmax(axis=1) != label).mean() > 0.1


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30),
    st.floats(0.01, 0.5),
)
def test_the_rule_is_benjamini_and_hochbergs(p_values: list[float], allowed: float) -> None:
    from scipy.stats import false_discovery_control

    values = np.array(p_values)
    adjusted = false_discovery_control(values)
    limit = benjamini_hochberg_threshold(values, np.ones(len(values), np.int64), wrong_share=allowed)
    kept = np.zeros(len(values), bool) if limit is None else values <= limit
    sure = np.abs(adjusted - allowed) > 1e-5
    assert np.array_equal(kept[sure], (adjusted <= allowed)[sure])


def test_a_wrong_calls_p_value_counts_wrong_calls_that_were_as_sure() -> None:
    entropy = np.array([0.1, 0.2, 0.2, 0.5, 0.9])
    wrong = np.array([False, True, False, True, True])
    found = wrong_prediction_p_values(np.array([0.05, 0.2, 0.6, 2.0]), entropy, wrong)
    assert np.allclose(found * 6, [1, 2, 3, 4])


def test_p_values_of_novelty_are_shares_of_labels_as_far_away() -> None:
    found = novelty_p_values(np.array([0.0, 0.2, 0.3, 9.0]), np.array([0.1, 0.2, 0.3]))
    assert np.allclose(found, [1, 3 / 4, 2 / 4, 1 / 4])


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    # Three calls at 0.9 of which two are right, one at 0.55 that is right: 3/4 * |2/3 - 0.9| + 1/4 * |1 - 0.55|.
    confidence = np.array([0.9, 0.9, 0.9, 0.55])
    bins = reliability(confidence, np.array([True, True, False, True]), bins=10)
    assert expected_calibration_error(bins) == pytest.approx(0.75 * (0.9 - 2 / 3) + 0.25 * 0.45)
    assert sum(one.count for one in bins) == 4
    assert reliability(np.array([0.0, 0.1, 1.0]), np.ones(3, bool), bins=10)[0].count == 2


def test_the_temperature_brings_back_probabilities_that_were_sharpened() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1.5, (4000, 3))
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = (rng.random((4000, 1)) < share.cumsum(axis=1)).argmax(axis=1)
    sharp = share**2.5 / (share**2.5).sum(axis=1, keepdims=True)
    assert fit_temperature(sharp.astype(np.float32), label) == pytest.approx(2.5, rel=0.1)
    assert entropy(np.array([[0.5, 0.5, 0], [1, 0, 0]], np.float32)) == pytest.approx([np.log(2), 0])


def test_few_crops_that_all_were_called_rightly_make_no_call_certain() -> None:
    for count, largest in ((5, 0.9), (50, 0.99)):
        for sure in (0.6, 0.9999, 1.0):
            share = np.full((count, 3), (1 - sure) / 2, np.float32)
            label = np.arange(count) % 3
            share[np.arange(count), label] = sure
            largest_probability = apply_temperature(share, fit_temperature(share, label)).max(axis=1)
            # The rule of succession: of one more than there were, one is wrong.
            assert largest_probability == pytest.approx(count / (count + 1), abs=0.005), (count, sure)
            assert largest_probability.max() < largest


def test_a_head_whose_probabilities_did_not_come_true_is_calibrated_and_calls_the_same() -> None:
    vectors, label = clouds(5, (60, 45, 30))
    plain = train_head(vectors, label, CLASSES, kind="knn", backbone=OURS, k=15)
    head = trained(5)
    new, truth = clouds(6, (900, 700, 500))
    assert head.meta.uncertainty is not None
    assert np.array_equal(head.predict(new).argmax(axis=1), plain.predict(new).argmax(axis=1))
    errors = []
    for one in (plain, head):
        share = one.predict(new)
        assert np.allclose(share.sum(axis=1), 1, atol=1e-5)
        errors.append(
            expected_calibration_error(reliability(share.max(axis=1), share.argmax(axis=1) == truth))
        )
    assert errors[1] < min(errors[0], 0.05)


def test_uncertainty_is_kept_in_the_heads_file_and_damage_is_refused(tmp_path: Path) -> None:
    head, path = trained(), tmp_path / "head.safetensors"
    save_head(path, head)
    found = load_head(path)
    assert found.meta == head.meta
    assert found.meta.format == "fossilray-head/2"
    with safe_open(path, framework="np") as file:
        fields = json.loads(file.metadata()["fossilray"])
    assert set(fields["certainty"]) == {"temperature", "over", "novelty", "k"}
    assert not {"uncertainty", "formats"} & set(fields)
    vectors, _ = clouds(9, (20, 20, 20))
    before, after = (predict_uncertainty(one, vectors, one.predict(vectors)) for one in (head, found))
    assert np.array_equal(before.sets, after.sets)
    assert np.array_equal(before.novelty, after.novelty)
    for name, wrong in (
        ("certainty.call", head.parameters["certainty.call"] + 3),
        ("certainty.score", head.parameters["certainty.score"][:4]),
        ("certainty.known", head.parameters["certainty.known"][:, :5]),
    ):
        save_head(path, Head(head.meta, {**head.parameters, name: wrong}))
        with pytest.raises(WeightsError, match="train the head again"):
            load_head(path)
    less = {name: array for name, array in head.parameters.items() if name != "certainty.distance"}
    save_head(path, Head(head.meta, less))
    with pytest.raises(WeightsError, match=r"certainty\.distance"):
        load_head(path)


def test_labels_too_few_to_hold_any_out_give_a_head_without_uncertainty() -> None:
    vectors, label = clouds(0, (1, 1, 1))
    head, scores = train_and_cross_validate(labels_of(label), EmbeddedCrops(vectors, OURS), kind="knn", k=1)
    assert scores is None
    assert head.meta.uncertainty is None
    assert head.meta.format == "fossilray-head/1"
    with pytest.raises(WeightsError, match="has no uncertainty"):
        predict_uncertainty(head, vectors, head.predict(vectors))


def test_wells_are_held_out_whole_and_then_new_wells_are_covered() -> None:
    def of_well(number: int, rng: np.random.Generator, each: int) -> NDArray[np.float32]:
        # The stain of a well moves all its crops alike.
        base, _ = clouds(int(rng.integers(1 << 30)), (each,) * 3, spread=1.2)
        return base + rng.normal(0, 2.0, 8).astype(np.float32)

    rng = np.random.default_rng(0)
    wells, each = 12, 8
    vectors = np.concatenate([of_well(number, rng, each) for number in range(wells)])
    label = np.tile(np.repeat(np.arange(3), each), wells)
    names = tuple(f"w{number}" for number in range(wells) for _ in range(3 * each))
    labelled = labels_of(label, wells=names)
    covered = {}
    for over in ("crops", "wells"):
        head, _ = train_and_cross_validate(
            labelled,
            EmbeddedCrops(vectors, OURS),
            kind="knn",
            k=15,
            over=over,  # type: ignore[arg-type]
        )
        hits = []
        for number in range(30):
            new = of_well(100 + number, np.random.default_rng(500 + number), 20)
            truth = np.repeat(np.arange(3), 20)
            sets = predict_uncertainty(head, new, head.predict(new), coverage=0.9).sets
            hits.append(sets[np.arange(60), truth].mean())
        covered[over] = float(np.mean(hits))
    assert covered["crops"] < covered["wells"]
    assert covered["wells"] > 0.85
    with pytest.raises(UsageError, match="fewer than two"):
        labels_of(label).groups_for("wells")


def test_the_evaluation_reports_coverage_on_crops_and_on_wells_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "labels"
    folder.mkdir()
    lines = ["path;genus;well"]
    for number in range(72):
        shade = (1.0, 0.75, 0.5)[number % 3] * rng.uniform(0.9, 1.1)
        image = np.clip(picture(number) * shade, 0, 255).astype(np.uint8)
        Pillow.fromarray(image).save(folder / f"{number}.png")
        lines.append(
            f"{number}.png;{CLASSES[number % 3]};{('<b>34/7-1</b>', '6407/6-5', '2/4-1')[number % 9 // 3]}"
        )
    (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    run_command(
        *("evaluate", "uncertainty", "--labels", str(folder / "labels.csv"), "--backbone", "handcrafted"),
        *("--kind", "knn", "--splits", "2", "--coverage", "0.8"),
        *("--out", str(tmp_path / "out")),
    )
    stated = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    figures = stated["figures"]
    assert 0 <= figures["ECE"] <= 1
    assert 0.5 < figures["coverage"] <= 1
    for name in ("coverage on new wells", "coverage on new wells, wells held out", "novelty AUROC, knn"):
        assert 0 <= figures[name] <= 1
    rows = list(csv.DictReader((tmp_path / "out" / "coverage.csv").open(encoding="utf-8")))
    assert [row["name"] for row in rows] == list(CLASSES)
    weighted = sum(int(row["asked"]) * float(row["covered"]) for row in rows)
    assert weighted / sum(int(row["asked"]) for row in rows) == pytest.approx(figures["coverage"], abs=1e-5)
    wells = list(csv.DictReader((tmp_path / "out" / "wells.csv").open(encoding="utf-8")))
    assert sorted(row["asked"] for row in wells) == ["24"] * 6
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;34/7-1" in page
    assert page.count("data:image/svg+xml") == 1


def test_distances_are_those_of_independent_implementations() -> None:
    vectors, label = clouds(3, (30, 20, 25))
    new, _ = clouds(4, (10, 10, 10))
    known = fit_novelty(vectors, label, kind="knn", k=3)
    theirs = (
        NearestNeighbors(n_neighbors=3, metric="cosine").fit(unit_vectors(vectors)).kneighbors(new)[0][:, 2]
    )
    assert np.allclose(known.distance(new), theirs, atol=2e-3)
    assert np.allclose(known.distance(7 * new), known.distance(new), atol=1e-5)
    from sklearn.covariance import LedoitWolf

    seen = unit_vectors(vectors).astype(np.float64)
    centres = np.stack([seen[label == c].mean(axis=0) for c in range(3)])
    covariance = LedoitWolf(assume_centered=True).fit(seen - centres[label]).covariance_
    squared = [
        -2
        * (
            multivariate_normal(centre, covariance).logpdf(unit_vectors(new).astype(np.float64))
            - multivariate_normal(centre, covariance).logpdf(centre)
        )
        for centre in centres
    ]
    known = fit_novelty(vectors, label, kind="mahalanobis")
    assert np.allclose(known.distance(new), np.sqrt(np.min(squared, axis=0)), rtol=1e-2)
    assert (known.nearest(vectors) == label).mean() > 0.9


def test_a_left_out_genus_is_separated_from_new_crops_of_known_ones() -> None:
    vectors, label = clouds(8, (25, 25, 25, 25), spread=0.8)
    found = leave_one_genus_out(vectors, label, (*CLASSES, "Dinogymnium"), group=np.arange(100))
    assert [one.name for one in found] == [*CLASSES, "Dinogymnium"]
    assert all(value > 0.95 for one in found for value in one.auroc.values())
    rng = np.random.default_rng(0)
    alike = leave_one_genus_out(rng.normal(size=(300, 8)), np.arange(300) % 3, CLASSES, group=np.arange(300))
    assert abs(np.mean([one.auroc["knn"] for one in alike]) - 0.5) < 0.1
