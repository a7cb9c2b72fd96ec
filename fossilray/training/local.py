"""Training in this process, without Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fossilray.core.config.training import TrainConfig
from fossilray.core.errors import UsageError
from fossilray.store.files.claims import hold_folder
from fossilray.store.files.local import LocalFiles
from fossilray.training.checkpoint import latest_checkpoint
from fossilray.training.data import open_training_crops
from fossilray.training.loop import LoopResult, TrainingLoop, TrainingProgress


@dataclass(frozen=True)
class TrainingResult:
    """The end of a training, with one worker or several."""

    finished: bool
    """False if it was stopped; the same call resumes it."""
    step: int
    loss: float
    probe: Mapping[str, float]
    backbone: str | None
    """Path or URL of the finished file."""

    @staticmethod
    def of(result: LoopResult, backbone: str | None) -> TrainingResult:
        """Return the result of the first worker; backbone: final path or URL of its file."""
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
    """Train a backbone with one worker, from the folder's latest checkpoint if there is one.

    Args:
        config: Configuration of the training.
        folder: Output folder.
        report: Called after every logged step, probe and checkpoint.
        stop: Once set, the training writes a checkpoint and returns.

    Raises:
        UsageError: `device=cuda` and there is no GPU, or another training is running in the folder.
        FossilrayError: As `TrainingLoop` and `TrainingLoop.run`.
    """
    import torch

    device = choose_device(config)
    if config.torch_threads is not None:
        torch.set_num_threads(config.torch_threads)
    loop = TrainingLoop(config, open_training_crops(config.data), device=device, folder=folder, report=report)
    with (
        hold_folder(LocalFiles(folder, single_writer=True), "training"),
        stop_when((stop or threading.Event()).is_set, loop.request_stop),
    ):
        result = loop.run(latest_checkpoint(folder / "checkpoints"))
    return TrainingResult.of(result, None if result.backbone is None else str(result.backbone))


@contextmanager
def stop_when(is_requested: Callable[[], bool], stop: Callable[[], None]) -> Iterator[None]:
    """Within the block, poll `is_requested` every half second and call `stop` once when it returns true."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            if is_requested():
                stop()
                return
            ended.wait(0.5)

    watcher = threading.Thread(target=watch, name="stop-when", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def choose_device(config: TrainConfig) -> str:
    """Return "cuda" or "cpu" by the configuration and the machine.

    Raises:
        UsageError: `device=cuda` and there is no GPU.
    """
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device=cuda and PyTorch finds no GPU; set device=auto, or use a machine with a GPU")
    return "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
