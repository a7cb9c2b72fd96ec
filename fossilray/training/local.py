"""A training in this process, without Ray: what a laptop does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fossilray.core.config.training import TrainConfig
from fossilray.core.errors import UsageError
from fossilray.store.files.claims import hold_place
from fossilray.store.files.local import LocalFiles
from fossilray.training.checkpoint import latest_checkpoint
from fossilray.training.data import open_sources
from fossilray.training.loop import LoopResult, TrainingLoop, TrainingProgress


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended, with one worker or many."""

    finished: bool
    """False where it was asked to stop; the same call goes on."""
    step: int
    loss: float
    probe: Mapping[str, float]
    backbone: str | None
    """The finished file."""

    @staticmethod
    def of(result: LoopResult, backbone: str | None) -> TrainingResult:
        """What the first worker came to; backbone: where its file lies in the end."""
        return TrainingResult(
            result.finished, result.position.step, result.loss, dict(result.probe), backbone
        )


def train_local(
    config: TrainConfig,
    folder: Path,
    *,
    report: Callable[[TrainingProgress], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> TrainingResult:
    """Train one worker's backbone in a folder, from its last checkpoint if it has one.

    stop: once set, the training writes a checkpoint and returns.

    Raises:
        UsageError: a GPU is demanded and absent, or another training is at work in the folder.
        Others as Loop and Loop.run.
    """
    import torch

    device = choose_device(config)
    if config.torch_threads is not None:
        torch.set_num_threads(config.torch_threads)
    loop = TrainingLoop(config, open_sources(config.data), device=device, folder=folder, report=report)
    with (
        hold_place(LocalFiles(folder, single_writer=True), "training"),
        stop_when((stop or threading.Event()).is_set, loop.ask_to_stop),
    ):
        result = loop.run(latest_checkpoint(folder / "checkpoints"))
    return TrainingResult.of(result, None if result.backbone is None else str(result.backbone))


@contextmanager
def stop_when(asked: Callable[[], bool], stop: Callable[[], None]) -> Iterator[None]:
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
