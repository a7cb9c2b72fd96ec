"""The command that chooses which crops of runs to learn from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from fossilray.cli.options import (
    ClusterOption,
    ConfigOption,
    SetOption,
    err,
    out,
    outside_runs,
    settings,
    stop_on_sigterm,
)
from fossilray.core.config.choices import MetricLoss, TrainingMethod
from fossilray.core.errors import UsageError
from fossilray.store.files.base import is_remote, local_path

if TYPE_CHECKING:
    from rich.console import Console

    from fossilray.training.loop import TrainingProgress
if TYPE_CHECKING:
    from fossilray.core.config.training import TrainConfig
    from fossilray.training.local import TrainingResult
    from fossilray.training.loop import TrainingProgress


def curate(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Run directories or compacted datasets, local or s3://…, with embeddings."
        ),
    ],
    out_file: Annotated[
        str,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="Table to write, local or s3://…; the page is named alike, .html.",
        ),
    ] = "curation.parquet",
    rules: Annotated[
        Path | None, typer.Option("--rules", help="YAML file of thresholds and numbers of clusters.")
    ] = None,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="One of them, e.g. black_opacity=0.5; may be repeated.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Sort crops into clusters of look-alikes, leave out black, empty, blurry and crowded ones, balance the rest."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from fossilray.core.config import load_curation_config
    from fossilray.core.kept_places import refuse_inside
    from fossilray.store import open_run
    from fossilray.store.query.slide_objects import slides_with_objects
    from fossilray.training.curation.curate import curate as curate_runs

    chosen = load_curation_config(rules, rule or [])
    access = settings(config, set_).store
    stores = [open_run(run, access) for run in runs]
    refuse_inside(out_file, [store.files.url for store in stores])
    columns = (TextColumn("curating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=sum(len(slides_with_objects(store)) for store in stores))
        record = curate_runs(stores, out_file, chosen, access=access, on_slide=lambda: progress.advance(task))
    kept = sum(one.reason is None for one in record.clusters)
    out.print(
        f"{record.kept:,} of {record.objects:,} objects kept, {kept} of {len(record.clusters)} clusters -> {out_file}, "
        f"{out_file.removesuffix('.parquet')}.html",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def train_backbone(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            help="Folder of the training, a local path or s3://…; it goes on from what is there.",
        ),
    ],
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Run, compacted dataset or folder of <class>/<image>; may be repeated (data.sources)."
        ),
    ] = None,
    method: Annotated[
        TrainingMethod | None, typer.Option(help="How it learns; supcon, metric and transfer need labels.")
    ] = None,
    arch: Annotated[str | None, typer.Option(help="timm's name of the network.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Weights to start from: scratch, timm:<name> or file:<path>.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of a training's fields.")] = None,
    set_: SetOption = None,
    workers: Annotated[int | None, typer.Option(help="Workers that train together.")] = None,
    min_workers: Annotated[
        int | None,
        typer.Option(help="Go on with so few while the cluster has no room for more; default: all of them."),
    ] = None,
    address: ClusterOption = "local",
    local: Annotated[
        bool, typer.Option("--local", help="One worker in this process, without Ray: for a laptop.")
    ] = False,
) -> None:
    """Train a backbone on crops, with Ray Train; the same command goes on where a training stopped."""
    given = {"method": method, "arch": arch, "init": init, "workers": workers}
    extra = [f"{name}={value}" for name, value in given.items() if value is not None]
    if source:
        extra.append(f"data.sources={list(source)!r}")
    _train(folder, config, [*(set_ or []), *extra], address=address, min_workers=min_workers, local=local)


def train_metric(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            help="Folder of the training, a local path or s3://…; it goes on from what is there.",
        ),
    ],
    labels: Annotated[
        list[str],
        typer.Option(
            "--labels", help="Folder of <class>/<image>, or a run or dataset with labels; may be repeated."
        ),
    ],
    loss: Annotated[MetricLoss | None, typer.Option(help="What brings crops of a class together.")] = None,
    arch: Annotated[str | None, typer.Option(help="timm's name of the network.")] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Weights to start from: scratch, bundled, timm:<name> or file:<path>."),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of a training's fields.")] = None,
    set_: SetOption = None,
    workers: Annotated[int | None, typer.Option(help="Workers that train together.")] = None,
    address: ClusterOption = "local",
    local: Annotated[
        bool, typer.Option("--local", help="One worker in this process, without Ray: for a laptop.")
    ] = False,
) -> None:
    """Train a backbone by deep metric learning on labels; `evaluate --protocol karaderi2021 …` judges it."""
    if init == "bundled":
        from fossilray.models.weights_file import bundled_weights

        init = f"file:{bundled_weights('backbone')}"
    for place in labels:
        if not is_remote(place) and not Path(local_path(place)).is_dir():
            found = "is a file" if Path(local_path(place)).is_file() else "does not exist"
            raise UsageError(f"{place} {found}; give --labels a folder of <class>/<image>")
    given = {"metric.loss": loss, "arch": arch, "init": init, "workers": workers}
    extra = [f"{name}={value}" for name, value in given.items() if value is not None]
    chosen = [*(set_ or []), "method=metric", f"data.sources={list(labels)!r}", *extra]
    _train(folder, config, chosen, address=address, min_workers=None, local=local)


def _train(
    folder: str,
    config: Path | None,
    assignments: list[str],
    *,
    address: str,
    min_workers: int | None,
    local: bool,
) -> None:
    pass
    from fossilray.core.config import load_train_config

    chosen = load_train_config(config, assignments)
    stop = stop_on_sigterm()
    with training_progress(out) as report:
        if local:
            end = _train_here(chosen, folder, report=report, stop=stop)
        else:
            from fossilray.jobs.train import run_training

            end = run_training(
                chosen, folder, address=address, min_workers=min_workers, report=report, stop=stop
            )
    if not end.finished:
        out.print(f"stopped after {end.step} steps; the same command goes on from here", highlight=False)
        raise typer.Exit(3)
    told = f"{end.step} steps, loss {end.loss:.3f} -> {end.backbone}"
    out.print(told, markup=False, highlight=False, soft_wrap=True)


def _train_here(
    config: TrainConfig, folder: str, *, report: Callable[[TrainingProgress], None], stop: threading.Event
) -> TrainingResult:
    from fossilray.training.local import train_local

    if is_remote(folder):
        raise UsageError(f"--local writes to a disk, and {folder} is none; leave --local out")
    if config.workers > 1:
        raise UsageError(f"--local is one worker, and workers is {config.workers}; leave one of them out")
    return train_local(config, Path(local_path(folder)), report=report, stop=stop)


_PROBED = ("nearest_f1", "precision_at_nk", "knn_accuracy", "embedding_std", "effective_rank")


@contextmanager
def training_progress(console: Console) -> Iterator[Callable[[TrainingProgress], None]]:
    """What to give a Loop as `report`; the bar goes when the block ends."""
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("first step", total=1.0)

        def show(progress: TrainingProgress) -> None:
            told = progress.metrics
            if "loss" in told:
                speed = f", {told['images_s']:.0f} crops/s" if "images_s" in told else ""
                line = f"step {progress.step}, epoch {progress.epoch}: loss {told['loss']:.3f}{speed}"
                bar.update(task, completed=progress.share, description=line)
            elif told:
                bar.console.print(
                    f"step {progress.step} ({progress.share:.0%}): {_figures(told)}", highlight=False
                )

        yield show


def _figures(told: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {told[name]:.3f}" for name in _PROBED if name in told)
