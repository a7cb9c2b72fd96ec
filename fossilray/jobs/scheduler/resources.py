"""What a worker asks of a cluster, and how many such workers its machines hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from fossilray.core.config import WorkersConfig

WORKER_BYTES = 3 * 1024**3
"""Memory that one CPU worker may need."""
_TYPE = "accelerator_type:"
"""Ray's prefix of the resource that a machine has for the type of its GPUs."""
_TRACE = 0.001
"""What Ray asks of that resource for an actor with accelerator_type."""


@dataclass(frozen=True)
class ResourceRequest:
    """What Ray reserves on one machine for one worker; prints as a reader would list it."""

    cpus: float
    gpus: float
    resources: Mapping[str, float] = field(default_factory=dict)
    accelerator: str | None = None
    placement: str = "SPREAD"

    def options(self) -> dict[str, Any]:
        """The same for `actor.options(…)`."""
        options: dict[str, Any] = {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "scheduling_strategy": self.placement,
        }
        if self.resources:
            options["resources"] = dict(self.resources)
        if self.accelerator is not None:
            options["accelerator_type"] = self.accelerator
        return options

    def fits(self, machine: Mapping[str, float]) -> int:
        """How many such workers a machine of these resources holds, when nobody else is on it."""
        if not self.is_met_by(machine):
            return 0
        rooms = [int(machine[name] / amount + 1e-9) for name, amount in self.bundle().items()]
        if 0 < self.gpus < 1:
            # Shares of different GPUs do not add up: each holds two of 0.4.
            rooms.append(int(machine["GPU"]) * int(1 / self.gpus + 1e-9))
        if not self.gpus:
            rooms.append(int(machine.get("memory", WORKER_BYTES) / WORKER_BYTES))
        return min(rooms)

    def is_met_by(self, machine: Mapping[str, float]) -> bool:
        """Whether Ray would place one worker on a machine of these resources."""
        return all(machine.get(name, 0.0) >= amount for name, amount in self.bundle().items())

    def bundle(self) -> dict[str, float]:
        """The same by Ray's names of resources."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        if self.accelerator is not None:
            wanted[f"{_TYPE}{self.accelerator}"] = _TRACE
        return {name: amount for name, amount in wanted.items() if amount}

    def __str__(self) -> str:
        parts = [_amount(self.cpus, "CPU")]
        if self.gpus:
            parts.append(_amount(self.gpus, f"GPU of type {self.accelerator}" if self.accelerator else "GPU"))
        return ", ".join([*parts, *(_amount(amount, name) for name, amount in self.resources.items())])


def resources_for(workers: WorkersConfig, *, gpus_seen: bool) -> ResourceRequest:
    """What a worker asks for now; gpus_seen: the cluster has shown a GPU, which decides with device=auto."""
    wants_gpu = workers.device == "cuda" or (workers.device == "auto" and gpus_seen)
    gpus = workers.gpus_per_worker if wants_gpu else 0.0
    return ResourceRequest(
        cpus=workers.cpus_per_worker,
        gpus=gpus,
        resources=workers.resources,
        accelerator=workers.accelerator if gpus else None,
        # Ray's default fills a machine to half before it takes the next.
        placement="SPREAD" if workers.placement == "spread" else "DEFAULT",
    )


def cluster_nodes() -> list[Mapping[str, float]]:
    """Resources of every machine of the connected cluster, whether in use or free."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def have_gpu(present: Sequence[Mapping[str, float]]) -> bool:
    """Whether any of these machines has a GPU."""
    return any(machine.get("GPU") for machine in present)


def workers_that_fit(workers: WorkersConfig) -> int:
    """How many workers to run: the configured count, else as many as the connected cluster holds; at least 1."""
    present = cluster_nodes()
    return count_workers(workers, resources_for(workers, gpus_seen=have_gpu(present)), present)


def count_workers(
    workers: WorkersConfig, demand: ResourceRequest, present: Sequence[Mapping[str, float]]
) -> int:
    """As workers_that_fit, of these machines."""
    return workers.count or max(1, sum(demand.fits(machine) for machine in present))


def describe_capacity(present: Sequence[Mapping[str, float]]) -> str:
    """What the best equipped of these machines have, resource by resource, as a reader would list it."""
    most: dict[str, float] = {}
    for machine in present:
        for name, amount in machine.items():
            if name not in ("memory", "object_store_memory") and not name.startswith("node:"):
                most[name] = max(most.get(name, 0.0), amount)
    types = [name.removeprefix(_TYPE) for name in most if name.startswith(_TYPE)]
    parts = [_amount(most.get("CPU", 0.0), "CPU"), _amount(most.get("GPU", 0.0), "GPU")]
    if types:
        parts[1] += f" ({', '.join(sorted(types))})"
    others = sorted(name for name in most if name not in ("CPU", "GPU") and not name.startswith(_TYPE))
    return ", ".join([*parts, *(_amount(most[name], name) for name in others)])


def _amount(amount: float, name: str) -> str:
    return f"{amount:g} {name}"
