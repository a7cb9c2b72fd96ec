"""Status of Ray's autoscaler, version 1 or 2: machines that are starting, failed, or cannot be had.

Ray has no public function for it, so this module uses parts of Ray that may change.
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

_TIMEOUT_S = 5.0


def autoscaler_status(request: ResourceRequest) -> str:
    """Describe in one clause the machines that are starting, failed to start, or cannot be had; needs a Ray connection.

    Version 1 does not report requests that it can never meet.
    """
    first = _internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS)
    status = _of_version_1(json.loads(first).get("autoscaler_report") or {}) if first else ""
    return status or _of_version_2(_state(), request) or "no autoscaler is starting any"


def _of_version_1(report: dict[str, Any]) -> str:
    """Describe an AutoscalerSummary, given as JSON."""
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


def _of_version_2(state: Any, request: ResourceRequest) -> str:
    """Describe an AutoscalingState."""
    coming: Counter[str] = Counter()
    for pending in state.pending_instance_requests:
        coming[pending.ray_node_type_name] += pending.count
    coming.update(instance.ray_node_type_name for instance in state.pending_instances)
    refused = [(failed.ray_node_type_name, failed.reason) for failed in state.failed_instance_requests]
    # Other jobs of the cluster may have infeasible requests, too.
    infeasible = any(
        dict(infeasible_request.resources_bundle) == dict(request.bundle())
        for infeasible_request in state.infeasible_resource_requests
    )
    return _clauses(coming, refused, infeasible=infeasible)


def _clauses(coming: Counter[str], refused: Iterable[tuple[str, str]], *, infeasible: bool) -> str:
    clauses = [f"it is starting {count} of {name}" for name, count in coming.items()]
    clauses += [f"it could not start {name} ({' '.join(reason.split())[:200]})" for name, reason in refused]
    if infeasible:
        clauses.append("it may start no machine that has the requested resources")
    return f"of its autoscaler: {'; '.join(clauses)}" if clauses else ""


def _state() -> Any:
    protocol: Any = autoscaler_pb2
    clients: Any = _raylet
    reply = protocol.GetClusterStatusReply()
    client = clients.GcsClient(address=ray.get_runtime_context().gcs_address)
    reply.ParseFromString(client.get_cluster_status(timeout_s=_TIMEOUT_S))
    return reply.autoscaling_state
