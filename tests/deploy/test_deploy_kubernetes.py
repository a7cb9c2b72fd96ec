"""Overlays render, meet the definitions of KubeRay and Kubernetes, and Ray reads from them what is meant."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_check import SCHEMA, check
from support.kustomize import rendered

from fossilray.core.config import load_config

ROOT = Path(__file__).parents[2]
OVERLAYS = ROOT / "deploy" / "kubernetes" / "overlays"
NAMES = sorted(path.name for path in OVERLAYS.iterdir())
JOBS = [name for name in NAMES if name.endswith("-job")]


def of_kind(name: str, kind: str) -> dict[str, Any]:
    [manifest] = [manifest for manifest in rendered(OVERLAYS / name) if manifest["kind"] == kind]
    return manifest


def test_each_overlay_has_a_standing_cluster_and_a_job_of_its_own() -> None:
    assert set(NAMES) == {*JOBS, *(name.removesuffix("-job") for name in JOBS)}
    for name in NAMES:
        of_kind(name, "RayJob" if name in JOBS else "RayCluster")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_to_be_objected_to(name: str) -> None:
    assert check(rendered(OVERLAYS / name)) == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="compares with kubectl, which is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_kubectl_renders_the_same(name: str) -> None:
    completed = subprocess.run(
        ["kubectl", "kustomize", OVERLAYS / name], capture_output=True, text=True, check=True, timeout=60
    )
    theirs = list(yaml.safe_load_all(completed.stdout))

    def key(manifest: dict[str, Any]) -> str:
        return manifest["kind"] + manifest["metadata"]["name"]

    assert sorted(theirs, key=key) == sorted(rendered(OVERLAYS / name), key=key)


@pytest.mark.parametrize("name", JOBS)
def test_the_job_brings_the_standing_cluster_of_its_overlay(name: str) -> None:
    job = of_kind(name, "RayJob")
    cluster = of_kind(name.removesuffix("-job"), "RayCluster")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    assert job["metadata"]["namespace"] == cluster["metadata"]["namespace"]


@pytest.mark.parametrize("name", ["dev", "eks", "gke"])
def test_rays_own_autoscaler_reads_what_is_meant(name: str) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    kinds = _derive_autoscaling_config_from_ray_cr(of_kind(name, "RayCluster"))["available_node_types"]
    head = kinds.pop("headgroup")
    assert head["resources"]["CPU"] == 0
    assert "GPU" not in head["resources"] or head["resources"]["GPU"] == 0
    for kind in kinds.values():
        assert kind["min_workers"] == 0
        assert kind["max_workers"] > 0
        assert kind["idle_timeout_s"] == 120
    if name == "dev":
        assert kinds["cpu"]["resources"]["CPU"] == 2
        assert "GPU" not in kinds["cpu"]["resources"]
    else:
        assert {kind["resources"]["GPU"] for kind in kinds.values()} == {1}
        assert {kind["resources"]["CPU"] for kind in kinds.values()} == {14}
        assert kinds["gpu-spot"]["priority"] > kinds["gpu-on-demand"]["priority"]


@pytest.mark.parametrize("name", ["dev", "eks", "gke"])
def test_the_run_configuration_is_a_file_of_its_own_that_loads(name: str) -> None:
    config = load_config(OVERLAYS / name / "run.yaml")
    assert config.store.run
    assert config.slides.scratch == "/scratch"


def test_the_check_is_a_command_that_reads_what_kustomize_prints() -> None:
    script = ROOT / "deploy" / "kubernetes_check.py"

    def validate(manifests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, script],
            input=yaml.safe_dump_all(manifests),
            capture_output=True,
            text=True,
            check=False,
        )

    manifests = rendered(OVERLAYS / "eks-job")
    good = validate(manifests)
    assert (good.returncode, good.stderr) == (0, "")
    assert "nothing to object to" in good.stdout
    manifests[0]["metadata"]["nmae"] = "typo"
    bad = validate(manifests)
    assert bad.returncode == 1
    assert "nmae" in bad.stdout


def test_the_page_names_every_overlay_and_its_links_lead_somewhere() -> None:
    page = ROOT / "deploy" / "README.md"
    text = page.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in NAMES)
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"deploy/README.md links to {target}"


def test_the_schema_names_its_source_and_resolves_all_references() -> None:
    text = SCHEMA.read_text(encoding="utf-8")
    schema = json.loads(text)
    assert schema["source"][:2] == ["ray.io_rayclusters.yaml", "ray.io_rayjobs.yaml"]
    referred = {part.partition('"')[0] for part in text.split("#/$defs/")[1:]}
    assert referred == set(schema["$defs"])
