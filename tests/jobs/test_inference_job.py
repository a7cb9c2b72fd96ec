"""Inference on stored crops over a real Ray, without the slides."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from rich.console import Console
from support.cli_runner import invoke, rows_of, run_command
from support.expert_labels import label_objects
from support.fault_job_commands import items_processed_here
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.small_backbone import write_backbone
from support.small_run import COUNTS, WELL, commit_slide, write_small_run

from fossilray.core.config import EmbedderConfig, RunConfig, StoreConfig, WorkersConfig
from fossilray.core.errors import RunMismatch, UsageError
from fossilray.jobs.inference import classify_run, embed_run
from fossilray.jobs.progress import choose_display
from fossilray.jobs.run_items import JobResult
from fossilray.models.backbones.load import load_embedder
from fossilray.models.heads import BackboneReference, Head, save_head, train_head
from fossilray.processing.inference.tasks import predictions_table
from fossilray.store import RunStore
from fossilray.store.arrays.crops import read_crops
from fossilray.store.dataset.compact import compact_run
from fossilray.store.derived.derived_store import DerivedStore, derived_names
from fossilray.store.maintenance.verify import verify_run
from fossilray.store.query.connection import load_embeddings, run_query
from fossilray.store.query.stored_slide import StoredSlide

CONFIG = RunConfig(workers=WorkersConfig(count=1, cpus_per_worker=0.4, retry_after_s=0.1))


@pytest.fixture(autouse=True)
def joined_ray(shared_ray: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs with the address `auto` join the Ray that all tests here share."""
    monkeypatch.setenv("RAY_ADDRESS", shared_ray)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("weights") / "net-1.safetensors", seed=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return write_small_run(tmp_path_factory.mktemp("archive") / "run")


@pytest.fixture(scope="module")
def embedded(run: RunStore, backbone: Path, shared_ray: str) -> JobResult:
    """The job that embeds the run."""
    return embed(run.url, backbone, address=shared_ray)


def test_every_stored_crop_is_embedded_as_the_network_alone_does_it(
    run: RunStore, backbone: Path, embedded: JobResult
) -> None:
    result = embedded
    assert (result.exit_code, result.tally.committed, result.tally.objects) == (0, 4, sum(COUNTS.values()))
    derived = DerivedStore.open(run, "embeddings", "net-1")
    assert derived.committed() == set(COUNTS)
    assert derived.record.backbone["sha256"] == hashlib.sha256(backbone.read_bytes()).hexdigest()
    embedder = load_embedder(EmbedderConfig(weights=f"file:{backbone}"), device="cpu")
    footer = run.footer("b-2050")
    assert embedder is not None
    assert footer is not None
    table = derived.read("b-2050")
    found = np.stack(table["embedding"].to_pylist())
    expected = embedder.embed(read_crops(run, footer.arrays.path, range(COUNTS["b-2050"])))
    assert np.allclose(found.astype(np.float32), expected.astype(np.float32), atol=2e-2)
    assert table["object_id"].to_pylist() == list(range(COUNTS["b-2050"]))


def test_one_command_leads_from_labels_to_charts(
    own_vectors: RunStore, run: RunStore, shared_ray: str, tmp_path: Path
) -> None:
    without, run = run, own_vectors
    shades = run_query(run, "SELECT slide_id, object_id, opacity FROM objects ORDER BY ALL").to_pylist()
    named = [
        (row["slide_id"], row["object_id"], "Alnus" if row["opacity"] > 0.25 else "Pinus") for row in shades
    ]
    labels = label_objects(run, tmp_path / "labels", named[::2])
    words = ("classify", run.url, "--labels", labels, "--out", tmp_path / "out", "--address", shared_ray)
    printed = run_command(*words)
    assert "accuracy" in printed
    assert "have a confident genus" in printed
    (name,) = [name for name in derived_names(run, "predictions") if name.startswith("labels-")]
    predicted = {
        (row["slide_id"], row["object_id"]): row["genus"]
        for row in run_query(run, f"SELECT * FROM predictions WHERE head = '{name}'").to_pylist()
    }
    right = [predicted[slide_id, number] == genus for slide_id, number, genus in named[1::2]]
    assert np.mean(right) > 0.9
    rows = rows_of(tmp_path / "out" / "charts" / "6407_6-5" / "labelled.csv")
    assert sum(int(row[depth]) for row in rows for depth in ("2030", "2050", "2080")) == len(named[::2])
    assert "6407/6-5" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    # Equal labels give the same head, so its predictions are there already.
    assert "(4 before)" in run_command(*words)
    assert "give --labels" in str(invoke("classify", run.url).exception)
    of_another = label_objects(without, tmp_path / "other", named)
    refused = invoke("classify", without.url, "--labels", of_another, "--out", tmp_path / "none")
    assert "holds no vectors of a known backbone" in str(refused.exception)


@pytest.mark.slow
def test_the_same_command_resumes_and_another_backbone_is_refused(
    run: RunStore, backbone: Path, tmp_path: Path
) -> None:
    embed(run.url, backbone, name="resumed")
    derived = DerivedStore.open(run, "embeddings", "resumed")
    lost = derived.committed_files()["a-2030"]
    kept = {path: derived.files.read(path) for path in derived.committed_files().values() if path != lost}
    derived.files.delete(lost)
    again = embed(run.url, backbone, name="resumed")
    assert (again.tally.already_committed, again.tally.committed) == (3, 1)
    assert {path: derived.files.read(path) for path in kept} == kept
    with pytest.raises(RunMismatch, match="another --name"):
        embed(run.url, write_backbone(tmp_path / "other.safetensors", seed=1), name="resumed")


def test_damaged_crops_fail_their_slide_alone(backbone: Path, tmp_path: Path) -> None:
    run = write_small_run(tmp_path / "run")
    footer = run.footer("a-2030")
    assert footer is not None
    run.files.delete(f"{footer.arrays.path}/crops")
    result = embed(run.url, backbone)
    assert result.tally.committed == 3
    assert [(failure.slide_id, failure.error) for failure in result.failures] == [("a-2030", "StoreError")]
    assert DerivedStore.open(run, "embeddings", "net-1").committed() == set(COUNTS) - {"a-2030"}


def test_a_dataset_is_embedded_in_the_run_it_was_made_of(
    run: RunStore, backbone: Path, tmp_path: Path
) -> None:
    compact_run(run, str(tmp_path / "dataset"), access=StoreConfig())
    with items_processed_here():
        assert embed(str(tmp_path / "dataset"), backbone, name="of-dataset").exit_code == 0
    assert DerivedStore.open(run, "embeddings", "of-dataset").committed() == set(COUNTS)


@pytest.mark.slow
def test_a_run_in_a_bucket_is_embedded_there(
    backbone: Path,
    s3_run: tuple[str, StoreConfig],  # noqa: F811
) -> None:
    url, access = s3_run
    run = write_small_run(url, config=access)
    result = embed(url, backbone, config=CONFIG.model_copy(update={"store": access}))
    assert result.exit_code == 0
    assert DerivedStore.open(run, "embeddings", "net-1").committed() == set(COUNTS)


def test_the_command_line_embeds(run: RunStore, backbone: Path) -> None:
    words = ("--backbone", backbone, "--name", "cli", "--workers", "1", "--address", "auto")
    with items_processed_here():
        output = run_command("embed", run.url, *words)
    assert "77 objects embedded" in output
    assert DerivedStore.open(run, "embeddings", "cli").committed() == set(COUNTS)


def test_genera_are_those_that_the_head_predicts_from_the_vectors(
    run: RunStore, backbone: Path, embedded: JobResult, tmp_path: Path
) -> None:
    vectors = {
        slide_id: np.stack(
            DerivedStore.open(run, "embeddings", "net-1").read(slide_id)["embedding"].to_pylist()
        )
        for slide_id in ("a-2030", "b-2050")
    }
    head = fit_head(tmp_path / "head.safetensors", vectors["a-2030"], backbone)
    result = classify(run.url, tmp_path / "head.safetensors", embeddings="net-1")
    assert (result.exit_code, result.tally.objects) == (0, sum(COUNTS.values()))
    table = DerivedStore.open(run, "predictions", "head").read("b-2050")
    probability = head.predict(vectors["b-2050"])
    best = probability.argmax(axis=1)
    assert table["genus"].to_pylist() == [head.classes[one] for one in best]
    assert np.allclose(table["score"].to_numpy(), probability.max(axis=1))
    entropy = -(probability.astype(float) * np.log(probability.astype(float))).sum(axis=1)
    assert np.allclose(table["entropy"].to_numpy(), entropy, atol=1e-5)
    total = sum(table[name].to_numpy() for name in ("score", "score_2", "score_3"))
    assert np.allclose(total, 1, atol=1e-5)


def test_an_object_without_pixels_has_no_genus(backbone: Path, tmp_path: Path) -> None:
    head = fit_head(
        tmp_path / "head", np.random.default_rng(0).normal(size=(9, 4)).astype(np.float16), backbone
    )
    slide = StoredSlide("one", pa.table({"object_id": pa.array([0, 1], pa.int32())}), footer=None)
    table = predictions_table(slide, head, np.ones((2, 4), np.float16), np.array([True, False]))
    first, second = table.to_pylist()
    assert first["genus"] in head.classes
    assert set(second.values()) == {"one", 1, None}


@pytest.mark.slow
def test_a_head_is_not_run_on_vectors_of_another_backbone(
    run: RunStore, backbone: Path, tmp_path: Path
) -> None:
    file = tmp_path / "head.safetensors"
    fit_head(file, np.random.default_rng(0).normal(size=(9, 192)).astype(np.float16), backbone)
    embed(run.url, backbone, name="fits")
    with pytest.raises(UsageError, match=r"are of another backbone, .*; give --embeddings"):
        classify(run.url, file)
    embed(run.url, write_backbone(tmp_path / "other.safetensors", seed=1))
    with pytest.raises(UsageError, match="the embeddings other are of another backbone, other"):
        classify(run.url, file, embeddings="other")
    lacking = DerivedStore.open(run, "embeddings", "fits")
    lacking.files.delete(lacking.committed_files()["a-2030"])
    with pytest.raises(UsageError, match="lack 1 slides, such as a-2030"):
        classify(run.url, file, embeddings="fits")


@pytest.fixture(scope="module")
def own_vectors(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """A run whose record names the backbone of its vectors."""
    run = write_small_run(tmp_path_factory.mktemp("own") / "run")
    stated = json.loads(run.files.read("run.json"))
    stated["weights"]["embedder/net-1"] = hashlib.sha256(backbone.read_bytes()).hexdigest()
    run.files.write("run.json", json.dumps(stated).encode())
    return RunStore.open(run.url)


def test_vectors_of_the_run_itself_serve_a_head_of_its_backbone(
    own_vectors: RunStore, backbone: Path, tmp_path: Path
) -> None:
    run = own_vectors
    own = load_embeddings(
        run, run_query(run, "SELECT * FROM objects WHERE slide_id = 'a-2030' ORDER BY object_id")
    )
    head = fit_head(tmp_path / "head.safetensors", own, backbone)
    classify(run.url, tmp_path / "head.safetensors", name="own")
    table = DerivedStore.open(RunStore.open(run.url), "predictions", "own").read("a-2030")
    assert table["genus"].to_pylist() == [head.classes[one] for one in head.predict(own).argmax(axis=1)]


@pytest.mark.slow
def test_a_reprocessed_slide_is_embedded_again_and_its_old_vectors_are_not_read(
    backbone: Path, tmp_path: Path
) -> None:
    run = write_small_run(tmp_path / "run")
    embed(run.url, backbone, name="old")
    run.files.delete(run.committed_files()["a-2030"])
    commit_slide(run, "a-2030", count=7, well=WELL, depth_m=2030.0, seed=9)
    run.rebuild_summaries()
    file = tmp_path / "head.safetensors"
    fit_head(file, np.random.default_rng(0).normal(size=(9, 192)).astype(np.float16), backbone)
    refused = classify(run.url, file, embeddings="old")
    assert [failure.slide_id for failure in refused.failures] == ["a-2030"]
    assert "processed again since" in refused.failures[0].message
    again = embed(run.url, backbone, name="old")
    assert (again.tally.already_committed, again.tally.committed) == (3, 1)
    assert DerivedStore.open(run, "embeddings", "old").read("a-2030").num_rows == 7
    assert classify(run.url, file, embeddings="old").exit_code == 0
    assert verify_run(run, deep=True).sound


def fit_head(file: Path, vectors: NDArray[np.float16], backbone: Path) -> Head:
    """A head of three classes that are assigned in turn."""
    digest = hashlib.sha256(backbone.read_bytes()).hexdigest()
    head = train_head(
        vectors,
        np.arange(len(vectors)) % 3,
        ("Alnus", "Betula", "Corylus"),
        kind="logistic",
        backbone=BackboneReference(name="net-1", sha256=digest),
    )
    save_head(file, head)
    return head


def classify(run: str, head: Path, *, embeddings: str | None = None, name: str | None = None) -> JobResult:
    display = choose_display(Console(file=io.StringIO()))
    return classify_run(run, head, CONFIG, embeddings=embeddings, name=name, address="auto", display=display)


def embed(
    run: str, backbone: Path, *, name: str | None = None, config: RunConfig = CONFIG, address: str = "auto"
) -> JobResult:
    display = choose_display(Console(file=io.StringIO()))
    return embed_run(run, str(backbone), config, name=name, address=address, display=display)
