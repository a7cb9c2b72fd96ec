"""Training heads and evaluating backbones from the command line: files, pages and output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.cli_runner import rows_of, run_command
from support.labelled_folders import picture, write_folder
from support.pages import check_page
from support.small_run import CROP_PX, DIMENSION, commit_slide

from fossilray.core.config import CropsConfig, RunConfig
from fossilray.evaluation.figures import draw_map, tsne_layout
from fossilray.labels.load import load_labels
from fossilray.models.heads import load_head
from fossilray.store import RunStore
from fossilray.store.run.run_record import describe_run

HOSTILE = "<script>alert('Ø')</script> $\\alpha$"


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that differ in brightness, one of a single crop, a broken image and a copy."""
    from PIL import Image as Pillow

    folder = tmp_path_factory.mktemp("labels")
    seed = 0
    for genus, count, shade in (
        ("Azolla", 12, 1.0),
        (HOSTILE.replace("/", "∕"), 10, 0.55),
        ("alone", 1, 0.3),
    ):
        (folder / genus).mkdir()
        for number in range(count):
            seed += 1
            Pillow.fromarray((picture(seed) * shade).astype(np.uint8)).save(folder / genus / f"{number}.png")
    (folder / "Azolla" / "broken.png").write_bytes(b"no")
    (folder / "Azolla" / "copy.png").write_bytes((folder / "Azolla" / "0.png").read_bytes())
    return folder


def test_a_head_trained_on_a_folder_records_its_classes_and_backbone(labels: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "head.safetensors"
    output = run_command(
        "classify", "train", "--labels", labels, "--backbone", "handcrafted", "--kind", "svm", "--out", path
    )
    assert "24 labelled crops of 3 classes" in output
    assert "1 left out: Azolla/broken.png" in output
    assert "classes of a single crop, trained on but not evaluated: alone" in output
    assert "Azolla/0.png = Azolla/copy.png" in output
    assert "on held-out crops, 3 times a fifth: recall" in output
    head = load_head(path)
    assert head.classes == load_labels(labels).crops.classes
    assert head.meta.counts == (10, 13, 1)
    assert head.meta.backbone.name == "handcrafted/1"


def test_a_head_for_a_runs_objects_is_trained_on_the_runs_own_vectors(tmp_path: Path) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    weights = {"embedder/backbone.safetensors": "cd" * 32}
    store.create_or_check(describe_run(RunConfig(crops=CropsConfig(size_px=CROP_PX)), weights))
    commit_slide(store, "one", count=30, well="w", depth_m=None, seed=1)
    table = tmp_path / "labels.csv"
    rows = [f"one,{number},{'ab'[number % 2]}" for number in range(30)]
    table.write_text("\n".join(["slide_id,object_id,genus", *rows]))
    path = tmp_path / "head.safetensors"
    run_command(
        *("classify", "train", "--labels", table, "--run", tmp_path / "run", "--backbone", "run"),
        *("--kind", "knn", "--neighbours", "1", "--out", path),
    )
    head = load_head(path)
    assert head.meta.backbone.sha256 == "cd" * 32
    assert head.meta.dimension == DIMENSION
    stored = load_labels(table, run=store)
    assert stored.vectors is not None
    assert head.predict(stored.vectors).argmax(axis=1).tolist() == [0, 1] * 15


def test_a_head_of_too_few_labels_is_trained_without_cross_validation(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "few", {"a": 2, "b": 1})
    output = run_command(
        "classify",
        "train",
        "--labels",
        folder,
        "--backbone",
        "handcrafted",
        "--out",
        tmp_path / "h.safetensors",
    )
    assert "too few crops of each class to hold any out" in " ".join(output.split())


def test_the_classification_protocol_leaves_a_page_and_tables(labels: Path, tmp_path: Path) -> None:
    run_command(
        *(
            "evaluate",
            "classification",
            "--labels",
            labels,
            "--backbone",
            "handcrafted",
            "--splits",
            "2",
            "--no-maps",
        ),
        *("--out", tmp_path),
    )
    stated = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert stated["classes"]["Azolla"] == 13
    assert stated["findings"]["singletons"] == ["alone"]
    summary = {
        (row["method"], row["metric"]): float(row["mean"]) for row in rows_of(tmp_path / "summary.csv")
    }
    assert summary["logistic regression", "accuracy"] == pytest.approx(
        stated["figures"]["logistic regression: accuracy"], abs=1e-5
    )
    splits = [row for row in rows_of(tmp_path / "splits.csv") if row["method"] == "logistic regression"]
    assert np.mean([float(row["accuracy"]) for row in splits]) == pytest.approx(
        summary["logistic regression", "accuracy"], abs=1e-5
    )
    confusion = rows_of(tmp_path / "confusion.csv")
    assert [row["truth"] for row in confusion] == list(stated["classes"])
    check_page((tmp_path / "evaluation.html").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_both_maps_are_drawn_and_their_positions_written(labels: Path, tmp_path: Path) -> None:
    pytest.importorskip("umap")
    run_command(
        *(
            "evaluate",
            "classification",
            "--labels",
            labels,
            "--backbone",
            "handcrafted",
            "--splits",
            "1",
            "--out",
            tmp_path,
        ),
    )
    rows = rows_of(tmp_path / "maps.csv")
    assert len(rows) == 24
    assert set(rows[0]) == {"name", "genus", "tsne_x", "tsne_y", "umap_x", "umap_y"}
    page = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    check_page(page)
    assert page.count("data:image/svg+xml") == 2


def test_a_map_marks_every_crop_and_names_every_class() -> None:
    rng = np.random.default_rng(1)
    label = np.repeat(np.arange(23), 3)
    names = [HOSTILE, *(f"genus {number}" for number in range(22))]
    positions = tsne_layout(np.eye(23)[label] * 5 + rng.normal(0, 0.1, (69, 23)))
    assert np.isfinite(positions).all()
    drawn = draw_map(positions, label, names, title="t-SNE").decode()
    assert drawn == draw_map(positions, label, names, title="t-SNE").decode()
    assert "&lt;script&gt;" in drawn
    assert "<script" not in drawn
    assert all(f">{name}<" in drawn for name in names[1:])


def test_the_retrieval_protocol_shows_best_and_worst(labels: Path, tmp_path: Path) -> None:
    output = run_command(
        *("evaluate", "retrieval", "--labels", labels, "--backbone", "handcrafted"),
        *("--distance", "cosine", "--splits", "2", "--out", tmp_path),
    )
    stated = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert stated["distance"] == "cosine"
    assert set(stated["figures"]) == {"NN F1", "NN F1 deviation", "P@N_k", "PR AUC"}
    crops = [
        float(row["precision_at_nk"]) for row in rows_of(tmp_path / "per_crop.csv") if row["precision_at_nk"]
    ]
    assert len(crops) == 23
    assert np.mean(crops) == pytest.approx(stated["figures"]["P@N_k"], abs=1e-5)
    assert f"{stated['figures']['P@N_k']:.3f}" in output
    page = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    check_page(page)
    assert page.count("data:image/jpeg") == 2 * 10 * 10


def test_equal_labels_give_equal_files(labels: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_command(
            *(
                "evaluate",
                "classification",
                "--labels",
                labels,
                "--backbone",
                "handcrafted",
                "--no-maps",
                "--splits",
                "1",
            ),
            *("--out", tmp_path / name),
        )
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
