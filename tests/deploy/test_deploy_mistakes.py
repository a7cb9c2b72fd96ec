"""Mistakes planted in a sound overlay, one at a time: each is found and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_check import check
from support.kustomize import rendered

EKS = Path(__file__).parents[2] / "deploy" / "kubernetes" / "overlays" / "eks-job"

Tree = dict[str, Any]


class Overlay:
    """The manifests of a job with handles on the parts that mistakes are made in."""

    def __init__(self) -> None:
        self.all = rendered(EKS)
        self.job = self.one("RayJob")["spec"]
        self.cluster = self.job["rayClusterSpec"]
        self.head = self.cluster["headGroupSpec"]
        self.head_pod = self.head["template"]["spec"]
        self.spot, self.steady = self.cluster["workerGroupSpecs"]
        self.pod = self.spot["template"]["spec"]
        self.container = self.pod["containers"][0]

    def one(self, kind: str, name: str | None = None) -> Tree:
        return next(
            tree for tree in self.all if tree["kind"] == kind and name in (None, tree["metadata"]["name"])
        )

    def drop(self, kind: str, name: str | None = None) -> None:
        self.all.remove(self.one(kind, name))

    def set_run(self, section: str, **values: object) -> None:
        data = self.one("ConfigMap")["data"]
        run = yaml.safe_load(data["run.yaml"])
        run[section].update(values)
        data["run.yaml"] = yaml.safe_dump(run)


def appended(items: list[Tree], item: Tree) -> None:
    items.append(item)


AGAINST_THE_SCHEMA: dict[str, tuple[Callable[[Overlay], object], str]] = {
    "a field that is spelled wrong": (lambda o: o.spot.update(maxReplica=3), "'maxReplica' was unexpected"),
    "a field of a pod at the wrong depth": (
        lambda o: o.container.update(tolerations=[]),
        "'tolerations' was unexpected",
    ),
    "a number where a text belongs": (
        lambda o: o.head["rayStartParams"].update({"num-cpus": 0}),
        "0 is not of type 'string'",
    ),
    "a text where a number belongs": (
        lambda o: o.spot.update(maxReplicas="8"),
        "'8' is not of type 'integer'",
    ),
    "an unknown policy": (
        lambda o: o.job["deletionStrategy"]["deletionRules"][0].update(policy="DeleteAll"),
        "'DeleteAll' is not one of",
    ),
    "an unknown autoscaler": (
        lambda o: o.cluster["autoscalerOptions"].update(version="v3"),
        "'v3' is not one of",
    ),
    "a group without a name": (lambda o: o.spot.pop("groupName"), "'groupName' is a required property"),
    "a malformed quantity": (
        lambda o: o.container["resources"]["limits"].update(memory="48 GB"),
        "'48 GB' does not match",
    ),
    "a variable that is there twice": (
        lambda o: appended(o.container["env"], {"name": "RAY_USAGE_STATS_ENABLED", "value": "1"}),
        "RAY_USAGE_STATS_ENABLED stands there twice",
    ),
    "a policy's port without its list": (
        lambda o: o.one("NetworkPolicy")["spec"]["ingress"][0].update(port=80),
        "'port' was unexpected",
    ),
    "an unexpected kind": (
        lambda o: appended(o.all, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}}),
        "v1 Service: not a kind",
    ),
}

AGAINST_THE_RULES: dict[str, tuple[Callable[[Overlay], object], str]] = {
    "a head that does slides": (
        lambda o: o.head["rayStartParams"].pop("num-cpus"),
        "slides would run on the head",
    ),
    "another version of Ray": (lambda o: o.cluster.update(rayVersion="2.9.0"), "rayVersion is 2.9.0, but"),
    "another image in one group": (lambda o: o.container.update(image="fossilray:0.0.9"), "images differ"),
    "no tag": (
        lambda o: [
            pod["containers"][0].update(image="fossilray")
            for pod in (
                o.head_pod,
                o.pod,
                o.steady["template"]["spec"],
                o.job["submitterPodTemplate"]["spec"],
            )
        ],
        "image fossilray has no fixed tag",
    ),
    "GPUs requested and not allowed": (
        lambda o: o.container["resources"]["limits"].update({"nvidia.com/gpu": 2}),
        "nvidia.com/gpu differs between limits (2) and requests (1)",
    ),
    "a GPU on the head": (
        lambda o: [
            side.update({"nvidia.com/gpu": 1}) for side in o.head_pod["containers"][0]["resources"].values()
        ],
        "head: it holds a GPU",
    ),
    "too little time to drain": (
        lambda o: o.pod.update(terminationGracePeriodSeconds=60),
        "draining may take 95 s",
    ),
    "the default time to drain": (
        lambda o: o.pod.pop("terminationGracePeriodSeconds"),
        "terminationGracePeriodSeconds is 30",
    ),
    "no hook": (lambda o: o.container.pop("lifecycle"), "no preStop hook"),
    "no toleration of spot machines": (
        lambda o: o.pod["tolerations"].pop(1),
        "does not tolerate their taint",
    ),
    "no toleration of GPU machines": (
        lambda o: o.pod["tolerations"].pop(0),
        "does not tolerate the taint nvidia.com",
    ),
    "a head on spot": (
        lambda o: o.head_pod.update(nodeSelector={"karpenter.sh/capacity-type": "spot"}),
        "only workers may vanish",
    ),
    "on-demand machines first": (lambda o: o.steady.update(priority=20), "priority must be above"),
    "machines without work": (lambda o: o.spot.update(minReplicas=1), "minReplicas and replicas must be 0"),
    "no autoscaler": (lambda o: o.cluster.update(enableInTreeAutoscaling=False), "idle GPUs are paid for"),
    "the first autoscaler": (lambda o: o.cluster["autoscalerOptions"].update(version="v1"), "is not v2"),
    "pods that start again": (lambda o: o.pod.update(restartPolicy="Always"), "restartPolicy must be Never"),
    "statistics sent": (
        lambda o: o.container["env"][0].update(value="1"),
        "Ray reports to its makers",
    ),
    "a key in the open": (
        lambda o: appended(o.container["env"], {"name": "AWS_SECRET_ACCESS_KEY", "value": "made-up"}),
        "holds a secret in the open",
    ),
    "scratch smaller than what is staged": (
        lambda o: o.set_run("slides", scratch_gb=60),
        "2 workers stage up to 60 GB each, but the volume at /scratch holds 107 GB",
    ),
    "scratch elsewhere": (lambda o: o.set_run("slides", scratch="/data"), "the volume at /data holds 0 GB"),
    "a volume without a limit": (
        lambda o: o.pod["volumes"][1].update(emptyDir={}),
        "volume scratch has no sizeLimit",
    ),
    "less disk than its volumes": (
        lambda o: [side.update({"ephemeral-storage": "50Gi"}) for side in o.container["resources"].values()],
        "ephemeral-storage of 50Gi",
    ),
    "a dashboard for everybody": (
        lambda o: o.head.update(serviceType="LoadBalancer"),
        "serviceType is LoadBalancer",
    ),
    "a published dashboard": (lambda o: o.head.update(enableIngress=True), "an ingress would publish"),
    "a dashboard without users": (
        lambda o: o.head["rayStartParams"].update({"dashboard-host": "127.0.0.1"}),
        "dashboard-host must be 0.0.0.0",
    ),
    "no token": (lambda o: o.cluster.pop("authOptions"), "Ray authenticates no client"),
    "no policy": (
        lambda o: o.drop("NetworkPolicy", "fossilray-pods"),
        "no NetworkPolicy for Ingress and Egress",
    ),
    "a policy that admits every client": (
        lambda o: o.one("NetworkPolicy", "fossilray-metrics")["spec"]["ingress"][0].pop("from"),
        "it admits every client",
    ),
    "a ConfigMap that is not there": (lambda o: o.drop("ConfigMap"), "there is no ConfigMap fossilray-run"),
    "a configuration by another name": (
        lambda o: o.job.update(entrypoint=o.job["entrypoint"].replace("run.yaml", "job.yaml")),
        "reads /etc/fossilray/job.yaml, which no ConfigMap puts there",
    ),
    "a setting that is spelled wrong": (
        lambda o: o.set_run("slides", scratch_gib=3),
        "slides.scratch_gib is not a configuration field",
    ),
    "a run without a URL": (lambda o: o.set_run("store", run=None), "must set slides.source and store.run"),
    "GPUs and workers that request none": (lambda o: o.set_run("workers", device="auto"), "expected cuda"),
    "more workers than there can be": (lambda o: o.set_run("workers", count=30), "hold at most 20"),
    "no number of workers": (lambda o: o.set_run("workers", count=None), "workers.count is None"),
    "workers that leave a GPU idle": (
        lambda o: o.set_run("workers", cpus_per_worker=10),
        "leave a part of its GPU idle",
    ),
    "root": (lambda o: o.pod["securityContext"].update(runAsNonRoot=False), "must set runAsNonRoot"),
    "a root that can be written to": (
        lambda o: o.container["securityContext"].update(readOnlyRootFilesystem=False),
        "readOnlyRootFilesystem is not set",
    ),
    "an operator of any namespace": (
        lambda o: o.one("NetworkPolicy", "fossilray-operator")["spec"]["ingress"][0]["from"][0].update(
            namespaceSelector={}
        ),
        "pods of every namespace",
    ),
    "a worker with rights on the cluster": (
        lambda o: o.pod.pop("automountServiceAccountToken"),
        "a token of the API server that it does not need",
    ),
    "an account that is not there": (
        lambda o: o.drop("ServiceAccount", "fossilray-worker"),
        "there is no ServiceAccount fossilray-worker",
    ),
    "a disk of the node": (
        lambda o: appended(o.pod["volumes"], {"name": "disk", "hostPath": {"path": "/"}}),
        "opens the node's disk",
    ),
    "two namespaces": (
        lambda o: o.one("ConfigMap")["metadata"].update(namespace="default"),
        "in 2 namespaces",
    ),
    "a cluster that stays": (
        lambda o: o.job.pop("deletionStrategy"),
        "without a deletionStrategy its cluster stays",
    ),
    "rules beside what they replace": (
        lambda o: o.job.update(shutdownAfterJobFinishes=True),
        "exclude each other",
    ),
    "workers the autoscaler would bring back": (
        lambda o: o.job["deletionStrategy"]["deletionRules"][1].update(policy="DeleteWorkers"),
        "refuses DeleteWorkers",
    ),
    "a rule for two states": (
        lambda o: o.job["deletionStrategy"]["deletionRules"][0]["condition"].update(
            jobDeploymentStatus="Failed"
        ),
        "and not both",
    ),
}


@pytest.mark.parametrize("mistake", AGAINST_THE_SCHEMA)
def test_what_the_server_would_refuse_is_named(mistake: str) -> None:
    plant, message = AGAINST_THE_SCHEMA[mistake]
    overlay = Overlay()
    plant(overlay)
    found = check(overlay.all)
    assert any(message in fault for fault in found), found


@pytest.mark.parametrize("mistake", AGAINST_THE_RULES)
def test_what_the_server_would_take_is_named_too(mistake: str) -> None:
    plant, message = AGAINST_THE_RULES[mistake]
    overlay = Overlay()
    plant(overlay)
    found = check(overlay.all)
    assert any(message in fault for fault in found), found
    assert all(len(fault) < 250 for fault in found), found
