"""Commands that start a job, broken in turn: the job's driver and worker in one process, without Ray."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from support.fault_points import Scenario, cli
from support.small_backbone import write_backbone
from support.synthetic_crops import draw_folder

from fossilray.core.errors import FossilrayError
from fossilray.core.records import WorkItem
from fossilray.core.worker import Worker
from fossilray.jobs.progress import Tally
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import DerivedStore

TINY = ("arch_kwargs={channels: [8, 8, 16, 16]}", "input_px=32", "views.early_px=null")
FEW = ("steps=2", "log_every=1", "checkpoint_minutes=1e-9", "device=cpu", "precision=float32")


def prepare_jobs(inputs: Path) -> None:
    """A run with vectors, an index over it, a backbone, heads, drawn crops."""
    from support.indexed_runs import a_vector_run, index_runs, kinds_of_vectors

    slides = {f"s-{number}": kinds_of_vectors(300, seed=number) for number in range(4)}
    # No two crops alike, or they would be held for one.
    rng = np.random.default_rng(5)
    pixels = {name: rng.integers(0, 256, (300, 32, 32, 3), dtype=np.uint8) for name in slides}
    a_vector_run(inputs / "vectors", slides, pixels=pixels)
    index_runs([str(inputs / "vectors")], inputs / "index")
    draw_folder(inputs / "shapes", each=6)
    write_backbone(inputs / "net.safetensors")
    known = "".join(f"s-0,{number},{('Alnus', 'Betula')[number % 2]}\n" for number in range(160))
    (inputs / "known.csv").write_text("slide_id,object_id,genus\n" + known)
    for words in (
        ("--labels", inputs / "known.csv", "--run", inputs / "vectors", "--backbone", "run", "--kind", "knn"),
        ("--labels", inputs / "shapes", "--backbone", inputs / "net.safetensors"),
    ):
        name = "known" if "--run" in words else "shapes"
        with contextlib.suppress(SystemExit):
            cli("classify", "train", *words, "--out", inputs / f"{name}.safetensors")


def jobs(inputs: Path) -> dict[str, Scenario]:
    """By the names of their commands."""
    training = [word for one in (*TINY, *FEW) for word in ("--train-set", one)]
    shapes, local = inputs / "shapes", ("--arch", "resnet18", "--init", "scratch", "--local")
    return {
        "index build": Scenario(
            lambda out: without_ray(
                *("index", "build", inputs / "vectors", "--to", out / "index"),
                *("--quantizer", "pca64-8bit", "--lists", 8, "--shard-objects", 700),
            ),
            outcome=index_in,
        ),
        "embed": Scenario(
            lambda out: without_ray("embed", out / "run", "--backbone", inputs / "net.safetensors"),
            begin=lambda out: copy_run(inputs / "run", out),
            outcome=lambda out: derived_in(out, "embeddings", "net"),
        ),
        "classify run": Scenario(
            lambda out: without_ray("classify", "run", out / "run", "--head", inputs / "known.safetensors"),
            begin=lambda out: copy_run(inputs / "vectors", out),
            outcome=lambda out: derived_in(out, "predictions", "known"),
        ),
        "train backbone": Scenario(
            lambda out: cli(
                *("train", "backbone", out / "training", "--source", shapes, "--method", "supcon", *local),
                *("--train-set", "supcon={classes_per_batch: 4, crops_per_class: 2}", *training),
            ),
            outcome=training_in,
        ),
        "train metric": Scenario(
            lambda out: cli("train", "metric", out / "training", "--source", shapes, *local, *training),
            outcome=training_in,
        ),
    }


def without_ray(*words: object) -> None:
    """Run the command with its items processed in this process, one after the other."""
    with items_processed_here():
        cli(*words)


@contextlib.contextmanager
def items_processed_here() -> Iterator[None]:
    """Jobs within a `with` block process their items in this process, one after the other, without Ray."""
    import fossilray.jobs.run_items

    with (
        patch.object(fossilray.jobs.run_items, "run_items", _run_here),
        patch.object(fossilray.jobs.run_items, "ray_cluster", _no_cluster),
    ):
        yield


def _run_here(
    items: Sequence[WorkItem], make_worker: Callable[[], Worker], *, tally: Tally, **_: Any
) -> None:
    worker = make_worker()
    worker.prepare()
    for item in items:
        outcome = worker.process(item)
        if outcome.failure is not None:
            raise FossilrayError(outcome.failure.message)
        tally.committed += 1
        tally.objects += outcome.derived_rows or 0


@contextlib.contextmanager
def _no_cluster(_: str) -> Iterator[None]:
    yield


def index_in(out: Path) -> Any:
    from support.indexed_runs import kinds_of_vectors

    from fossilray.analysis.search.search import SearchIndex

    found = SearchIndex.open(str(out / "index"))
    hits = found.search(kinds_of_vectors(5, seed=99).astype(np.float32), count=5, probes=8)
    data = sorted(path.name for path in (out / "index" / "data").glob("*/*"))
    shards = {"shards": len(found.shards), "data": data}
    return {"slides": sorted(map(str, found.slides)), "hits": str(hits), **shards}


def derived_in(out: Path, kind: str, name: str) -> Any:
    answers = DerivedStore.open(RunStore.open(str(out / "run")), kind, name)  # type: ignore[arg-type]
    return {slide_id: answers.read(slide_id).to_pydict() for slide_id in sorted(answers.committed())}


def training_in(out: Path) -> Any:
    """Its files by name, of checkpoints the last (one that goes on has fewer), and the course of its loss."""
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    checkpoints = [one for one in files if one.endswith(".pt")]
    files = [one for one in files if one not in checkpoints[:-1] and "/tensorboard/" not in one]
    course = (out / "training" / "metrics.csv").read_text().splitlines()
    wanted = [number for number, name in enumerate(course[0].split(",")) if name in ("step", "loss")]
    rows = [[f"{float(line.split(',')[number]):.4g}" for number in wanted] for line in course[1:]]
    return {"files": files, "course": rows}


def copy_run(run: Path, out: Path) -> None:
    shutil.copytree(run, out / "run")
