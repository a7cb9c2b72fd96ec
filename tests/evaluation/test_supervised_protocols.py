"""karaderi2021 and liu2022: figures beside scikit-learn and plain loops, files and pages from the command line."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from support.cli_runner import rows_of, run_command
from support.clouds import clouds
from support.labelled_folders import picture
from support.pages import check_page
from support.synthetic_crops import draw_folder

from fossilray.core.errors import UsageError
from fossilray.evaluation.karaderi2021 import draw_groups, match_clusters, score_metric_learning
from fossilray.evaluation.liu2022 import limit_per_class, score_transfer, split_three_ways
from fossilray.evaluation.morphology_map import choose_shown, render_map
from fossilray.labels.load import load_labels
from fossilray.models.heads.splits import stratified_split
from fossilray.training.crops.in_memory import table_from_crops

HOSTILE = "<script>alert('Ø')</script>"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_matched_as_the_best_of_all_permutations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, cluster = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    truth[:4] = cluster[:4] = np.arange(4)
    best = max((np.array(names)[cluster] == truth).mean() for names in itertools.permutations(range(4)))
    assert (match_clusters(cluster, truth) == truth).mean() == pytest.approx(best)


def test_a_cluster_too_many_is_matched_with_none() -> None:
    cluster, truth = np.array([0, 0, 1, 1, 2]), np.array([1, 1, 0, 0, 0])
    assert match_clusters(cluster, truth).tolist() == [1, 1, 0, 0, -1]


def test_separable_species_are_found_in_both_sets_and_the_figures_are_scikit_learns() -> None:
    vectors, label = clouds((20, 15, 12, 30, 9, 14), dimensions=9, seed=1, spread=0.9)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    trainings: list[tuple[str, int]] = []

    def embed(rows: NDArray[np.int64], name: str) -> NDArray[np.float64]:
        trainings.append((name, len(rows)))
        return vectors

    found = score_metric_learning(
        embed, label, "abcdef", group=np.arange(100), repetitions=2, withheld=[("a", "b"), ("c", "e", "f")]
    )
    for seed in range(2):
        split = stratified_split(label, np.arange(100), seed=seed)
        predicted = (
            KNeighborsClassifier(5).fit(unit[split.train], label[split.train]).predict(unit[split.test])
        )
        assert found.closed.accuracy[seed] == pytest.approx((predicted == label[split.test]).mean())
        assert found.closed.f1[seed] == pytest.approx(f1_score(label[split.test], predicted, average="macro"))
    assert trainings == [("closed-0", 80), ("closed-1", 80), ("open-0", 65), ("open-1", 65)]
    first = found.open_sets[0]
    assert (first.withheld, first.crops) == (("a", "b"), 35)
    assert first.accuracy > 0.9 > first.chance_accuracy
    assert first.accuracy >= first.nmi >= first.ari - 0.2


def test_vectors_that_know_nothing_do_no_better_than_chance() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(6), 40)
    noise = rng.normal(size=(240, 8))
    found = score_metric_learning(
        lambda _rows, _name: noise,
        label,
        "abcdef",
        group=np.arange(240),
        repetitions=1,
        withheld=[("a", "b", "c")],
    )
    assert abs(found.open_sets[0].ari) < 0.05
    assert found.open_sets[0].accuracy == pytest.approx(found.open_sets[0].chance_accuracy, abs=0.08)
    assert found.closed.accuracy[0] < 0.35


def test_every_species_is_withheld_once_before_any_is_twice() -> None:
    label = np.repeat(np.arange(9), 3)
    label[-3:] = [8, 9, 9]
    classes = [str(c) for c in range(10)]
    groups = draw_groups(label, classes, group=np.arange(27), repetitions=8, size=3)
    times = np.array([sum(name in group for group in groups) for name in classes])
    assert times[8] == 0  # a species of one picture
    assert set(np.delete(times, 8).tolist()) <= {2, 3}
    assert all(len(set(group)) == 3 for group in groups)
    assert groups == draw_groups(label, classes, group=np.arange(27), repetitions=8, size=3)
    with pytest.raises(UsageError, match="two must be withheld and two must remain"):
        draw_groups(np.repeat([0, 1, 2], 4), "abc", group=np.arange(12), repetitions=1)
    with pytest.raises(UsageError, match="zebra cannot be withheld"):
        score_metric_learning(
            lambda _r, _n: np.eye(27),
            label,
            classes,
            group=np.arange(27),
            repetitions=0,
            withheld=[("zebra", "1")],
        )


def test_three_parts_hold_every_class_and_keep_copies_together() -> None:
    label = np.repeat([0, 1, 2, 3, 4], [200, 40, 3, 2, 1])
    group = np.arange(len(label))
    group[1] = 0
    parts = split_three_ways(label, group, seed=3)
    assert sorted(np.concatenate([parts.train, parts.validation, parts.test]).tolist()) == list(
        range(len(label))
    )
    sizes = [
        np.bincount(label[rows], minlength=5).tolist() for rows in (parts.train, parts.validation, parts.test)
    ]
    assert sizes[2][1:] == [2, 1, 1, 0]
    assert sizes[1][1:] == [6, 1, 0, 0]
    assert sizes[0][1:] == [32, 1, 1, 1]
    assert sizes[2][0] in (10, 11)
    for rows in (parts.train, parts.validation, parts.test):
        assert (0 in rows) == (1 in rows)
    with pytest.raises(UsageError, match="give more labels"):
        split_three_ways(np.array([0, 1, 2, 2]), np.arange(4), seed=0)


def test_less_data_is_part_of_more() -> None:
    label, rows = np.repeat([0, 1], [30, 5]), np.arange(1, 35)
    few, more = (limit_per_class(rows, label, most, seed=4) for most in (3, 10))
    assert set(few.tolist()) < set(more.tolist()) <= set(rows.tolist())
    assert np.bincount(label[more]).tolist() == [10, 5]


def test_figures_of_liu2022_are_those_of_scikit_learn_over_all_predictions() -> None:
    vectors, label = clouds((60, 40, 30, 20), dimensions=9, seed=5, spread=2.0)
    rng = np.random.default_rng(1)

    def train_and_predict(rows: NDArray[np.int64], name: str) -> NDArray[np.float64]:
        centres = np.stack([vectors[rows][label[rows] == c].mean(axis=0) for c in range(4)])
        near = np.exp(-((vectors[:, None] - centres) ** 2).sum(axis=2) / 8)
        return np.asarray(near / near.sum(axis=1, keepdims=True), np.float64)

    found = score_transfer(
        train_and_predict,
        label,
        "abcd",
        group=np.arange(150),
        repetitions=4,
        reduced=[5, 10],
        compared={"coin": lambda _rows, _name: rng.dirichlet(np.ones(4), 150)},
    )
    truth, share = [], []
    for seed in range(4):
        parts = split_three_ways(label, np.arange(150), seed=seed)
        truth.append(label[parts.test])
        share.append(train_and_predict(parts.train, "")[parts.test])
        top3 = np.argsort(-share[-1], axis=1)[:, :3]
        assert found.test.values["top3"][seed] == pytest.approx(
            (top3 == truth[-1][:, None]).any(axis=1).mean()
        )
        assert found.test.values["f1"][seed] == pytest.approx(
            f1_score(truth[-1], share[-1].argmax(axis=1), average="macro", labels=np.unique(truth[-1]))
        )
    every, shares = np.concatenate(truth), np.concatenate(share)
    assert found.macro.auc == pytest.approx(roc_auc_score(every, shares, multi_class="ovr", average="macro"))
    assert found.micro.auc == pytest.approx(roc_auc_score(np.eye(4)[every], shares, average="micro"))
    assert np.trapezoid(found.macro.true_positive, found.macro.false_positive) == pytest.approx(
        found.macro.auc
    )
    predicted = shares.argmax(axis=1)
    per_class = f1_score(every, predicted, average=None)
    for c, row in enumerate(found.per_class):
        assert row.f1 == pytest.approx(per_class[c])
        wrong = sorted(
            (int(((every == c) & (predicted == o)).sum()) for o in range(4) if o != c), reverse=True
        )
        assert [one.count for one in row.confusions] == [count for count in wrong if count]
    assert [(one.name, one.max_per_class) for one in found.conditions] == [
        ("whole", None),
        ("at most 10 a class", 10),
        ("at most 5 a class", 5),
        ("coin", 5),
    ]
    assert found.conditions[2].train_crops == 20
    assert found.conditions[0].scores.mean("top1") > found.conditions[3].scores.mean("top1")


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes, one of a hostile name."""
    from PIL import Image as Pillow

    folder = tmp_path_factory.mktemp("labels")
    for c, (genus, count) in enumerate(
        [("a", 8), ("b", 7), ("c", 6), (HOSTILE.replace("/", "∕"), 6), ("e", 5)]
    ):
        (folder / genus).mkdir()
        for number in range(count):
            shade = (picture(100 * c + number) * (1 - 0.15 * c)).astype(np.uint8)
            Pillow.fromarray(shade).save(folder / genus / f"{number}.png")
    return folder


@pytest.mark.slow
def test_karaderi2021_leaves_a_page_tables_and_a_map_to_zoom(labels: Path, tmp_path: Path) -> None:
    output = run_command(
        *("evaluate", "metric-learning", "--labels", labels, "--backbone", "handcrafted"),
        *("--splits", "2", "--withhold-count", "2", "--out", tmp_path),
    )
    assert "open set: accuracy" in output
    stated = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert stated["training"] is None
    opened = rows_of(tmp_path / "open_set.csv")
    assert np.mean([float(row["accuracy"]) for row in opened]) == pytest.approx(
        stated["figures"]["open set: accuracy"], abs=1e-5
    )
    assert len(rows_of(tmp_path / "maps.csv")) == 32
    page = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    check_page(page)
    assert "the open set is not open" in page
    shown = (tmp_path / "morphology.html").read_text(encoding="utf-8")
    assert HOSTILE not in shown
    assert shown.count("<script") == 2
    assert not re.search(r'(src|href)="(?!data:)', shown)
    assert "default-src 'none'" in shown


def test_groups_to_withhold_are_named(labels: Path, tmp_path: Path) -> None:
    run_command(
        *("evaluate", "metric-learning", "--labels", labels, "--backbone", "handcrafted"),
        *("--splits", "1", "--no-maps", "--withhold", "a, b", "--withhold", "b,e", "--out", tmp_path),
    )
    assert [row["withheld"] for row in rows_of(tmp_path / "open_set.csv")] == ["a; b", "b; e"]
    assert not (tmp_path / "morphology.html").exists()


def test_karaderi2021_trains_on_what_is_not_withheld(tmp_path: Path) -> None:
    drawn = draw_folder(tmp_path / "drawn", classes=4, each=8)
    run_command(
        *("evaluate", "karaderi2021", "--labels", drawn, "--backbone", "random:resnet18", "--train"),
        *("--splits", "1", "--withhold", "class0,class2", "--input-px", "32", "--no-maps", "--out", tmp_path / "out"),
        *itertools.chain.from_iterable(
            ("--train-set", one)
            for one in (
                "arch_kwargs.channels=[8,8,16,16]", "steps=12", "views.early_px=null", "device=cpu",
                "metric.loss=supcon", "metric.classes_per_batch=4", "schedule.learning_rate=0.01",
            )
        ),
    )  # fmt: skip
    trainings = tmp_path / "out" / "trainings"
    assert sorted(path.name for path in trainings.iterdir()) == ["closed-0", "open-0"]
    stated = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert stated["training"]["metric"]["loss"] == "supcon"
    assert stated["withheld"] == [["class0", "class2"]]
    assert stated["backbone"]["sha256"]


def test_liu2022_leaves_a_page_and_tables(labels: Path, tmp_path: Path) -> None:
    run_command(
        *("evaluate", "transfer", "--labels", labels, "--backbone", "handcrafted"),
        *("--splits", "3", "--reduced", "2", "--out", tmp_path),
    )
    stated = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert {"top1", "top3", "micro AUC", "macro AUC", "validation top1"} <= set(stated["figures"])
    assert stated["figures"]["top3"] >= stated["figures"]["top1"]
    per_class = rows_of(tmp_path / "per_class.csv")
    assert sum(int(row["asked"]) for row in per_class) == 15
    assert {"taken_for_1", "share_1", "taken_for_3"} <= set(per_class[0])
    assert [row["most_of_a_class"] for row in rows_of(tmp_path / "conditions.csv")] == ["", "2"]
    check_page((tmp_path / "evaluation.html").read_text(encoding="utf-8"))
    for name in ("roc.svg", "recall_by_size.svg", "roc.csv", "confusion.csv", "repetitions.csv"):
        assert (tmp_path / name).stat().st_size > 50


def test_liu2022_trains_a_network_and_compares_conditions(tmp_path: Path) -> None:
    drawn = draw_folder(tmp_path / "drawn", classes=3, each=8)
    small = ("arch_kwargs.channels=[8,8,16,16]", "steps=3", "batch=6", "views.early_px=null", "device=cpu")
    settings = list(itertools.chain.from_iterable(("--train-set", one) for one in small))
    start = (
        "train",
        "metric",
        tmp_path / "start",
        "--source",
        drawn,
        "--arch",
        "resnet18",
        "--local",
        "--train-set",
    )
    first = ("steps=2", "input_px=32", "device=cpu", "views.early_px=null")
    overrides = itertools.chain.from_iterable(("--train-set", setting) for setting in first)
    run_command(*start, "arch_kwargs.channels=[8,8,16,16]", *overrides)
    run_command(
        *(
            "evaluate",
            "liu2022",
            "--labels",
            drawn,
            "--backbone",
            tmp_path / "start" / "backbone.safetensors",
            "--train",
        ),
        *(
            "--reduced",
            "3",
            "--compare",
            "--input-px",
            "32",
            "--out",
            tmp_path / "out",
        ),
        *settings[2:],
    )
    named = [row["condition"] for row in rows_of(tmp_path / "out" / "conditions.csv")]
    assert named == [
        "whole",
        "at most 3 a class",
        "deep half, with random crop",
        "deep half, without random crop",
        "all, with random crop",
        "all, without random crop",
    ]
    assert "deep half" in (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("metric-learning", "--train-set", "epochs=1"), "add --train"),
        (("transfer", "--train-config", "fields.yaml"), "add --train"),
        (("transfer", "--compare"), "add --train"),
        (("metric-learning", "--withhold", "a,b", "--withhold-count", "2"), "give one of them"),
        (("metric-learning", "--withhold", "a,zebra"), "zebra cannot be withheld"),
        (("metric-learning", "--withhold-count", "4"), "too few on a side"),
        (("metric-learning", "--train"), "--backbone handcrafted is not one"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    words: tuple[str, ...], message: str, labels: Path, tmp_path: Path
) -> None:
    given = ["evaluate", *words, "--labels", str(labels), "--backbone", "handcrafted", "--out", str(tmp_path)]
    with pytest.raises(UsageError, match=re.escape(message)):
        run_command(*given)


def test_labels_in_memory_are_a_table_to_train_on(labels: Path) -> None:
    labelled = load_labels(labels)
    rows = np.array([30, 2, 11])
    table = table_from_crops(labelled.crops, rows)
    found = table.fetch(np.arange(3), side_px=224)
    assert (found.pixels == labelled.crops.pixels[rows]).all()
    assert found.shape == pytest.approx(labelled.crops.shape[rows])
    assert table.label.tolist() == labelled.crops.label[rows].tolist()


def test_a_map_of_too_many_crops_shows_every_class(labels: Path) -> None:
    label = np.repeat([0, 1, 2], [900, 90, 3])
    rows = choose_shown(label, limit=100)
    assert len(rows) <= 101
    assert set(label[rows].tolist()) == {0, 1, 2}
    labelled = load_labels(labels)
    some = np.array([0, 9, 20])
    page = render_map(
        labelled, {"UMAP": np.zeros((3, 2))}, rows=some, title="t", caption="s", withheld=("b",)
    )
    assert "3 of 32 crops are shown" in page
