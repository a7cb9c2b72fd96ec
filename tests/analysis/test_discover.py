"""The command line from labels to calibrated predictions of a run, confident predictions and novel objects."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from support.classified_run import predict
from support.cli_runner import invoke, run_command
from support.labelled_folders import picture
from support.run_fixtures import a_run
from support.small_run import CROP_PX, write_small_run
from training.test_curation import commit_kinds, kinds_of

from fossilray.analysis.discovery.confident_predictions import select_confident
from fossilray.analysis.discovery.discover import DISCOVERY_SCHEMA
from fossilray.core.config import CropsConfig, RunConfig
from fossilray.core.errors import RunMismatch, RunNotFound, UsageError
from fossilray.core.images import resize_to
from fossilray.core.records import WorkItem
from fossilray.models.heads import load_head
from fossilray.processing.inference.tasks import ClassifyTask
from fossilray.processing.inference.worker import InferenceWorker
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import CALIBRATED_VERSION, DerivedRecord, DerivedStore
from fossilray.store.query.connection import run_query
from fossilray.store.run.run_record import describe_run

KNOWN = ("spore", "pollen", "acritarch")
NEW = ("charcoal", "fog")
SLIDES = {
    "a": {"spore": 60, "pollen": 50, "acritarch": 50, "charcoal": 20, "fog": 12},
    "b": {"spore": 55, "pollen": 45, "acritarch": 40, "charcoal": 6, "fog": 14},
}
BACKBONE = "cd" * 32


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = RunStore.open(str(tmp_path_factory.mktemp("runs") / "run"))
    config = RunConfig(crops=CropsConfig(size_px=CROP_PX))
    store.create_or_check(describe_run(config, {"embedder/backbone.safetensors": BACKBONE}))
    for seed, (name, kinds) in enumerate(SLIDES.items()):
        commit_kinds(
            store, name, kinds, seed=seed, crops_of=lambda row, of=seed: small_picture(1000 * of + row)
        )
    return store


@pytest.fixture(scope="module")
def head(run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on 30 objects of each known kind of slide a."""
    folder = tmp_path_factory.mktemp("head")
    lines, labelled = ["slide_id,object_id,genus"], Counter[str]()
    for number, kind in enumerate(kinds_of(SLIDES["a"], seed=0)):
        if kind in KNOWN and labelled[kind] < 30:
            labelled[kind] += 1
            lines.append(f"a,{number},{kind}")
    (folder / "labels.csv").write_text("\n".join(lines))
    output = run_command(
        *("classify", "train", "--labels", folder / "labels.csv", "--run", run.url, "--backbone", "run"),
        *("--kind", "knn", "--out", folder / "head.safetensors"),
    )
    assert "uncertainty from 90 crops, held out by crops: temperature" in output
    return folder / "head.safetensors"


def small_picture(seed: int) -> NDArray[np.uint8]:
    """Return a picture that differs for each seed, because equal pictures are duplicates."""
    return resize_to(picture(seed), size_px=CROP_PX)


def classify(run: RunStore, head: Path, *, name: str) -> DerivedStore:
    """Classify a run in this process, as a worker of `fossilray classify run` does."""
    loaded = load_head(head)
    confusion = loaded.confusion
    assert confusion is not None
    record = DerivedRecord(
        "predictions",
        run.read_run().digest,
        {"name": "net", "sha256": BACKBONE, "dimension": loaded.meta.dimension},
        head={"classes": loaded.classes, "confusion": confusion.tolist(), "coverage": 0.9},
        schema_version=CALIBRATED_VERSION,
    )
    predictions = DerivedStore.create(run, "predictions", name, record)
    make = functools.partial(ClassifyTask, head=head, embeddings=None, coverage=0.9)
    worker = InferenceWorker(run.url, RunConfig(), "predictions", name, make)
    worker.prepare()
    for slide_id, path in run.committed_files().items():
        outcome = worker.process(WorkItem(slide_id, payload=path))
        assert outcome.failure is None
    return predictions


@pytest.fixture(scope="module")
def predictions(run: RunStore, head: Path) -> DerivedStore:
    return classify(run, head, name="genera")


def test_predictions_have_prediction_sets_uncertainty_and_novelty(
    run: RunStore, predictions: DerivedStore
) -> None:
    rows = predictions.read("b").to_pylist()
    for row, kind in zip(rows, kinds_of(SLIDES["b"], seed=1), strict=True):
        if kind in KNOWN:
            assert row["genus"] == kind
            assert row["novelty_p"] > 0.01 or row["novelty"] > 0
        else:
            assert row["novelty_p"] == pytest.approx(1 / 91)
        assert row["genera"] == sorted(row["genera"], key=lambda name: name != row["genus"])
    known = [row for row, kind in zip(rows, kinds_of(SLIDES["b"], seed=1), strict=True) if kind in KNOWN]
    assert np.mean([row["genus"] in row["genera"] for row in known]) > 0.8
    shown = run_query(run, "SELECT genus, genera, wrong_p, novelty_p FROM predictions WHERE len(genera) = 1")
    assert shown.num_rows > 100
    text = run_command("query", run.url, "SELECT genera FROM predictions LIMIT 1", "--format", "csv")
    assert text.startswith('"genera"')


def test_the_job_writes_what_the_worker_returns_and_its_record_has_coverage_and_confusion(
    run: RunStore,
    head: Path,
    predictions: DerivedStore,
    shared_ray: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", shared_ray)
    words = (
        "classify",
        "run",
        run.url,
        "--head",
        head,
        "--name",
        "job",
        "--address",
        "auto",
        "--workers",
        "1",
    )
    assert "352 objects classified" in run_command(*words, "--set", "workers.cpus_per_worker=0.4")
    written = DerivedStore.open(run, "predictions", "job")
    assert written.read("b").equals(predictions.read("b"))
    head_record = written.record.head
    assert head_record is not None
    assert head_record["coverage"] == 0.9
    assert np.sum(head_record["confusion"]) == 90
    with pytest.raises(RunMismatch, match="coverage"):
        run_command(*words, "--coverage", "0.8")


def test_predictions_of_an_uncalibrated_head_are_in_the_view_and_have_no_confident_ones(
    tmp_path: Path,
) -> None:
    store = write_small_run(tmp_path / "run")
    predict(store, "older")
    counts = run_query(
        store, "SELECT count(*) AS n, count(genera) AS sets, count(genus) AS g FROM predictions"
    )
    assert counts.to_pylist() == [{"n": 77, "sets": 0, "g": 74}]
    with pytest.raises(UsageError, match="older are not calibrated"):
        select_confident(store, head="older", wrong_share=0.05)
    with pytest.raises(RunNotFound, match="has no predictions"):
        select_confident(write_small_run(tmp_path / "bare"), head=None, wrong_share=0.05)


def test_predictions_are_kept_up_to_an_entropy_and_the_sql_selects_the_same(
    run: RunStore, predictions: DerivedStore, tmp_path: Path
) -> None:
    output = run_command(
        "calls",
        run.url,
        "--predictions",
        "genera",
        "--wrong",
        "0.05",
        "--novelty-p",
        "0.02",
        "--out",
        tmp_path / "calls.csv",
    )
    confident = select_confident(run, head="genera", wrong_share=0.05, novelty_p=0.02)
    assert f"{confident.kept:,} of 352 predictions of genera kept" in output
    condition = output.split("SQL: ")[1].strip()
    counted = run_query(run, f"SELECT count(*) AS n FROM predictions WHERE {condition}")
    assert counted["n"][0].as_py() == confident.known
    assert confident.entropy is not None
    by_entropy = run_query(
        run,
        f"SELECT count(*) AS n FROM predictions WHERE head = 'genera' AND entropy <= {confident.entropy!r}",
    )
    assert by_entropy["n"][0].as_py() == confident.kept
    assert (tmp_path / "calls.csv").read_text().splitlines()[0] == '"genus","objects","kept","known"'
    assert confident.known <= confident.kept - 40  # novel objects are classified too, often confidently
    strict = run_command("calls", run.url, "--predictions", "genera", "--wrong", "0.001")
    assert "no prediction of genera can be kept" in strict


def test_novel_objects_are_found_clustered_and_counted(run: RunStore, head: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.parquet"
    output = run_command(
        *("discover", run.url, "--head", head, "--out", out, "--novelty-p", "0.02"),
        *("--clusters", "2", "--shown", "5"),
    )
    table = pq.read_table(out)
    assert table.schema.equals(DISCOVERY_SCHEMA)
    rows = table.to_pylist()
    kind = {name: kinds_of(content, seed=seed) for seed, (name, content) in enumerate(SLIDES.items())}
    kinds = [kind[row["slide_id"]][row["object_id"]] for row in rows]
    assert sum(name in NEW for name in kinds) == 52  # all of them
    assert sum(name in KNOWN for name in kinds) < 0.06 * 300
    stated = json.loads(pq.read_schema(out).metadata[b"fossilray"])
    assert f"{len(rows)} of 352 objects are novel, in 2 clusters" in output
    assert (stated["novel"], stated["objects"], stated["backbone"]) == (len(rows), 352, BACKBONE)
    for name in NEW:
        clusters = Counter(
            row["cluster"] for row, kind_of_row in zip(rows, kinds, strict=True) if kind_of_row == name
        )
        assert len(clusters) == 1
    assert len({row["cluster"] for row, name in zip(rows, kinds, strict=True) if name in NEW}) == 2
    for candidate in stated["candidates"]:
        assert candidate["objects"] == sum(row["cluster"] == candidate["cluster"] for row in rows)
        assert sum(depth["count"] for depth in candidate["counts"]) == candidate["objects"]
        assert {depth["of"] for depth in candidate["counts"]} == {
            352
        }  # both slides are of one well and depth
    page = (tmp_path / "found.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 2
    assert "<script" not in page
    assert "6407/6-5" in page


def test_equal_input_gives_equal_files_and_a_condition_restricts_the_objects(
    run: RunStore, head: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        run_command(
            "discover", run.url, "--head", head, "--out", tmp_path / f"{name}.parquet", "--novelty-p", "0.02"
        )
    for suffix in ("parquet", "html"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    out = tmp_path / "pale.parquet"
    run_command(
        *("discover", run.url, "--head", head, "--out", out, "--novelty-p", "0.02"),
        *("--where", "opacity < 0.6 -- no charcoal"),
    )
    kind = {name: kinds_of(content, seed=seed) for seed, (name, content) in enumerate(SLIDES.items())}
    kinds = [kind[row["slide_id"]][row["object_id"]] for row in pq.read_table(out).to_pylist()]
    assert "charcoal" not in kinds
    assert kinds.count("fog") == 26


def test_a_run_without_novel_objects_has_a_page_that_states_it(
    run: RunStore, head: Path, tmp_path: Path
) -> None:
    out = tmp_path / "none.parquet"
    output = run_command(
        *("discover", run.url, "--head", head, "--out", out, "--novelty-p", "0.02", "--where", "width_um < 0")
    )
    assert "0 of 0 objects are novel" in output
    assert pq.read_table(out).num_rows == 0
    assert "No object is novel" in (tmp_path / "none.html").read_text()


def test_a_head_that_cannot_be_compared_with_a_run_is_refused(
    run: RunStore, head: Path, tmp_path: Path
) -> None:
    def refused(*words: str | Path) -> str:
        result = invoke(*words)
        assert result.exit_code != 0
        return str(result.exception)

    assert "no p-value is below one in 91" in refused("discover", run.url, "--head", head)
    other = RunStore.open(str(tmp_path / "other"))
    other.create_or_check(a_run(**{"embedder/another": "ef" * 32}))
    words = ("--head", head, "--novelty-p", "0.02")
    assert "(efefefefefef); give --embeddings of that backbone" in refused("discover", other.url, *words)
    assert "no embeddings named x" in refused("discover", run.url, *words, "--embeddings", "x")
    out = tmp_path / "found.csv"
    assert "ends in .parquet" in refused("discover", run.url, *words, "--out", out)
    assert "wells cannot be held out" in refused(
        *("classify", "train", "--labels", head.parent / "labels.csv", "--run", run.url, "--backbone", "run"),
        *("--hold-out", "wells", "--out", tmp_path / "h.safetensors"),
    )
