"""From labels to a run whose calls say how sure they are, and to what nobody labelled: through the command line."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from labels.test_load import picture
from numpy.typing import NDArray
from support.classified_run import predict
from support.run_fixtures import a_run
from support.small_run import CROP_PX, write_small_run
from training.test_curation import commit_kinds, kinds_of
from typer.testing import CliRunner

from fossilray.analysis.discovery.confident_calls import select_confident
from fossilray.analysis.discovery.discover import DISCOVERY_SCHEMA
from fossilray.cli.main import app
from fossilray.core.config import CropsConfig, RunConfig
from fossilray.core.errors import RunMismatch, RunNotFound, UsageError
from fossilray.core.images import resize_to
from fossilray.core.records import CatalogRow
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
    """Taught on 30 objects of each known kind of slide a."""
    folder = tmp_path_factory.mktemp("head")
    lines, given = ["slide_id,object_id,genus"], Counter[str]()
    for number, kind in enumerate(kinds_of(SLIDES["a"], seed=0)):
        if kind in KNOWN and given[kind] < 30:
            given[kind] += 1
            lines.append(f"a,{number},{kind}")
    (folder / "labels.csv").write_text("\n".join(lines))
    told = call(
        *("classify", "train", "--labels", folder / "labels.csv", "--run", run.url, "--backbone", "run"),
        *("--head", "knn", "--out", folder / "head.safetensors"),
    )
    assert "certainty from 90 crops held out by crops: temperature" in told
    return folder / "head.safetensors"


def small_picture(seed: int) -> NDArray[np.uint8]:
    """No two alike, or they would be held for one."""
    return resize_to(picture(seed), size_px=CROP_PX)


def call(*words: str | Path, code: int = 0) -> str:
    answer = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=code != 0)
    assert answer.exit_code == code, answer.output
    return answer.output


def classify(run: RunStore, head: Path, *, name: str) -> DerivedStore:
    """As a worker of `fossilray classify run` does it, in this process."""
    found = load_head(head)
    confusion = found.confusion
    assert confusion is not None
    record = DerivedRecord(
        "predictions",
        run.read_run().digest,
        {"name": "net", "sha256": BACKBONE, "dimension": found.meta.dimension},
        head={"classes": found.classes, "confusion": confusion.tolist(), "coverage": 0.9},
        schema_version=CALIBRATED_VERSION,
    )
    answers = DerivedStore.create(run, "predictions", name, record)
    make = functools.partial(ClassifyTask, head=head, embeddings=None, coverage=0.9)
    worker = InferenceWorker(run.url, RunConfig(), "predictions", name, make)
    worker.prepare()
    for slide_id, path in run.committed_files().items():
        outcome = worker.process(
            CatalogRow(slide_id=slide_id, path=path, well=run.footer(slide_id).summary.well)
        )
        assert outcome.failure is None
    return answers


@pytest.fixture(scope="module")
def predictions(run: RunStore, head: Path) -> DerivedStore:
    return classify(run, head, name="genera")


def test_predictions_say_which_genera_how_surely_and_how_new(
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
    text = call("query", run.url, "SELECT genera FROM predictions LIMIT 1", "--format", "csv")
    assert text.startswith('"genera"')


def test_the_job_writes_what_the_worker_says_and_its_record_states_coverage_and_confusion(
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
    assert "352 objects classified" in call(*words, "--set", "workers.cpus_per_worker=0.4")
    answers = DerivedStore.open(run, "predictions", "job")
    assert answers.read("b").equals(predictions.read("b"))
    stated = answers.record.head
    assert stated is not None
    assert stated["coverage"] == 0.9
    assert np.sum(stated["confusion"]) == 90
    with pytest.raises(RunMismatch, match="coverage"):
        call(*words, "--coverage", "0.8")


def test_predictions_of_a_head_without_certainty_stand_beside_them(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run")
    predict(store, "older")
    found = run_query(
        store, "SELECT count(*) AS n, count(genera) AS sets, count(genus) AS g FROM predictions"
    )
    assert found.to_pylist() == [{"n": 77, "sets": 0, "g": 74}]
    with pytest.raises(UsageError, match="older do not say how sure they are"):
        select_confident(store, head="older", wrong_share=0.05)
    with pytest.raises(RunNotFound, match="has no predictions"):
        select_confident(write_small_run(tmp_path / "bare"), head=None, wrong_share=0.05)


def test_calls_are_kept_up_to_an_entropy_and_the_sql_says_the_same(
    run: RunStore, predictions: DerivedStore, tmp_path: Path
) -> None:
    told = call(
        "calls",
        run.url,
        "--head",
        "genera",
        "--wrong",
        "0.05",
        "--novelty-p",
        "0.02",
        "--out",
        tmp_path / "calls.csv",
    )
    found = select_confident(run, head="genera", wrong_share=0.05, novelty_p=0.02)
    assert f"{found.kept:,} of 352 calls of genera kept" in told
    condition = told.split("SQL: ")[1].strip()
    counted = run_query(run, f"SELECT count(*) AS n FROM predictions WHERE {condition}")
    assert counted["n"][0].as_py() == found.known
    assert found.entropy is not None
    by_entropy = run_query(
        run, f"SELECT count(*) AS n FROM predictions WHERE head = 'genera' AND entropy <= {found.entropy!r}"
    )
    assert by_entropy["n"][0].as_py() == found.kept
    assert (tmp_path / "calls.csv").read_text().splitlines()[0] == '"genus","objects","kept","known"'
    assert found.known <= found.kept - 40  # what is new was called something, and often surely
    assert "no call of genera can be kept" in call("calls", run.url, "--head", "genera", "--wrong", "0.001")


def test_what_nobody_labelled_is_found_sorted_and_counted(run: RunStore, head: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.parquet"
    told = call(
        *("discover", run.url, "--head", head, "--out", out, "--novelty-p", "0.02"),
        *("--clusters", "2", "--shown", "5"),
    )
    table = pq.read_table(out)
    assert table.schema.equals(DISCOVERY_SCHEMA)
    rows = table.to_pylist()
    kind = {name: kinds_of(kinds, seed=seed) for seed, (name, kinds) in enumerate(SLIDES.items())}
    of = [kind[row["slide_id"]][row["object_id"]] for row in rows]
    assert sum(one in NEW for one in of) == 52  # all of them
    assert sum(one in KNOWN for one in of) < 0.06 * 300
    stated = json.loads(pq.read_schema(out).metadata[b"fossilray"])
    assert f"{len(rows)} of 352 objects are like no label, in 2 clusters" in told
    assert (stated["novel"], stated["objects"], stated["backbone"]) == (len(rows), 352, BACKBONE)
    for name in NEW:
        clusters = Counter(row["cluster"] for row, one in zip(rows, of, strict=True) if one == name)
        assert len(clusters) == 1
    assert len({row["cluster"] for row, one in zip(rows, of, strict=True) if one in NEW}) == 2
    for one in stated["candidates"]:
        assert one["objects"] == sum(row["cluster"] == one["cluster"] for row in rows)
        assert sum(at["count"] for at in one["counts"]) == one["objects"]
        assert {at["of"] for at in one["counts"]} == {352}  # both slides are of one well and depth
    page = (tmp_path / "found.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 2
    assert "<script" not in page
    assert "6407/6-5" in page


def test_equal_questions_give_equal_files_and_a_condition_narrows_them(
    run: RunStore, head: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        call(
            "discover", run.url, "--head", head, "--out", tmp_path / f"{name}.parquet", "--novelty-p", "0.02"
        )
    for suffix in ("parquet", "html"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    out = tmp_path / "pale.parquet"
    call(
        *("discover", run.url, "--head", head, "--out", out, "--novelty-p", "0.02"),
        *("--where", "opacity < 0.6 -- no charcoal"),
    )
    kind = {name: kinds_of(kinds, seed=seed) for seed, (name, kinds) in enumerate(SLIDES.items())}
    of = [kind[row["slide_id"]][row["object_id"]] for row in pq.read_table(out).to_pylist()]
    assert "charcoal" not in of
    assert of.count("fog") == 26


def test_nothing_new_is_a_page_that_says_so(run: RunStore, head: Path, tmp_path: Path) -> None:
    out = tmp_path / "none.parquet"
    told = call(
        *("discover", run.url, "--head", head, "--out", out, "--novelty-p", "0.02", "--where", "width_um < 0")
    )
    assert "0 of 0 objects are like no label" in told
    assert pq.read_table(out).num_rows == 0
    assert "No object is unlike" in (tmp_path / "none.html").read_text()


def test_what_cannot_be_compared_is_refused_in_a_sentence(run: RunStore, head: Path, tmp_path: Path) -> None:
    def refused(*words: str | Path) -> str:
        answer = CliRunner().invoke(app, [str(word) for word in words])
        assert answer.exit_code != 0
        return str(answer.exception)

    assert "can be odder than one in 91" in refused("discover", run.url, "--head", head)
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
