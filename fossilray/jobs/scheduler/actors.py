"""The protocol between the worker pool and whatever runs the workers: start, call, wait, kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from fossilray.core.config import WorkersConfig
from fossilray.core.worker import Worker
from fossilray.jobs.scheduler.resources import ResourceRequest

ActorHandle: TypeAlias = Any
"""A running worker, opaque to the scheduler; hashable."""
CallHandle: TypeAlias = Any
"""A call of a worker's method that may not have ended; hashable."""


@dataclass(frozen=True)
class ActorLoss:
    """A worker that ended before its call did."""

    error: str
    """WorkerDied or NodeDied; a key of LOSS_WEIGHTS of the journal."""
    reason: str
    is_unreachable: bool = False
    """The worker may still run where the driver does not reach it."""


@dataclass(frozen=True)
class CallResult:
    """The end of a call: a value, an exception of the method, or the loss of the worker."""

    value: Any = None
    exception: BaseException | None = None
    traceback: str = ""
    """The exception as text, with the lines of the worker's process."""
    loss: ActorLoss | None = None


class ActorSystem(Protocol):
    """Runs the workers of one job. Methods of a worker that can be called: prepare, process, state, close.

    `prepare` returns the worker's name and the id of its node. `state` runs at the same time as another call.
    """

    @property
    def is_private(self) -> bool:
        """Whether no further machine can join."""
        ...

    def nodes(self) -> Sequence[Mapping[str, float]]:
        """Resources of every machine, in use or free."""
        ...

    def draining_nodes(self) -> frozenset[str]:
        """Ids of the nodes that are draining, as of some seconds ago at most."""
        ...

    def start(self, request: ResourceRequest) -> ActorHandle:
        """Start a worker as soon as a machine has the resources; returns at once."""
        ...

    def call(self, actor: ActorHandle, method: str, *arguments: Any) -> CallHandle:
        """Call a method of a worker; returns at once."""
        ...

    def wait(
        self, calls: Sequence[CallHandle], *, count: int = 1, timeout_s: float = 0.0
    ) -> list[CallHandle]:
        """Wait until `count` of these calls have ended, or the timeout passes; return all that have ended."""
        ...

    def result(self, call: CallHandle) -> CallResult:
        """Return the result of a call that has ended."""
        ...

    def kill(self, actor: ActorHandle) -> None:
        """Stop a worker, whatever it does."""
        ...


StartActors: TypeAlias = Callable[[Callable[[], Worker], WorkersConfig, str], ActorSystem]
"""Makes the system for one job, from: how a worker is made, the workers' settings, the run's URL."""
