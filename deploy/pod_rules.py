"""What every pod of a Ray cluster must be: confined, quiet, bounded, and gone in time when its machine is taken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

Manifest: TypeAlias = dict[str, Any]
"""An object of Kubernetes, or a part of one, as YAML gives it."""

UNITS = {
    "": 1,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "m": 1e-3,
}
OBJECT_STORE_BYTES = 2**30
"""Far more than the scheduler's messages need."""


@dataclass(frozen=True)
class Pod:
    """A pod's template inside a Ray object: the head's, a worker group's or the submitter's."""

    name: str
    role: str
    template: Manifest
    group: Manifest

    @property
    def spec(self) -> Manifest:
        return self.template["spec"]

    @property
    def container(self) -> Manifest:
        """The one Ray or the submitter runs in."""
        return self.spec["containers"][0]


def pod_faults(pod: Pod, manifests: list[Manifest]) -> Iterator[str]:
    """Every fault of one pod's template as a sentence that begins with the pod's name."""
    yield from _secure(pod)
    yield from _quiet(pod)
    yield from _volumes(pod, manifests)
    yield from _resources(pod)
    yield from _account(pod, manifests)
    if pod.role == "worker":
        yield from _ends_in_time(pod)


def name_of(manifest: Manifest) -> str:
    """Kind and name, as messages begin."""
    return f"{manifest.get('kind')} {manifest.get('metadata', {}).get('name')}"


def quantity(text: str | float) -> float:
    """A quantity of Kubernetes, such as 14, 500m or 100Gi, as a number."""
    match = re.fullmatch(r"([0-9.]+)(m|[kMGT]|[KMGT]i)?", str(text))
    if match is None:
        raise ValueError(f"{text} is not a quantity")
    return float(match[1]) * UNITS[match[2] or ""]


def _secure(pod: Pod) -> Iterator[str]:
    context = pod.container.get("securityContext", {})
    every = pod.spec.get("securityContext", {})
    if not every.get("runAsNonRoot") or not every.get("runAsUser"):
        yield f"{pod.name}: securityContext must set runAsNonRoot and a runAsUser other than 0"
    if every.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{pod.name}: securityContext.seccompProfile must be RuntimeDefault"
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield f"{pod.name}: its container may gain privileges; set allowPrivilegeEscalation: false"
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{pod.name}: readOnlyRootFilesystem is not set"
    if context.get("capabilities", {}).get("drop") != ["ALL"]:
        yield f"{pod.name}: capabilities must drop ALL"
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(field):
            yield f"{pod.name}: {field} opens the node to the pod"


def _quiet(pod: Pod) -> Iterator[str]:
    environment = {item["name"]: item.get("value") for item in pod.container.get("env", [])}
    if environment.get("RAY_USAGE_STATS_ENABLED") != "0":
        yield f'{pod.name}: RAY_USAGE_STATS_ENABLED must be "0", or Ray reports to its makers'
    for name, value in environment.items():
        if value and re.search(r"SECRET|PASSWORD|ACCESS_KEY|TOKEN", name):
            yield f"{pod.name}: {name} holds a secret in the open; bind the service account to an identity instead"


def _volumes(pod: Pod, manifests: list[Manifest]) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod.container.get("volumeMounts", [])}
    for name in sorted(set(mounts) - set(volumes)):
        yield f"{pod.name}: it mounts {name}, which is none of its volumes"
    if "/tmp" not in mounts.values():
        yield f"{pod.name}: nothing is mounted at /tmp, where Ray must write"
    known = {item["metadata"]["name"]: item for item in manifests if item["kind"] == "ConfigMap"}
    disk = 0.0
    for name, volume in volumes.items():
        if "emptyDir" in volume:
            if "sizeLimit" not in volume["emptyDir"]:
                yield f"{pod.name}: volume {name} has no sizeLimit, so one pod may fill the node"
            disk += quantity(volume["emptyDir"].get("sizeLimit", 0))
        if "hostPath" in volume:
            yield f"{pod.name}: volume {name} opens the node's disk to the pod"
        if "configMap" in volume:
            map_ = known.get(volume["configMap"]["name"])
            if map_ is None:
                yield f"{pod.name}: there is no ConfigMap {volume['configMap']['name']}"
                continue
            for item in volume["configMap"].get("items", []):
                if item["key"] not in map_.get("data", {}):
                    yield f"{pod.name}: ConfigMap {map_['metadata']['name']} has no key {item['key']}"
    requested = pod.container.get("resources", {}).get("requests", {}).get("ephemeral-storage")
    if pod.role != "submitter" and (requested is None or quantity(requested) < disk):
        yield f"{pod.name}: ephemeral-storage of {requested} is less than its volumes may hold; it would be evicted"


def _resources(pod: Pod) -> Iterator[str]:
    resources = pod.container.get("resources", {})
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for name in ("memory", "nvidia.com/gpu"):
        if limits.get(name) != requests.get(name):
            yield f"{pod.name}: {name} differs between limits ({limits.get(name)}) and requests ({requests.get(name)})"
    for name in ("cpu", "memory"):
        if name not in requests or name not in limits:
            yield f"{pod.name}: resources state no {name}"
    if "nvidia.com/gpu" in limits and pod.role != "worker":
        yield f"{pod.name}: it holds a GPU and does no slides"
    tolerated = {item.get("key") for item in pod.spec.get("tolerations", [])}
    if "nvidia.com/gpu" in limits and "nvidia.com/gpu" not in tolerated:
        yield f"{pod.name}: it requests a GPU but does not tolerate the taint nvidia.com/gpu"
    parameters = pod.group.get("rayStartParams", {})
    store = float(parameters.get("object-store-memory", "inf"))
    if pod.role != "submitter" and store > OBJECT_STORE_BYTES:
        yield f"{pod.name}: object-store-memory is {store:g} bytes; no pixels pass through it, 128 MiB are enough"


def _account(pod: Pod, manifests: list[Manifest]) -> Iterator[str]:
    known = {item["metadata"]["name"] for item in manifests if item["kind"] == "ServiceAccount"}
    account = pod.spec.get("serviceAccountName")
    if pod.role != "submitter" and account not in known:
        yield f"{pod.name}: there is no ServiceAccount {account}"
    if pod.role != "head" and pod.spec.get("automountServiceAccountToken") is not False:
        yield f"{pod.name}: it is given a token of the API server that it does not need"


def _ends_in_time(pod: Pod) -> Iterator[str]:
    command = pod.container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    if not any(word.endswith("drain.py") for word in command):
        yield f"{pod.name}: no preStop hook drains it when its machine is taken away"
        return
    environment = {item["name"]: item.get("value") for item in pod.container.get("env", [])}
    # Ray's own default where the variable is not set.
    after = float(environment.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S") or 30)
    needed = float(command[command.index("--seconds") + 1]) + after
    grace = pod.spec.get("terminationGracePeriodSeconds", 30)
    if grace <= needed:
        yield f"{pod.name}: terminationGracePeriodSeconds is {grace}, but draining may take {needed:g} s"
