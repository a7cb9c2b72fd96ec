"""What Ray's autoscaler, of either version, says about the machines that it was asked for.

Ray has no public way to ask it, so parts of Ray that may change stand here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import ray
from ray import _raylet
from ray._private import ray_constants
from ray.core.generated import autoscaler_pb2
from ray.experimental.internal_kv import _internal_kv_get

from fossilray.jobs.scheduler.resources import ResourceRequest

_ASK_S = 5.0


def autoscaler_status(demand: ResourceRequest) -> str:
    """One clause about machines that are on their way, could not be had, or cannot be had; needs a Ray connection.

    Version 1 does not tell what it can never bring.
    """
    first = _internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS)
    said = _of_version_1(json.loads(first).get("autoscaler_report") or {}) if first else ""
    return said or _of_version_2(_state(), demand) or "nothing is on its way from an autoscaler"


def _of_version_1(report: dict[str, Any]) -> str:
    """report: its AutoscalerSummary as JSON."""
    coming = Counter(report.get("pending_launches") or {})
    coming.update(kind for _, kind, _ in report.get("pending_nodes") or ())
    refused = {
        name: (kind.get("unavailable_node_information") or {}).get("description", "no reason given")
        for name, kind in (
            (report.get("node_availability_summary") or {}).get("node_availabilities") or {}
        ).items()
        if not kind.get("is_available", True)
    }
    return _clauses(coming, refused.items(), infeasible=False)


def _of_version_2(state: Any, demand: ResourceRequest) -> str:
    """state: an AutoscalingState."""
    coming: Counter[str] = Counter()
    for request in state.pending_instance_requests:
        coming[request.ray_node_type_name] += request.count
    coming.update(instance.ray_node_type_name for instance in state.pending_instances)
    refused = [(failed.ray_node_type_name, failed.reason) for failed in state.failed_instance_requests]
    # Others may ask for what cannot be had, too.
    infeasible = any(
        dict(request.resources_bundle) == dict(demand.bundle())
        for request in state.infeasible_resource_requests
    )
    return _clauses(coming, refused, infeasible=infeasible)


def _clauses(coming: Counter[str], refused: Iterable[tuple[str, str]], *, infeasible: bool) -> str:
    said = [f"it is starting {count} of {name}" for name, count in coming.items()]
    said += [f"it could not start {name} ({' '.join(reason.split())[:200]})" for name, reason in refused]
    if infeasible:
        said.append("it may start no machine that has what is asked")
    return f"of its autoscaler: {'; '.join(said)}" if said else ""


def _state() -> Any:
    protocol: Any = autoscaler_pb2
    clients: Any = _raylet
    reply = protocol.GetClusterStatusReply()
    client = clients.GcsClient(address=ray.get_runtime_context().gcs_address)
    reply.ParseFromString(client.get_cluster_status(timeout_s=_ASK_S))
    return reply.autoscaling_state
