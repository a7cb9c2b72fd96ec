"""A training in this process, without Ray: what a laptop does."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from fossilray.config import load_train_config
from fossilray.config.training import TrainConfig
from fossilray.errors import UsageError
from fossilray.learn.loop import Loop, Result, TrainingProgress
from fossilray.learn.training_checkpoint import latest_checkpoint
from fossilray.learn.training_data import open_sources
from fossilray.learn.training_screen import show_training


def train_local(
    config: TrainConfig,
    folder: Path,
    *,
    report: Callable[[TrainingProgress], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Result:
    """Train one worker's backbone in a folder, from its last checkpoint if it has one.

    stop: once set, the training writes a checkpoint and returns.

    Raises:
        UsageError: a GPU is demanded and absent; and as Loop and Loop.run.
    """
    import torch

    device = choose_device(config)
    if config.torch_threads is not None:
        torch.set_num_threads(config.torch_threads)
    loop = Loop(config, open_sources(config.data), device=device, folder=folder, report=report)
    with stopping_when((stop or threading.Event()).is_set, loop.ask_to_stop):
        return loop.run(latest_checkpoint(folder / "checkpoints"))


@contextmanager
def stopping_when(asked: Callable[[], bool], stop: Callable[[], None]) -> Iterator[None]:
    """While the block lasts, look every half second whether it is asked to end, and call `stop` once if so."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if asked():
                stop()
                return
            over.wait(0.5)

    watcher = threading.Thread(target=watch, name="stopping-when", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def choose_device(config: TrainConfig) -> str:
    """cuda or cpu, as asked for.

    Raises:
        UsageError: a GPU is demanded and there is none.
    """
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "device=cuda and PyTorch sees no GPU here; set device=auto, or start where there is one"
        )
    return "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"


def main() -> None:
    """python -m fossilray.learn.train_local FOLDER [--config FILE] [--set field=value]…"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="where the training writes; it goes on from what it finds there"
    )
    parser.add_argument("--config", type=Path, help="YAML file of the training's fields")
    parser.add_argument("--set", action="append", default=[], dest="assignments", help="field=value")
    asked = parser.parse_args()
    console = Console()
    with show_training(console) as report:
        result = train_local(load_train_config(asked.config, asked.assignments), asked.folder, report=report)
    figures = ", ".join(f"{name} {value:.3f}" for name, value in result.probe.items())
    console.print(f"{result.backbone}: {result.position.step} steps, loss {result.loss:.3f}, {figures}")


if __name__ == "__main__":
    main()
