"""A training of a backbone on Ray Train, from end to end: what `fossilray train backbone` runs."""

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
from fossilray.store.files.claims import hold_place
from fossilray.store.files.open import open_files
from fossilray.training.checkpoint import load_checkpoint
from fossilray.training.data import open_sources, split_table
from fossilray.training.distributed import DistributedGroup
from fossilray.training.export import BACKBONE
from fossilray.training.local import TrainingResult, stop_when
from fossilray.training.loop import TrainingLoop, TrainingProgress
from fossilray.training.output_folder import TrainingFolder

FAILURES = 5
"""Workers that may die in one job, each time leaving the others to go on from the last checkpoint."""
_POLL_S = 0.5


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
    """Train with `config.workers` workers into a folder; from its last checkpoint, if it has one.

    out: a local path, which every machine of the cluster must see, or s3://…. min_workers: go on with so few while
    the cluster has no room for more. report is called here, not in a worker. stop: once set, the workers write a
    checkpoint and end.

    Raises:
        UsageError: the crops, the checkpoint there, or the cluster do not serve what is asked for; or another training
            is at work in the folder.
        WorkerError: workers died more than `max_failures` times, or Ray could not start them.
        TrainingDiverged, WeightsError, StoreError: as Loop.run.
    """
    least = config.workers if min_workers is None else min_workers
    if not 1 <= least <= config.workers:
        raise UsageError(
            f"at least {least} of {config.workers} workers cannot be; give 1 to {config.workers}"
        )
    if not is_remote(out):
        out = str(Path(local_path(out)).resolve())
    with hold_place(open_files(out, _access(config)), "training"):
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
    # The second generation of Ray Train alone resizes; older Rays have it behind a switch. Its workers would leave
    # the folder that relative paths are meant from.
    os.environ.update(RAY_TRAIN_V2_ENABLED="1", RAY_CHDIR_TO_TRIAL_DIR="0", RAY_TRAIN_METRICS_ENABLED="0")
    with ray_cluster(address):
        share = _share_of_a_worker(config, least)
        board: Any = ray.remote(num_cpus=0)(_MessageBoard).remote()
        order = _WorkerSpec(config, out, str(Path.cwd()), share.threads, board)
        trainer = _make_trainer(order, share, least, max_failures)
        # In the main thread Ray Train would take over Ctrl-C.
        aside = ThreadPoolExecutor(1, thread_name_prefix="ray-train")
        fitting = aside.submit(trainer.fit)
        aside.shutdown(wait=False)
        asked = False
        while not wait([fitting], timeout=_POLL_S).done:
            for progress in ray.get(board.take.remote()):
                report(progress)
            if stop is not None and stop.is_set() and not asked:
                ray.get(board.ask_to_stop.remote())
                asked = True
        for progress in ray.get(board.take.remote()):
            report(progress)
        fault, end = ray.get([board.fault.remote(), board.end.remote()])
    with contextlib.suppress(FossilrayError):
        open_files(out, _access(config)).delete(order.rays_folder)
    return _ended(fault, end, fitting.exception(), out)


@dataclass(frozen=True)
class _WorkerSpec:
    """What every worker is told."""

    config: TrainConfig
    out: str
    cwd: str
    threads: int
    board: Any
    rays_folder: str = field(default_factory=lambda: f".ray-{secrets.token_hex(8)}")
    """Below the training's own, for Ray Train wants a place that every worker sees; deleted in the end."""


@dataclass(frozen=True)
class _WorkerResources:
    """Of the cluster, for one worker."""

    cpus: int
    gpu: bool
    threads: int


class _MessageBoard:
    """Where workers and driver leave notes for each other: an actor beside the workers."""

    def __init__(self) -> None:
        self._news: list[TrainingProgress] = []
        self._stopping = False
        self._fault: FossilrayError | None = None
        self._end: TrainingResult | None = None

    def tell(self, progress: TrainingProgress) -> None:
        self._news.append(progress)

    def take(self) -> list[TrainingProgress]:
        news, self._news = self._news, []
        return news

    def ask_to_stop(self) -> None:
        self._stopping = True

    def is_stopping(self) -> bool:
        return self._stopping

    def fail(self, fault: FossilrayError) -> None:
        self._fault = self._fault or fault

    def fault(self) -> FossilrayError | None:
        return self._fault

    def finish(self, end: TrainingResult) -> None:
        self._end = end

    def end(self) -> TrainingResult | None:
        return self._end


def _validate_before_start(config: TrainConfig, out: str) -> None:
    """What would stop the workers at their start is told before there are any."""
    split_table(open_sources(config.data), config)
    with TrainingFolder.open(out, config) as place:
        name = place.latest()
        if name is not None:
            load_checkpoint(place.fetch(name), config)


def _share_of_a_worker(config: TrainConfig, least: int) -> _WorkerResources:
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
    """The most CPUs that every one of so many workers can have, none spread over machines; 0 if they do not fit."""
    return next(
        (
            share
            for share in range(max(node_cpus, default=0), 0, -1)
            if sum(cpus // share for cpus in node_cpus) >= workers
        ),
        0,
    )


def _make_trainer(order: _WorkerSpec, share: _WorkerResources, least: int, max_failures: int) -> Any:
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise UsageError(
            f"Ray Train is not installed whole ({error}); run `pip install 'fossilray[learn]'`, or train with --local"
        ) from None
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    workers = order.config.workers
    # Typed as in the first generation, which knows no pair.
    count: Any = workers if least == workers else (least, workers)
    return TorchTrainer(
        _work,
        train_loop_config={"order": order},
        scaling_config=ScalingConfig(
            num_workers=count,
            use_gpu=share.gpu,
            resources_per_worker={"CPU": share.cpus, **({"GPU": 1} if share.gpu else {})},
        ),
        run_config=RunConfig(
            name="train",
            failure_config=FailureConfig(max_failures=max_failures),
            **_rays_storage(order),
        ),
    )


def _rays_storage(order: _WorkerSpec) -> dict[str, Any]:
    """Ray Train's own storage, below the training's folder: by default it would be the home folder."""
    files = open_files(order.out, _access(order.config))
    if not is_remote(files.url):
        return {"storage_path": f"{files.root}/{order.rays_folder}"}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return {
        "storage_path": f"{files.root}/{order.rays_folder}",
        "storage_filesystem": PyFileSystem(FSSpecHandler(files.filesystem)),
    }


def _access(config: TrainConfig) -> StoreConfig:
    return StoreConfig() if config.data.access is None else StoreConfig(**config.data.access.model_dump())


def _work(told: Mapping[str, Any]) -> None:
    """One worker, in its own process."""
    order: _WorkerSpec = told["order"]
    if ray.get(order.board.fault.remote()) is not None:
        return  # Ray tries again whatever it was; what cannot get better ends here.
    try:
        _train(order)
    except StoreUnreachable:
        raise
    except FossilrayError as error:
        ray.get(order.board.fail.remote(error))
        raise


def _train(order: _WorkerSpec) -> None:
    import torch
    from ray import train
    from ray.train.torch import get_device

    if Path(order.cwd).is_dir():
        os.chdir(order.cwd)
    torch.set_num_threads(order.threads)
    rank, world = train.get_context().get_world_rank(), train.get_context().get_world_size()
    device = get_device() if order.config.device != "cpu" else torch.device("cpu")
    with TrainingFolder.open(order.out, order.config) as place:

        def report(progress: TrainingProgress) -> None:
            if rank == 0:
                if progress.checkpoint is not None:
                    place.bring()
                order.board.tell.remote(progress)

        loop = TrainingLoop(
            order.config,
            open_sources(order.config.data),
            rank=rank,
            world=world,
            device=device,
            folder=place.folder,
            report=report,
        )
        name = _broadcast_from_rank_0(
            place.latest() if rank == 0 else None, DistributedGroup(rank, world, device)
        )
        if rank == 0 and name is not None:
            place.fetch_course()
        with stop_when(lambda: bool(ray.get(order.board.is_stopping.remote())), loop.ask_to_stop):
            result = loop.run(None if name is None else place.fetch(name))
        if rank == 0:
            place.bring()
            backbone = None if result.backbone is None else f"{order.out}/{BACKBONE}"
            ray.get(order.board.finish.remote(TrainingResult.of(result, backbone)))


def _broadcast_from_rank_0(name: str | None, together: DistributedGroup) -> str | None:
    """The first worker's answer, to all: a folder may look different from another machine."""
    if together.world == 1:
        return name
    import torch

    said = [name]
    torch.distributed.broadcast_object_list(said, src=0, device=together.device)
    return said[0]


def _ended(
    fault: FossilrayError | None, end: TrainingResult | None, error: BaseException | None, out: str
) -> TrainingResult:
    if fault is not None:
        raise fault
    if error is not None or end is None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = lines[-1] if lines else type(error).__name__
        raise WorkerError(
            f"the training in {out} broke off: {told[:300]}; the same command goes on from its last checkpoint"
        )
    return end
