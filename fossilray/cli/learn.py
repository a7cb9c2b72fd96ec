"""Commands that train networks."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fossilray.cli.shared import ClusterOption, SetOption, out, stop_on_sigterm
from fossilray.errors import UsageError

if TYPE_CHECKING:
    from fossilray.config.training import TrainConfig

Method = Literal["supcon", "simclr", "dino", "byol", "simsiam"]


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
        Method | None, typer.Option(help="How it learns; supcon needs labels, the others none.")
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
    from fossilray.config import load_train_config
    from fossilray.learn.training_screen import show_training

    given = {"method": method, "arch": arch, "init": init, "workers": workers}
    extra = [f"{name}={value}" for name, value in given.items() if value is not None]
    if source:
        extra.append(f"data.sources={list(source)!r}")
    chosen = load_train_config(config, [*(set_ or []), *extra])
    stop = stop_on_sigterm()
    with show_training(out) as report:
        if local:
            finished, step, loss, backbone = _train_here(chosen, folder, report=report, stop=stop)
        else:
            from fossilray.train_job import run_training

            end = run_training(
                chosen, folder, address=address, min_workers=min_workers, report=report, stop=stop
            )
            finished, step, loss, backbone = end.finished, end.step, end.loss, end.backbone
    told = f"{step} steps, loss {loss:.3f} -> {backbone}" if finished else f"stopped after {step} steps"
    out.print(told, markup=False, highlight=False, soft_wrap=True)
    if not finished:
        out.print("stopped before the end; the same command goes on from here", highlight=False)
        raise typer.Exit(3)


def _train_here(
    config: TrainConfig, folder: str, *, report: Any, stop: threading.Event
) -> tuple[bool, int, float, str | None]:
    from fossilray.learn.train_local import train_local

    if "://" in folder:
        raise UsageError(f"--local writes to a disk, and {folder} is none; leave --local out")
    if config.workers > 1:
        raise UsageError(f"--local is one worker, and workers is {config.workers}; leave one of them out")
    result = train_local(config, Path(folder), report=report, stop=stop)
    backbone = None if result.backbone is None else str(result.backbone)
    return result.finished, result.position.step, result.loss, backbone
