"""What an API server accepts and what is wrong all the same, each rule a function that yields faults.

They hold for one rendered overlay: a RayCluster or a RayJob with what surrounds it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from pod_rules import Manifest, Pod, name_of, pod_faults, quantity

from fossilray.core.config import RunConfig, load_config
from fossilray.core.errors import ConfigError

CONSTRAINTS = Path(__file__).parent.parent / "requirements" / "constraints.txt"
PART_OF = "app.kubernetes.io/part-of"
SPOT_SELECTORS = {
    "fossilray.io/lifecycle": "spot",
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "cloud.google.com/gke-spot": "true",
}
LONGEST_NAME = 47
"""Of a RayJob in characters: the operator appends to it."""


def faults(manifests: list[Manifest]) -> Iterator[str]:
    """Every fault of one overlay as a sentence that begins with what it is about."""
    objects = [manifest for manifest in manifests if manifest["kind"] in ("RayCluster", "RayJob")]
    if len(objects) != 1:
        yield f"overlay: {len(objects)} Ray objects, expected one RayCluster or one RayJob"
        return
    [ray] = objects
    cluster: Manifest = ray["spec"].get("rayClusterSpec", {}) if ray["kind"] == "RayJob" else ray["spec"]
    if "headGroupSpec" not in cluster:
        yield f"{name_of(ray)}: it has no rayClusterSpec"
        return
    pods = list(_pods(ray, cluster))
    workers = [pod for pod in pods if pod.role == "worker"]
    yield from _one_namespace(manifests)
    yield from _autoscaler(ray, cluster)
    yield from _head_does_no_work(cluster)
    yield from _versions(cluster, pods)
    for pod in pods:
        yield from pod_faults(pod, manifests)
    yield from _spot(pods)
    yield from _nothing_exposed(cluster, pods, manifests)
    if ray["kind"] == "RayJob":
        yield from _deletion(ray["spec"], cluster)
        yield from _run(ray["spec"], pods, workers, manifests)


def _pods(ray: Manifest, cluster: Manifest) -> Iterator[Pod]:
    yield Pod("head", "head", cluster["headGroupSpec"]["template"], cluster["headGroupSpec"])
    for group in cluster.get("workerGroupSpecs", []):
        yield Pod(group["groupName"], "worker", group["template"], group)
    if "submitterPodTemplate" in ray["spec"]:
        yield Pod("submitter", "submitter", ray["spec"]["submitterPodTemplate"], {})


def _one_namespace(manifests: list[Manifest]) -> Iterator[str]:
    spaces = {
        manifest["metadata"].get("namespace") for manifest in manifests if manifest["kind"] != "Namespace"
    } | {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "Namespace"}
    if len(spaces) > 1:
        yield f"overlay: its objects stand in {len(spaces)} namespaces ({', '.join(map(str, sorted(spaces, key=str)))})"
    for manifest in manifests:
        if len(manifest["metadata"]["name"]) > LONGEST_NAME:
            yield f"{name_of(manifest)}: its name is longer than {LONGEST_NAME} characters"


def _autoscaler(ray: Manifest, cluster: Manifest) -> Iterator[str]:
    if not cluster.get("enableInTreeAutoscaling"):
        yield f"{name_of(ray)}: enableInTreeAutoscaling is off, so idle GPUs are paid for"
    if cluster.get("autoscalerOptions", {}).get("version") != "v2":
        yield f"{name_of(ray)}: autoscalerOptions.version is not v2, which alone knows priorities of groups"
    for group in cluster.get("workerGroupSpecs", []):
        if group.get("minReplicas", 0) or group.get("replicas", 0):
            yield f"{group['groupName']}: minReplicas and replicas must be 0, or machines run without work"
        if "idleTimeoutSeconds" not in group:
            yield f"{group['groupName']}: idleTimeoutSeconds is missing"
    for group in (cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])):
        if group["template"]["spec"].get("restartPolicy") != "Never":
            yield f"{group.get('groupName', 'head')}: restartPolicy must be Never, as autoscaler v2 demands"


def _head_does_no_work(cluster: Manifest) -> Iterator[str]:
    parameters = cluster["headGroupSpec"].get("rayStartParams", {})
    for name in ("num-cpus", "num-gpus"):
        if parameters.get(name) != "0":
            yield f'head: rayStartParams.{name} is {parameters.get(name)!r}, expected "0": slides would run on the head'


def _versions(cluster: Manifest, pods: list[Pod]) -> Iterator[str]:
    needs = (Requirement(line) for line in CONSTRAINTS.read_text("utf-8").splitlines() if "==" in line)
    pinned = next(str(need.specifier).removeprefix("==") for need in needs if need.name == "ray")
    if cluster.get("rayVersion") != pinned:
        yield f"cluster: rayVersion is {cluster.get('rayVersion')}, but constraints.txt pins ray {pinned}"
    images = {pod.container["image"] for pod in pods}
    if len(images) > 1:
        yield f"cluster: images differ between its pods ({', '.join(sorted(images))}); Ray refuses other versions"
    for image in images:
        tag = image.rpartition("/")[2].partition(":")[2]
        if tag in ("", "latest") and "@sha256:" not in image:
            yield f"cluster: image {image} has no fixed tag, so nodes of different days may run different code"


def _spot(pods: list[Pod]) -> Iterator[str]:
    spot = [pod for pod in pods if _is_spot(pod)]
    for pod in spot:
        if pod.role != "worker":
            yield f"{pod.name}: it runs on spot machines; only workers may vanish"
        elif not any("spot" in str(item.get("key")) for item in pod.spec.get("tolerations", [])):
            yield f"{pod.name}: it is sent to spot machines but does not tolerate their taint"
    steady = [pod for pod in pods if pod.role == "worker" and pod not in spot]
    for pod in spot:
        if any(pod.group.get("priority", 0) <= other.group.get("priority", 0) for other in steady):
            yield f"{pod.name}: its priority must be above that of on-demand groups, or the dear machines come first"


def _is_spot(pod: Pod) -> bool:
    selector = pod.spec.get("nodeSelector", {})
    return any(selector.get(name) == value for name, value in SPOT_SELECTORS.items())


def _nothing_exposed(cluster: Manifest, pods: list[Pod], manifests: list[Manifest]) -> Iterator[str]:
    head = cluster["headGroupSpec"]
    if head.get("rayStartParams", {}).get("dashboard-host") != "0.0.0.0":
        yield "head: dashboard-host must be 0.0.0.0, or the operator cannot submit; policies keep others out"
    service = head.get("headService", {}).get("spec", {}).get("type", head.get("serviceType", "ClusterIP"))
    if service != "ClusterIP":
        yield f"head: serviceType is {service}: any client that reaches the dashboard can run code; keep it ClusterIP"
    if head.get("enableIngress") or head.get("ingressOptions"):
        yield "head: an ingress would publish the dashboard"
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "cluster: authOptions.mode is not token, so Ray authenticates no client"
    policies = [manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    for pod in pods:
        labels = dict(pod.template.get("metadata", {}).get("labels", {}))
        closed = [
            policy
            for policy in policies
            if policy["spec"].get("podSelector", {}).get("matchLabels", {}).items() <= labels.items()
            and {"Ingress", "Egress"} <= set(policy["spec"].get("policyTypes", []))
        ]
        if not closed:
            yield f"{pod.name}: no NetworkPolicy for Ingress and Egress selects it"
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            sources = rule.get("from", [])
            if not sources or any(not any(source.values()) or "ipBlock" in source for source in sources):
                yield f"{name_of(policy)}: it admits every client"
            elif any(not source.get("namespaceSelector", {"own": True}) for source in sources):
                yield (
                    f"{name_of(policy)}: it lets in pods of every namespace that bear a label; name the namespace "
                    "by kubernetes.io/metadata.name"
                )


def _deletion(job: Manifest, cluster: Manifest) -> Iterator[str]:
    """Rules that the CRD states in CEL, and rules that the operator applies only after the job was created."""
    strategy = job.get("deletionStrategy")
    if strategy is None:
        yield "RayJob: without a deletionStrategy its cluster stays, and is paid for, when it is done"
        return
    rules = strategy.get("deletionRules")
    if rules is None or "onSuccess" in strategy or "onFailure" in strategy:
        yield "RayJob: deletionStrategy must have deletionRules and neither onSuccess nor onFailure"
        return
    if job.get("shutdownAfterJobFinishes"):
        yield "RayJob: shutdownAfterJobFinishes and deletionRules exclude each other"
    statuses: dict[str, dict[str, int]] = {}
    for rule in rules:
        condition = rule["condition"]
        if ("jobStatus" in condition) == ("jobDeploymentStatus" in condition):
            yield "RayJob: a deletion rule needs jobStatus or jobDeploymentStatus, and not both"
            continue
        if rule["policy"] == "DeleteWorkers" and cluster.get("enableInTreeAutoscaling"):
            yield "RayJob: the operator refuses DeleteWorkers where an autoscaler runs"
        status = condition.get("jobStatus") or condition["jobDeploymentStatus"]
        statuses.setdefault(status, {})[rule["policy"]] = condition.get("ttlSeconds", 0)
    for status in ("SUCCEEDED", "FAILED"):
        times = statuses.get(status, {})
        if not {"DeleteCluster", "DeleteSelf"} & set(times):
            yield f"RayJob: no deletion rule takes the cluster of a job that {status}"
        if times.get("DeleteSelf", float("inf")) < times.get("DeleteCluster", 0):
            yield f"RayJob: a job that {status} would be deleted before its cluster"


def _run(job: Manifest, pods: list[Pod], workers: list[Pod], manifests: list[Manifest]) -> Iterator[str]:
    path = Path(re.search(r"--config[ =](\S+)", job.get("entrypoint", "") + " --config= ")[1])  # type: ignore[index]
    head = pods[0]
    mounts = {mount["mountPath"]: mount["name"] for mount in head.container.get("volumeMounts", [])}
    volumes = {volume["name"]: volume for volume in head.spec.get("volumes", [])}
    map_name = volumes.get(mounts.get(str(path.parent), ""), {}).get("configMap", {}).get("name")
    maps = {
        item["metadata"]["name"]: item.get("data", {}) for item in manifests if item["kind"] == "ConfigMap"
    }
    text = maps.get(map_name, {}).get(path.name)
    if text is None:
        yield f"RayJob: its entrypoint reads {path}, which no ConfigMap puts there on the head"
        return
    try:
        config = _config(text)
    except ConfigError as error:
        yield f"ConfigMap {map_name}: {error}"
        return
    if config.slides.source is None or config.store.run is None:
        yield f"ConfigMap {map_name}: {path.name} must set slides.source and store.run; the entrypoint names neither"
    room = 0
    for pod in workers:
        fit = _workers_of(pod, config)
        room += fit * pod.group["maxReplicas"]
        yield from _workers_fit(pod, config, fit)
    # Groups start at 0 machines: a machine that is not requested outright never comes.
    if config.workers.count is None or config.workers.count > room:
        yield f"ConfigMap {map_name}: workers.count is {config.workers.count}; its worker groups hold at most {room}"


def _config(text: str) -> RunConfig:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path)


def _workers_of(pod: Pod, config: RunConfig) -> int:
    """How many workers one such pod holds, by its GPUs where workers request them and by its cores elsewhere."""
    limits, workers = pod.container["resources"]["limits"], config.workers
    fit = int(quantity(limits["cpu"]) / workers.cpus_per_worker)
    if workers.device == "cpu" or not workers.gpus_per_worker:
        return fit
    return min(fit, int(quantity(limits.get("nvidia.com/gpu", 0)) / workers.gpus_per_worker))


def _workers_fit(pod: Pod, config: RunConfig, fit: int) -> Iterator[str]:
    limits, workers = pod.container["resources"]["limits"], config.workers
    gpus, cpus = quantity(limits.get("nvidia.com/gpu", 0)), quantity(limits["cpu"])
    # With `auto` workers request a GPU once there is one, and a group that starts at 0 machines has none.
    if gpus and workers.device != "cuda":
        yield f"{pod.name}: it has {gpus:g} GPUs, but workers.device is {workers.device}, expected cuda"
    elif fit < 1:
        yield f"{pod.name}: no worker of {workers.cpus_per_worker:g} cores and {workers.device} fits its {cpus:g} cores"
    elif gpus and fit * workers.gpus_per_worker < gpus:
        yield f"{pod.name}: {fit} workers of {workers.cpus_per_worker:g} cores leave a part of its GPU idle"
    mounts = {mount["mountPath"]: mount["name"] for mount in pod.container.get("volumeMounts", [])}
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    volume = volumes.get(mounts.get(config.slides.scratch or "/tmp", ""), {})
    room = quantity(volume.get("emptyDir", {}).get("sizeLimit", 0))
    if fit * config.slides.scratch_gb * 1e9 > room:
        yield (
            f"{pod.name}: {fit} workers stage up to {config.slides.scratch_gb:g} GB each, but the volume at "
            f"{config.slides.scratch} holds {room / 1e9:.0f} GB"
        )
