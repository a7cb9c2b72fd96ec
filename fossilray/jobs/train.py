"""Training on Ray Train: the job behind `fossilray train backbone` and `train metric`."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from fossilray.core.config import StoreConfig
from fossilray.core.config.training import TrainConfig
from fossilray.core.errors import FossilrayError, StoreUnreachable, UsageError, WorkerError
from fossilray.jobs.scheduler import ray_cluster
from fossilray.store.files.base import is_remote, local_path
from fossilray.store.files.claims import hold_folder
from fossilray.store.files.open import open_files
from fossilray.training.checkpoint import load_checkpoint
from fossilray.training.data import open_training_crops, split_table
from fossilray.training.distributed import DistributedGroup
from fossilray.training.export import BACKBONE
from fossilray.training.local import TrainingResult, stop_when
from fossilray.training.loop import TrainingLoop, TrainingProgress
from fossilray.training.output_folder import TrainingFolder

FAILURES = 5
"""Workers that may die in one job; after each loss the others resume from the last checkpoint."""
_POLL_S = 0.5


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    address: str = "local",
    report: Callable[[TrainingProgress], None] = lambda _: None,
) -> TrainingResult:
    """Train a backbone on crops, on Ray; the same call resumes from the last checkpoint in the folder.

    Args:
        config: method, crops (`data.sources`) and schedule.
        out: folder for checkpoints, logs, the report and the finished backbone; a local path or an s3:// address.
        address: `local` starts a private Ray on this machine; else the address of a Ray cluster.
        report: called in this process with the progress of the training.

    Returns:
        The end of the training: `finished`, `step`, `loss`, the figures of the last `probe`, and `backbone`, the path
        of the finished weights.

    Raises:
        UsageError: the crops, or the checkpoint in the folder, do not fit the configuration.
        TrainingDiverged: the loss or the gradients are not finite any more.
        WorkerError, WeightsError, StoreError: the training cannot continue; its last checkpoint can be resumed.

    Example:
        >>> import fossilray
        >>> config = fossilray.TrainConfig(
        ...     method="simclr", arch="resnet18", data={"sources": ["census"]}, batch=8, steps=4
        ... )
        >>> result = fossilray.train(config, "backbone")
    """
    return run_training(config, str(out), address=address, report=report)


def run_training(
    config: TrainConfig,
    out: str,
    *,
    address: str = "local",
    min_workers: int | None = None,
    max_failures: int = FAILURES,
    report: Callable[[TrainingProgress], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> TrainingResult:
    """Train with `config.workers` workers into a folder; resume from its last checkpoint, if it has one.

    out: a local path, which every machine of the cluster must see, or s3://…. min_workers: the least number of workers
    to train with while the cluster has no resources for more. report: called in this process, not in a worker. stop:
    once it is set, the workers write a checkpoint and end.

    Raises:
        UsageError: the crops, the checkpoint in the folder, or the cluster do not fit the configuration; or another
            training is active in the folder.
        WorkerError: workers died more than `max_failures` times, or Ray could not start them.
        TrainingDiverged, WeightsError, StoreError: as TrainingLoop.run.
    """
    least = config.workers if min_workers is None else min_workers
    if not 1 <= least <= config.workers:
        raise UsageError(
            f"--min-workers {least} is out of range for workers={config.workers}; give 1 to {config.workers}"
        )
    if not is_remote(out):
        out = str(Path(local_path(out)).resolve())
    with hold_folder(open_files(out, _access(config)), "training"):
        return _run(config, out, least, address, max_failures, report, stop)


def _run(
    config: TrainConfig,
    out: str,
    least: int,
    address: str,
    max_failures: int,
    report: Callable[[TrainingProgress], None],
    stop: threading.Event | None,
) -> TrainingResult:
    _validate_before_start(config, out)
    # Only the second generation of Ray Train resizes; older Rays have it behind a switch. Its workers would change
    # the working directory, which relative paths refer to.
    os.environ.update(RAY_TRAIN_V2_ENABLED="1", RAY_CHDIR_TO_TRIAL_DIR="0", RAY_TRAIN_METRICS_ENABLED="0")
    with ray_cluster(address):
        resources = _resources_of_a_worker(config, least)
        board: Any = ray.remote(num_cpus=0)(_MessageBoard).remote()
        spec = _WorkerSpec(config, out, str(Path.cwd()), resources.threads, board)
        trainer = _make_trainer(spec, resources, least, max_failures)
        # In the main thread Ray Train would take over Ctrl-C.
        aside = ThreadPoolExecutor(1, thread_name_prefix="ray-train")
        fitting = aside.submit(trainer.fit)
        aside.shutdown(wait=False)
        is_stopping = False
        while not wait([fitting], timeout=_POLL_S).done:
            for progress in ray.get(board.take_progress.remote()):
                report(progress)
            if stop is not None and stop.is_set() and not is_stopping:
                ray.get(board.request_stop.remote())
                is_stopping = True
        for progress in ray.get(board.take_progress.remote()):
            report(progress)
        error, result = ray.get([board.error.remote(), board.result.remote()])
    with contextlib.suppress(FossilrayError):
        open_files(out, _access(config)).delete(spec.ray_folder)
    return _result_or_raise(error, result, fitting.exception(), out)


@dataclass(frozen=True)
class _WorkerSpec:
    """The settings of every worker."""

    config: TrainConfig
    out: str
    cwd: str
    threads: int
    board: Any
    ray_folder: str = field(default_factory=lambda: f".ray-{secrets.token_hex(8)}")
    """Subfolder for Ray Train, which needs storage that every worker sees; deleted at the end."""


@dataclass(frozen=True)
class _WorkerResources:
    """Resources of one worker."""

    cpus: int
    gpu: bool
    threads: int


class _MessageBoard:
    """An actor through which workers and driver exchange progress, errors and the result."""

    def __init__(self) -> None:
        self._progress: list[TrainingProgress] = []
        self._stopping = False
        self._error: FossilrayError | None = None
        self._result: TrainingResult | None = None

    def add_progress(self, progress: TrainingProgress) -> None:
        self._progress.append(progress)

    def take_progress(self) -> list[TrainingProgress]:
        taken, self._progress = self._progress, []
        return taken

    def request_stop(self) -> None:
        self._stopping = True

    def is_stopping(self) -> bool:
        return self._stopping

    def fail(self, error: FossilrayError) -> None:
        self._error = self._error or error

    def error(self) -> FossilrayError | None:
        return self._error

    def finish(self, result: TrainingResult) -> None:
        self._result = result

    def result(self) -> TrainingResult | None:
        return self._result


def _validate_before_start(config: TrainConfig, out: str) -> None:
    """Raise the errors that would end the workers at their start, before any is started."""
    split_table(open_training_crops(config.data), config)
    with TrainingFolder.open(out, config) as training_folder:
        name = training_folder.latest()
        if name is not None:
            load_checkpoint(training_folder.download_checkpoint(name), config)


def _resources_of_a_worker(config: TrainConfig, least: int) -> _WorkerResources:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if config.device == "cuda" and gpus < least:
        raise UsageError(
            f"device=cuda and the cluster has {gpus} GPUs for {least} workers; set device=auto or fewer workers, or "
            "join a cluster that has them with --address"
        )
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    fit = cpus_of_a_worker(cpus, config.workers) or cpus_of_a_worker(cpus, least)
    if fit == 0:
        raise UsageError(
            f"{least} workers do not fit: the cluster has {sum(cpus)} CPUs; set workers={max(sum(cpus), 1)}"
        )
    threads = config.torch_threads or fit
    return _WorkerResources(min(threads, fit), config.device != "cpu" and gpus >= least, threads)


def cpus_of_a_worker(node_cpus: Sequence[int], workers: int) -> int:
    """Largest number of CPUs that each of these workers can have on one machine; 0 if the workers do not fit."""
    return next(
        (
            cpus
            for cpus in range(max(node_cpus, default=0), 0, -1)
            if sum(available // cpus for available in node_cpus) >= workers
        ),
        0,
    )


def _make_trainer(spec: _WorkerSpec, resources: _WorkerResources, least: int, max_failures: int) -> Any:
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise UsageError(
            f"Ray Train is not installed whole ({error}); run `pip install 'fossilray[learn]'`, or train with --local"
        ) from None
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    workers = spec.config.workers
    # The type hint is of the first generation, which takes no pair.
    count: Any = workers if least == workers else (least, workers)
    return TorchTrainer(
        _work,
        train_loop_config={"spec": spec},
        scaling_config=ScalingConfig(
            num_workers=count,
            use_gpu=resources.gpu,
            resources_per_worker={"CPU": resources.cpus, **({"GPU": 1} if resources.gpu else {})},
        ),
        run_config=RunConfig(
            name="train",
            failure_config=FailureConfig(max_failures=max_failures),
            **_ray_storage(spec),
        ),
    )


def _ray_storage(spec: _WorkerSpec) -> dict[str, Any]:
    """Storage settings of Ray Train, below the training's folder: the default is the home folder."""
    files = open_files(spec.out, _access(spec.config))
    if not is_remote(files.url):
        return {"storage_path": f"{files.root}/{spec.ray_folder}"}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return {
        "storage_path": f"{files.root}/{spec.ray_folder}",
        "storage_filesystem": PyFileSystem(FSSpecHandler(files.filesystem)),
    }


def _access(config: TrainConfig) -> StoreConfig:
    return StoreConfig() if config.data.access is None else StoreConfig(**config.data.access.model_dump())


def _work(loop_config: Mapping[str, Any]) -> None:
    """Run one worker in its own process."""
    spec: _WorkerSpec = loop_config["spec"]
    if ray.get(spec.board.error.remote()) is not None:
        return  # Ray retries after any error; this one is permanent.
    try:
        _train(spec)
    except StoreUnreachable:
        raise
    except FossilrayError as error:
        ray.get(spec.board.fail.remote(error))
        raise


def _train(spec: _WorkerSpec) -> None:
    import torch
    from ray import train
    from ray.train.torch import get_device

    if Path(spec.cwd).is_dir():
        os.chdir(spec.cwd)
    torch.set_num_threads(spec.threads)
    rank, world = train.get_context().get_world_rank(), train.get_context().get_world_size()
    device = get_device() if spec.config.device != "cpu" else torch.device("cpu")
    with TrainingFolder.open(spec.out, spec.config) as training_folder:

        def report(progress: TrainingProgress) -> None:
            if rank == 0:
                if progress.checkpoint is not None:
                    training_folder.upload()
                spec.board.add_progress.remote(progress)

        loop = TrainingLoop(
            spec.config,
            open_training_crops(spec.config.data),
            rank=rank,
            world=world,
            device=device,
            folder=training_folder.folder,
            report=report,
        )
        name = _broadcast_from_rank_0(
            training_folder.latest() if rank == 0 else None, DistributedGroup(rank, world, device)
        )
        if rank == 0 and name is not None:
            training_folder.download_logs()
        with stop_when(lambda: bool(ray.get(spec.board.is_stopping.remote())), loop.request_stop):
            result = loop.run(None if name is None else training_folder.download_checkpoint(name))
        if rank == 0:
            training_folder.upload()
            backbone = None if result.backbone is None else f"{spec.out}/{BACKBONE}"
            ray.get(spec.board.finish.remote(TrainingResult.of(result, backbone)))


def _broadcast_from_rank_0(name: str | None, group: DistributedGroup) -> str | None:
    """Return rank 0's value on every worker: other machines may list the folder differently."""
    if group.world == 1:
        return name
    import torch

    values = [name]
    torch.distributed.broadcast_object_list(values, src=0, device=group.device)
    return values[0]


def _result_or_raise(
    error: FossilrayError | None,
    result: TrainingResult | None,
    ray_error: BaseException | None,
    out: str,
) -> TrainingResult:
    if error is not None:
        raise error
    if ray_error is not None or result is None:
        lines = [line.strip() for line in str(ray_error).splitlines() if line.strip()]
        reason = lines[-1] if lines else type(ray_error).__name__
        raise WorkerError(
            f"the training in {out} was interrupted: {reason[:300]}; the same command resumes from its last checkpoint"
        )
    return result
