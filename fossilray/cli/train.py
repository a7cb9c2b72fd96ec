"""Commands that choose crops to train on, and train backbones on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.options import (
    ClusterOption,
    ConfigOption,
    RunsArgument,
    SetOption,
    TrainConfigOption,
    TrainSetOption,
    WorkersOption,
    outside_runs,
    settings,
)
from fossilray.cli.output import out, print_line, progress_bar
from fossilray.cli.running import stop_on_sigterm
from fossilray.core.config.choices import MetricLossName, TrainingMethodName
from fossilray.core.errors import UsageError
from fossilray.store.files.base import is_remote, local_path

if TYPE_CHECKING:
    from rich.console import Console

    from fossilray.core.config.training import TrainConfig
    from fossilray.training.local import TrainingResult
    from fossilray.training.loop import TrainingProgress


_PROBED = ("nearest_f1", "precision_at_nk", "knn_accuracy", "embedding_std", "effective_rank")

FolderArgument = Annotated[
    str,
    typer.Argument(
        metavar="OUT", help="Folder of the training, local or s3://…; a training found there is resumed."
    ),
]
InitOption = Annotated[
    str | None,
    typer.Option("--init", help="Initial weights: scratch, bundled, timm:NAME or file:PATH (init)."),
]
ArchOption = Annotated[
    str | None, typer.Option("--arch", help="Architecture of the network, by its name in timm (arch).")
]
_SOURCES = typer.Option(
    "--source",
    help="Training data: a run, dataset or folder of <class>/<image>; may be repeated (data.sources).",
)
MinWorkersOption = Annotated[
    int | None,
    typer.Option(
        "--min-workers",
        help="Minimum number of workers to continue with while the cluster lacks room for more; default: all.",
    ),
]
LocalOption = Annotated[
    bool, typer.Option("--local", help="Train with one worker in this process, without Ray.")
]


def curate(
    runs: RunsArgument,
    out_file: Annotated[
        str,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="Output file (.parquet), local or s3://…; a page of the same name (.html) is written beside it.",
        ),
    ] = "curation.parquet",
    rules: Annotated[
        Path | None, typer.Option("--rules", help="YAML file of thresholds and numbers of clusters.")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            "--rule", help="Override one field of --rules, e.g. black_opacity=0.5; may be repeated."
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Choose crops to train on: cluster them by embedding, drop black, empty, blurry and crowded ones, balance."""
    from fossilray.core.config import load_curation_config
    from fossilray.core.folder_kinds import refuse_inside
    from fossilray.store import open_run
    from fossilray.store.query.slide_objects import slides_with_objects
    from fossilray.training.curation.curate import curate_runs

    chosen = load_curation_config(rules, rule or [])
    access = settings(config, set_).store
    stores = [open_run(run, access) for run in runs]
    refuse_inside(out_file, [store.files.url for store in stores])
    with progress_bar("curating", sum(len(slides_with_objects(store)) for store in stores)) as advance:
        record = curate_runs(stores, out_file, chosen, access=access, on_slide=advance)
    kept = sum(cluster.reason is None for cluster in record.clusters)
    print_line(
        f"{record.kept:,} of {record.objects:,} objects kept, {kept} of {len(record.clusters)} clusters -> {out_file}, "
        f"{out_file.removesuffix('.parquet')}.html"
    )


def train_backbone(
    folder: FolderArgument,
    source: Annotated[list[str] | None, _SOURCES] = None,
    method: Annotated[
        TrainingMethodName | None,
        typer.Option(help="Training method; supcon, metric and transfer need labels (method)."),
    ] = None,
    arch: ArchOption = None,
    init: InitOption = None,
    train_config: TrainConfigOption = None,
    train_set: TrainSetOption = None,
    workers: WorkersOption = None,
    min_workers: MinWorkersOption = None,
    address: ClusterOption = "local",
    local: LocalOption = False,
) -> None:
    """Train a backbone on crops with Ray Train; the same command resumes."""
    fields = {"method": method, "arch": arch, "init": _weights(init), "workers": workers}
    extra = [f"{name}={value}" for name, value in fields.items() if value is not None]
    if source:
        extra.append(f"data.sources={list(source)!r}")
    _train(
        folder,
        train_config,
        [*(train_set or []), *extra],
        address=address,
        min_workers=min_workers,
        local=local,
    )


def train_metric(
    folder: FolderArgument,
    source: Annotated[list[str], _SOURCES],
    loss: Annotated[
        MetricLossName | None, typer.Option(help="Loss of the metric space (metric.loss).")
    ] = None,
    arch: ArchOption = None,
    init: InitOption = None,
    train_config: TrainConfigOption = None,
    train_set: TrainSetOption = None,
    workers: WorkersOption = None,
    min_workers: MinWorkersOption = None,
    address: ClusterOption = "local",
    local: LocalOption = False,
) -> None:
    """Train a backbone by deep metric learning on labels; `evaluate metric-learning` evaluates it."""
    for path in source:
        if not is_remote(path) and not Path(local_path(path)).is_dir():
            state = "is a file" if Path(local_path(path)).is_file() else "does not exist"
            raise UsageError(f"{path} {state}; give --source a folder of <class>/<image>")
    fields = {"metric.loss": loss, "arch": arch, "init": _weights(init), "workers": workers}
    extra = [f"{name}={value}" for name, value in fields.items() if value is not None]
    assignments = [*(train_set or []), "method=metric", f"data.sources={list(source)!r}", *extra]
    _train(folder, train_config, assignments, address=address, min_workers=min_workers, local=local)


def _weights(init: str | None) -> str | None:
    if init != "bundled":
        return init
    from fossilray.models.weights_file import bundled_weights

    return f"file:{bundled_weights('backbone')}"


def _train(
    folder: str,
    config: Path | None,
    assignments: list[str],
    *,
    address: str,
    min_workers: int | None,
    local: bool,
) -> None:
    from fossilray.core.config import load_train_config

    chosen = load_train_config(config, assignments)
    stop = stop_on_sigterm()
    with training_progress(out) as report:
        if local:
            result = _train_here(chosen, folder, report=report, stop=stop)
        else:
            from fossilray.jobs.train import run_training

            result = run_training(
                chosen, folder, address=address, min_workers=min_workers, report=report, stop=stop
            )
    if not result.finished:
        print_line(f"stopped after {result.step} steps; run the same command again to resume")
        raise typer.Exit(3)
    print_line(f"{result.step} steps, loss {result.loss:.3f} -> {result.backbone}")


def _train_here(
    config: TrainConfig, folder: str, *, report: Callable[[TrainingProgress], None], stop: threading.Event
) -> TrainingResult:
    from fossilray.training.local import train_local

    if is_remote(folder):
        raise UsageError(f"--local writes to a local disk, and {folder} is an address; leave --local out")
    if config.workers > 1:
        raise UsageError(f"--local is one worker, and workers is {config.workers}; leave one of them out")
    return train_local(config, Path(local_path(folder)), report=report, stop=stop)


@contextmanager
def training_progress(console: Console) -> Iterator[Callable[[TrainingProgress], None]]:
    """Show a progress bar until the block ends; the value is the `report` that a training loop takes."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("first step", total=1.0)

        def show(progress: TrainingProgress) -> None:
            metrics = progress.metrics
            if "loss" in metrics:
                speed = f", {metrics['images_s']:.0f} crops/s" if "images_s" in metrics else ""
                line = f"step {progress.step}, epoch {progress.epoch}: loss {metrics['loss']:.3f}{speed}"
                bar.update(task, completed=progress.share, description=line)
            elif metrics:
                bar.console.print(
                    f"step {progress.step} ({progress.share:.0%}): {_figures(metrics)}", highlight=False
                )

        yield show


def _figures(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {metrics[name]:.3f}" for name in _PROBED if name in metrics)
