"""The commands whose file operations are broken in turn, on a small run."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from support.classified_run import predict
from support.fault_job_commands import copy_run, jobs, prepare_jobs
from support.fault_points import Scenario, cli
from support.fault_slides import of_slides, prepare_slides
from support.small_run import write_small_run

from fossilray.labels.label_set import LabelSet
from fossilray.store import RunStore, open_run
from fossilray.store.query.connection import run_query


def prepare(inputs: Path, names: Collection[str]) -> None:
    """What these commands read: a run with predictions, labels, heads, slides, vectors to index."""
    from support.inference_driver import fit_head

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
    fit_head(run, inputs / "head.safetensors", classes=("Alnus", "Betula"))
    if set(names) & of_slides(inputs).keys():
        prepare_slides(inputs)
    if set(names) & (jobs(inputs).keys() | _OF_JOBS):
        prepare_jobs(inputs)


_OF_JOBS = {"similar --sheet", "evaluate", "explain", "discover"}
"""They read what jobs read."""


def scenarios(inputs: Path) -> dict[str, Scenario]:
    """By the names of their commands."""
    run = inputs / "run"
    export = ("export", run)
    return {
        **jobs(inputs),
        **of_slides(inputs),
        "labels import": Scenario(lambda out: import_labels(inputs, out, "labels.csv"), outcome=labels_in),
        "labels import, second": Scenario(
            lambda out: import_labels(inputs, out, "more.csv"),
            begin=lambda out: import_first(inputs, out),
            outcome=labels_in,
        ),
        "compact": Scenario(
            lambda out: cli(
                "compact", run, "--to", out / "dataset", "--slides-per-file", 2, "--with-embeddings"
            ),
            outcome=dataset_in,
        ),
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
            lambda out: cli(
                *export, "--format", "imagefolder", "--predictions", "genera", "--out", out / "classes"
            )
        ),
        "export anndata": Scenario(
            lambda out: cli(*export, "--format", "anndata", "--out", out / "objects.h5ad"), outcome=anndata_in
        ),
        "export vectors": Scenario(
            lambda out: cli(*export, "--format", "vectors", "--out", out / "vectors.parquet")
        ),
        "crops": Scenario(lambda out: cli("crops", run, "--where", "object_id < 6", "--out", out / "crops")),
        "query --out": Scenario(
            lambda out: cli(
                *("query", run, "SELECT slide_id, object_id FROM objects ORDER BY ALL"),
                *("--format", "parquet", "--out", out / "rows.parquet"),
            )
        ),
        "report": Scenario(lambda out: cli("report", run, "--out", out / "report.html"), outcome=texts),
        "chart": Scenario(
            lambda out: cli("chart", run, "--well", "6407/6-5", "--out", out / "chart"),
            outcome=texts,
        ),
        "suggest": Scenario(
            lambda out: cli("suggest", run, "--out", out / "next", "--limit", 8), outcome=suggested_in
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
            outcome=run_in,
        ),
        "gc": Scenario(
            lambda out: cli("gc", out / "run", "--older-than", "3d"),
            begin=lambda out: leave_much_behind(run, out),
            outcome=files_in,
        ),
        "evaluate": Scenario(
            lambda out: cli(
                *("evaluate", "classification", "--labels", inputs / "shapes"),
                *("--backbone", "handcrafted", "--splits", 2, "--no-maps", "--out", out / "judged"),
            ),
            outcome=texts,
        ),
        "explain": Scenario(
            lambda out: cli(
                *(
                    "explain",
                    "--head",
                    inputs / "shapes.safetensors",
                    "--crops",
                    inputs / "shapes" / "class0",
                ),
                *("--backbone", inputs / "net.safetensors", "--limit", 2, "--out", out / "why.html"),
            ),
            outcome=texts,
        ),
        "discover": Scenario(
            lambda out: cli(
                *("discover", inputs / "vectors", "--head", inputs / "known.safetensors"),
                *("--clusters", 3, "--out", out / "found.parquet"),
            ),
            outcome=texts,
        ),
        "retry": Scenario(
            lambda out: cli("retry", out / "run"), begin=lambda out: copy_run(run, out), outcome=run_in
        ),
        "similar --sheet": Scenario(
            lambda out: cli(
                *("similar", inputs / "index", "--object", "s-1:3", "--limit", 4),
                *("--sheet", out / "sheet.html", "--out", out / "hits.csv"),
            )
        ),
    }


def import_labels(inputs: Path, out: Path, name: str) -> None:
    sets = ("--run", inputs / "run", "--to", out / "labels")
    cli("labels", "import", inputs / name, *sets, "--annotator", "Ada")


def import_first(inputs: Path, out: Path) -> None:
    from fossilray.labels.importing import import_label_round

    import_label_round(inputs / "labels.csv", RunStore.open(str(inputs / "run")), out / "labels", who="Ada")


def labels_in(out: Path) -> Any:
    book = LabelSet.open(out / "labels")
    said = book.labels()
    rounds = [(one.number, one.labels, one.source, one.run_digest) for one in book.rounds()]
    return {
        "rounds": rounds,
        "agreed": sorted(str(replace(label, at="")) for label in said.consensus.values()),
        "conflicts": said.conflicts,
    }


def dataset_in(out: Path) -> Any:
    store = open_run(str(out / "dataset"))
    rows = run_query(store, "SELECT * FROM objects ORDER BY slide_id, object_id")
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.parquet"))
    vectors = {
        path.relative_to(out).as_posix(): pq.read_table(path).to_pydict()
        for path in sorted((out / "dataset" / "embeddings").rglob("*.parquet"))
    }
    return {"rows": rows.to_pylist(), "files": files, "vectors": str(vectors)}


def anndata_in(out: Path) -> Any:
    import h5py

    with h5py.File(out / "objects.h5ad") as file:
        return {"x": file["X"][:].tolist(), "names": sorted(file["obs"])}


def run_in(out: Path) -> Any:
    store = RunStore.open(str(out / "run"))
    committed = sorted(store.committed_files().items())
    failures = [(one.slide_id, one.attempt) for one in store.attempts.failures()]
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


def texts(out: Path) -> Any:
    """Files of text without the times and random names in them; of others, whether they hold something."""
    return {
        path.relative_to(out).as_posix(): (
            _OF_A_RUN.sub("*", path.read_text(encoding="utf-8")).replace(str(out), "")
            if path.suffix in _TEXT
            else path.stat().st_size > 500
        )
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


_TEXT = (".csv", ".html", ".json", ".svg", ".yaml", ".txt")
_OF_A_RUN = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(\+\d\d:\d\d|Z)?|[0-9a-f]{12,64}|[mp][0-9a-f]{10}"
)
"""Times, and what is drawn by lot; the last are matplotlib's."""


def files_in(out: Path) -> Any:
    """Names of all files of a run that are no note of a driver."""
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def leave_much_behind(run: Path, out: Path) -> None:
    """A run with arrays of attempts that died long ago, objects that wait for a dead driver, half-written files."""
    copy_run(run, out)
    store = RunStore.open(str(out / "run"))
    for number, slide_id in enumerate(("a-2030", "b-2050", "c-2080")):
        footer = store.footer(slide_id)
        assert footer is not None
        arrays = out / "run" / footer.arrays.path
        shutil.copytree(arrays, arrays.with_name(f"{number:016x}.zarr"))
        objects = out / "run" / store.committed_files()[slide_id]
        waiting = out / "run" / "pending" / slide_id / f"{number + 9:016x}.parquet"
        waiting.parent.mkdir(parents=True)
        shutil.copyfile(objects, waiting)
    spare = out / "run" / ".tmp" / f".spare.{7:016x}.fossilray-part"
    spare.parent.mkdir(exist_ok=True)
    spare.write_bytes(b"half")
    for path in out.rglob("*"):
        os.utime(path, (1.7e9, 1.7e9))
