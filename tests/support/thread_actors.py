"""Workers as threads of this process: the ActorSystem of scheduler tests that need no Ray."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, wait
from typing import Any

from fossilray.core.config import WorkersConfig
from fossilray.core.worker import Worker
from fossilray.jobs.scheduler.actors import ActorLoss, CallResult
from fossilray.jobs.scheduler.resources import ResourceRequest

NODES = ("node-a", "node-b")
Call = Future[CallResult]


class WorkerExit(BaseException):
    """Raised by a fake worker where a real one would end its process."""


class ThreadActors:
    """Runs each worker in a daemon thread; nodes are names, given to the workers in turn."""

    is_private = True

    def __init__(self, make_worker: Callable[[], Worker], workers: WorkersConfig, run: str) -> None:
        self._make_worker = make_worker
        self._started = 0
        self.draining: set[str] = set()

    def nodes(self) -> Sequence[Mapping[str, float]]:
        return [{"CPU": 4.0} for _ in NODES]

    def draining_nodes(self) -> frozenset[str]:
        return frozenset(self.draining)

    def start(self, request: ResourceRequest) -> _ThreadActor:
        self._started += 1
        return _ThreadActor(self._make_worker, NODES[self._started % len(NODES)])

    def call(self, actor: _ThreadActor, method: str, *arguments: Any) -> Call:
        return actor.state() if method == "state" else actor.submit(method, arguments)

    def wait(self, calls: Sequence[Call], *, count: int = 1, timeout_s: float = 0.0) -> list[Call]:
        ended, _ = wait(
            calls, timeout=timeout_s, return_when=FIRST_COMPLETED if count == 1 else ALL_COMPLETED
        )
        return list(ended)

    def result(self, call: Call) -> CallResult:
        return call.result(timeout=0)

    def kill(self, actor: _ThreadActor) -> None:
        actor.end(ActorLoss("WorkerDied", "killed"))


class _ThreadActor:
    """One worker; its calls run one after the other, but for `state`."""

    def __init__(self, make_worker: Callable[[], Worker], node: str) -> None:
        self._make_worker = make_worker
        self._node = node
        self._worker: Worker | None = None
        self._lock = threading.Lock()
        self._loss: ActorLoss | None = None
        self._open: set[Call] = set()
        self._calls: queue.Queue[tuple[Call, str, tuple[Any, ...]] | None] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, method: str, arguments: tuple[Any, ...]) -> Call:
        call: Call = Future()
        with self._lock:
            if self._loss is not None:
                call.set_result(CallResult(loss=self._loss))
                return call
            self._open.add(call)
        self._calls.put((call, method, arguments))
        return call

    def state(self) -> Call:
        call: Call = Future()
        call.set_result(CallResult(self._worker.state() if self._worker else None, loss=self._loss))
        return call

    def end(self, loss: ActorLoss) -> None:
        """End the calls that are open; a method that still runs is left to itself, and its result is dropped."""
        with self._lock:
            self._loss = self._loss or loss
            ended, self._open = self._open, set()
        for call in ended:
            call.set_result(CallResult(loss=self._loss))
        self._calls.put(None)

    def _run(self) -> None:
        while (task := self._calls.get()) is not None and self._loss is None:
            call, method, arguments = task
            try:
                result = CallResult(self._perform(method, arguments))
            except WorkerExit:
                self.end(ActorLoss("WorkerDied", "it ended its process"))
                return
            except Exception as error:  # noqa: BLE001  as Ray does, whatever it is
                result = CallResult(exception=error, traceback=traceback.format_exc())
            with self._lock:
                is_open = call in self._open
                self._open.discard(call)
            if is_open:
                call.set_result(result)

    def _perform(self, method: str, arguments: tuple[Any, ...]) -> Any:
        if method == "prepare":
            worker = self._make_worker()
            name = worker.prepare()
            self._worker = worker
            return name, self._node
        return getattr(self._worker, method)(*arguments)
