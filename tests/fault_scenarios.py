"""The commands whose file operations are broken in turn, on a small run."""

from __future__ import annotations

import csv
import importlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from answer_driver import teach_head
from answered_run import predict
from fault_points import Scenario, cli
from indexed_runs import SMALL, a_vector_run, index_runs, kinds_of_vectors
from small_run import write_small_run

from fossilray.labelling.label_set import LabelSet
from fossilray.query import run_query
from fossilray.similar.search import SearchIndex
from fossilray.store import RunStore, open_run


def prepare(inputs: Path) -> None:
    """What the commands read: a run with predictions, labels, a head, vectors to index."""
    run = write_small_run(inputs / "run")
    predict(run, "genera")
    rows = run_query(run, "SELECT slide_id, object_id FROM objects ORDER BY slide_id, object_id LIMIT 40")
    for name, shift in (("labels.csv", 0), ("more.csv", 1)):
        with (inputs / name).open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["slide_id", "object_id", "genus"])
            for number, row in enumerate(rows.to_pylist()):
                genus = ("Alnus", "Betula")[(number + shift) % 2]
                table.writerow([row["slide_id"], row["object_id"], genus])
    (inputs / "set").mkdir()
    import_first(inputs, inputs / "set")
    teach_head(run, inputs / "head.safetensors", classes=("Alnus", "Betula"))
    slides = {f"s-{number}": kinds_of_vectors(300, seed=number) for number in range(4)}
    a_vector_run(inputs / "vectors", slides)
    index_runs([str(inputs / "vectors")], inputs / "index")


def scenarios(inputs: Path) -> dict[str, Scenario]:
    """By the names of their commands."""
    run = inputs / "run"
    export = ("export", run)
    return {
        "labels import": Scenario(lambda out: import_labels(inputs, out, "labels.csv"), facts=labels_in),
        "labels import, second": Scenario(
            lambda out: import_labels(inputs, out, "more.csv"),
            begin=lambda out: import_first(inputs, out),
            facts=labels_in,
        ),
        "compact": Scenario(
            lambda out: cli("compact", run, "--to", out / "dataset", "--slides-per-file", 2, "--embeddings"),
            facts=dataset_in,
        ),
        "index build": Scenario(lambda out: build_index(inputs, out), facts=index_in),
        "classify train": Scenario(
            lambda out: cli(
                *(
                    "classify",
                    "train",
                    "--labels",
                    inputs / "set" / "labels",
                    "--run",
                    run,
                    "--backbone",
                    "handcrafted",
                ),
                *("--out", out / "head.safetensors"),
            )
        ),
        "export geojson": Scenario(lambda out: cli(*export, "--out", out / "boxes")),
        "export csv": Scenario(lambda out: cli(*export, "--format", "csv", "--out", out / "boxes.csv")),
        "export imagefolder": Scenario(
            lambda out: cli(*export, "--format", "imagefolder", "--head", "genera", "--out", out / "classes")
        ),
        "export anndata": Scenario(
            lambda out: cli(*export, "--format", "anndata", "--out", out / "objects.h5ad"), facts=anndata_in
        ),
        "crops": Scenario(lambda out: cli("crops", run, "--where", "object_id < 6", "--out", out / "crops")),
        "query --out": Scenario(
            lambda out: cli(
                *("query", run, "SELECT slide_id, object_id FROM objects ORDER BY ALL"),
                *("--format", "parquet", "--out", out / "rows.parquet"),
            )
        ),
        "report": Scenario(lambda out: cli("report", run, "--out", out / "report.html"), facts=sizes),
        "chart": Scenario(
            lambda out: cli("chart", run, "--well", "6407/6-5", "--out", out / "chart"),
            facts=sizes,
        ),
        "suggest": Scenario(
            lambda out: cli("suggest", run, "--out", out / "next", "--n", 8), facts=suggested_in
        ),
        "curate": Scenario(
            lambda out: cli(
                *("curate", run, "--out", out / "curated.parquet"),
                *("--rule", "clusters=8", "--rule", "families=2"),
            )
        ),
        "verify --rebuild": Scenario(
            lambda out: cli("verify", out / "run", "--rebuild"),
            begin=lambda out: copy_run(run, out),
            facts=run_in,
        ),
        "retry": Scenario(
            lambda out: cli("retry", out / "run"), begin=lambda out: copy_run(run, out), facts=run_in
        ),
        "similar --sheet": Scenario(
            lambda out: cli(
                *("similar", inputs / "index", "--object", "s-1:3", "--k", 4),
                *("--sheet", out / "sheet.html", "--out", out / "hits.csv"),
            )
        ),
    }


def import_labels(inputs: Path, out: Path, name: str) -> None:
    cli("labels", "import", inputs / name, "--run", inputs / "run", "--into", out / "labels", "--who", "Ada")


def import_first(inputs: Path, out: Path) -> None:
    from fossilray.labelling.importing import import_labels as bring

    bring(inputs / "labels.csv", RunStore.open(str(inputs / "run")), out / "labels", who="Ada")


def build_index(inputs: Path, out: Path) -> None:
    from unittest.mock import patch

    import fossilray.index_job as job
    from fossilray.config import RunConfig
    from fossilray.errors import FossilrayError

    def in_this_process(rows: Any, make_worker: Any, **_: Any) -> None:
        worker = make_worker()
        worker.prepare()
        for row in rows:
            outcome = worker.process(row)
            if outcome.failure is not None:
                raise FossilrayError(outcome.failure.message)

    from contextlib import nullcontext
    from unittest.mock import MagicMock

    command = importlib.import_module("fossilray.cli.main")
    with (
        patch.object(job, "run_slides", in_this_process),
        patch.object(job, "ray_cluster", lambda _: nullcontext()),
        patch.object(
            command,
            "app",
            lambda: job.build_index(
                [str(inputs / "vectors")],
                str(out / "index"),
                RunConfig(),
                SMALL,
                address="local",
                display=MagicMock(),
            ),
        ),
    ):
        command.main()


def labels_in(out: Path) -> Any:
    book = LabelSet.open(out / "labels")
    said = book.labels()
    rounds = [(one.number, one.labels, one.source, one.run_digest) for one in book.rounds()]
    return {"rounds": rounds, "agreed": sorted(map(str, said.agreed.values())), "conflicts": said.conflicts}


def dataset_in(out: Path) -> Any:
    store = open_run(str(out / "dataset"))
    rows = run_query(store, "SELECT * FROM objects ORDER BY slide_id, object_id")
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.parquet"))
    vectors = {
        path.relative_to(out).as_posix(): pq.read_table(path).to_pydict()
        for path in sorted((out / "dataset" / "embeddings").rglob("*.parquet"))
    }
    return {"rows": rows.to_pylist(), "files": files, "vectors": str(vectors)}


def index_in(out: Path) -> Any:
    found = SearchIndex.open(str(out / "index"))
    hits = found.search(kinds_of_vectors(5, seed=99).astype(np.float32), count=5, probes=8)
    return {"slides": sorted(map(str, found.slides)), "hits": str(hits), "shards": len(found.shards)}


def anndata_in(out: Path) -> Any:
    import h5py

    with h5py.File(out / "objects.h5ad") as file:
        return {"x": file["X"][:].tolist(), "names": sorted(file["obs"])}


def run_in(out: Path) -> Any:
    store = RunStore.open(str(out / "run"))
    committed = sorted(store.committed_files().items())
    failures = [(one.slide_id, one.attempt) for one in store.failures()]
    return {
        "committed": committed,
        "summaries": [str(one) for one in store.summaries()],
        "failures": failures,
    }


def suggested_in(out: Path) -> Any:
    """Its table for ParticleTrieur names the folder itself."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes().replace(str(out).encode(), b"")
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def sizes(out: Path) -> Any:
    return {
        path.relative_to(out).as_posix(): path.stat().st_size > 500
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix != ".csv"
    }


def copy_run(run: Path, out: Path) -> None:
    shutil.copytree(run, out / "run")
