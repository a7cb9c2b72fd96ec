"""Resources that a worker requests, and the number of such workers that a cluster holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from fossilray.core.config import WorkersConfig

WORKER_BYTES = 3 * 1024**3
"""Memory of one CPU worker, at most."""
_TYPE = "accelerator_type:"
"""Ray's prefix of the resource that a machine has for the type of its GPUs."""
_TRACE = 0.001
"""Amount of that resource that Ray requests for an actor with accelerator_type."""


@dataclass(frozen=True)
class ResourceRequest:
    """Resources that Ray reserves on one machine for one worker; `str` lists them for messages."""

    cpus: float
    gpus: float
    resources: Mapping[str, float] = field(default_factory=dict)
    accelerator: str | None = None
    placement: str = "SPREAD"

    def options(self) -> dict[str, Any]:
        """Keyword arguments for `actor.options(…)`."""
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
        """Number of such workers that an otherwise empty machine of these resources holds."""
        if not self.is_met_by(machine):
            return 0
        limits = [int(machine[name] / amount + 1e-9) for name, amount in self.bundle().items()]
        if 0 < self.gpus < 1:
            # Fractions of different GPUs cannot be combined: each GPU holds two workers of 0.4.
            limits.append(int(machine["GPU"]) * int(1 / self.gpus + 1e-9))
        if not self.gpus:
            limits.append(int(machine.get("memory", WORKER_BYTES) / WORKER_BYTES))
        return min(limits)

    def is_met_by(self, machine: Mapping[str, float]) -> bool:
        """Return whether Ray would start one worker on an empty machine of these resources."""
        return all(machine.get(name, 0.0) >= amount for name, amount in self.bundle().items())

    def bundle(self) -> dict[str, float]:
        """The request by Ray's names of resources."""
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
    """The request of a worker. gpus_seen: the cluster has had a GPU, which decides with device=auto."""
    wants_gpu = workers.device == "cuda" or (workers.device == "auto" and gpus_seen)
    gpus = workers.gpus_per_worker if wants_gpu else 0.0
    return ResourceRequest(
        cpus=workers.cpus_per_worker,
        gpus=gpus,
        resources=workers.resources,
        accelerator=workers.accelerator if gpus else None,
        # Ray's default fills a machine to half before it uses the next one.
        placement="SPREAD" if workers.placement == "spread" else "DEFAULT",
    )


def cluster_nodes() -> list[Mapping[str, float]]:
    """Resources of every machine of the connected cluster, in use or free."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def have_gpu(nodes: Sequence[Mapping[str, float]]) -> bool:
    """Return whether any of these machines has a GPU."""
    return any(machine.get("GPU") for machine in nodes)


def workers_that_fit(workers: WorkersConfig) -> int:
    """Number of workers to run: the configured count, else as many as the connected cluster holds; at least 1."""
    nodes = cluster_nodes()
    return count_workers(workers, resources_for(workers, gpus_seen=have_gpu(nodes)), nodes)


def count_workers(
    workers: WorkersConfig, request: ResourceRequest, nodes: Sequence[Mapping[str, float]]
) -> int:
    """Number of workers to run on these machines: the configured count, else as many as fit; at least 1."""
    return workers.count or max(1, sum(request.fits(machine) for machine in nodes))


def describe_capacity(nodes: Sequence[Mapping[str, float]]) -> str:
    """List the largest amount of each resource on any of these machines, for messages."""
    most: dict[str, float] = {}
    for machine in nodes:
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
