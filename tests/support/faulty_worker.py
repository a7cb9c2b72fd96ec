"""The real worker without networks, and one with faults planted in it: it dies, hangs or swells on chosen slides."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import RunConfig
from fossilray.core.parallel import MonitoredThreadPool
from fossilray.core.records import Outcome, WorkItem
from fossilray.core.worker import WorkerStatus
from fossilray.models.backbones.load import describe_embedder
from fossilray.processing.detection.detect import NetworkThreads
from fossilray.processing.slide_attempt import LoadedModels
from fossilray.processing.worker import SlideWorker

Stage = Literal[
    "reading", "detecting", "embedding", "writing arrays", "before the commit", "after the commit"
]
Act = Literal["kill", "segfault", "hang", "swell", "fill"]


@dataclass(frozen=True)
class Fault:
    """What happens to a slide (slide_id), where, and in how many of its attempts."""

    slide_id: str
    stage: Stage
    act: Act = "kill"
    times: int = 1
    ballast: str = ""
    """A file to fill its disk with."""


class SlightWorker(SlideWorker):
    """The real worker without PyTorch, whose import takes longer than a small slide: colours are its embeddings."""

    def prepare(self) -> str:
        from fossilray.models.detectors.load import load_detector

        self._networks = MonitoredThreadPool(1, "network")
        self._models = LoadedModels(
            detector=load_detector(self._config.detector, device="cpu"),
            embedder=_ColourEmbedder(describe_embedder(self._config.embedder)),
            device="cpu/float32",
            threads=NetworkThreads(self._networks, 1),
        )
        return f"{socket.gethostname()}/{os.getpid()}/cpu"


class _ColourEmbedder:
    """Repeats the mean colour of each crop, in the dimension of the configured backbone."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.name = str(description["name"])
        self.dimension = int(description["dimension"])

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float16]:
        colours = crops.mean(axis=(1, 2), dtype=np.float64) / 255
        return np.resize(colours.T, (self.dimension, len(crops))).T.astype(np.float16)


class FaultyWorker(SlightWorker):
    """Does real work until it comes to a fault of the slide in hand; `marks` counts over all processes."""

    def __init__(self, store_url: str, config: RunConfig, *, faults: Sequence[Fault], marks: Path) -> None:
        super().__init__(store_url, config)
        self._faults = {fault.slide_id: fault for fault in faults}
        self._marks = marks
        self._slide_id = ""

    def prepare(self) -> str:
        name = super().prepare()
        detector, embedder = self._models.detector, self._models.embedder
        self._models = replace(
            self._models,
            detector=_Tripwire(detector, "detect", lambda: self._reach("detecting")),
            embedder=_Tripwire(embedder, "embed", lambda: self._reach("embedding")),
        )
        write = self._store.files.write

        def write_then_trip(path: str, content: bytes) -> None:
            write(path, content)
            if path.startswith("arrays/"):
                self._reach("writing arrays")

        self._store.files.write = write_then_trip  # type: ignore[method-assign]
        return name

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        self._slide_id = item.key
        outcome = super().process(item, upcoming)
        self._reach("after the commit")
        return outcome

    def _publish_status(self, status: WorkerStatus) -> None:
        super()._publish_status(status)
        if status.stage == "open":
            self._reach("reading")
        if status.stage == "commit":
            self._reach("before the commit")

    def _reach(self, stage: Stage) -> None:
        fault = self._faults.get(self._slide_id)
        if fault is None or fault.stage != stage:
            return
        for turn in range(fault.times):
            try:
                (self._marks / f"{fault.slide_id}.{turn}").touch(exist_ok=False)
            except FileExistsError:
                continue
            _act(fault)
            return


class _Tripwire:
    """A detector or embedder that reports each call before it is made."""

    def __init__(self, real: Any, method: str, trip: Any) -> None:
        self._real, self._method, self._trip = real, method, trip

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            self._trip()
        return getattr(self._real, name)


def _act(fault: Fault) -> None:
    act = fault.act
    if act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "segfault":
        ctypes.string_at(0)
    elif act == "hang":
        # As a C library does that waits for a disk for ever: no Python runs, though the lock is free.
        ctypes.CDLL(None).sleep(3600)
    elif act == "fill":
        with contextlib.suppress(OSError), Path(fault.ballast).open("wb", buffering=0) as ballast:
            while True:
                ballast.write(b"\1" * 4096)
    else:
        # In one system call: a slow machine takes seconds to touch the pages one by one, and looks stalled.
        populated = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        with mmap.mmap(-1, 1500 * 2**20, flags=populated):
            ctypes.CDLL(None).sleep(3600)
