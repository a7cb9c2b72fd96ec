"""Files for Ray's cluster launcher: sound as they are, and planted mistakes found by name."""

from __future__ import annotations

import copy
import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from fossilray.core.config import load_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
CLOUDS = ("aws", "gcp")
LOCAL_DISK_GB = {"g6.4xlarge": 600, "g5.4xlarge": 600, "g2-standard-16": 375}
MEMORY_GB = 64


def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cluster_check", CLUSTER / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def launcher_file(cloud: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((CLUSTER / f"{cloud}.yaml").read_text(encoding="utf-8"))
    return copy.deepcopy(config)


def mistakes(config: dict[str, Any]) -> list[str]:
    return list(checker().find_mistakes(config))


def node(config: dict[str, Any], name: str) -> dict[str, Any]:
    # Nodes share parts by YAML's anchors; a mistake is planted in one alone.
    kind = config["available_node_types"][name]
    kind["node_config"] = copy.deepcopy(kind["node_config"])
    found: dict[str, Any] = kind["node_config"]
    return found


def put(value: object, *keys: str) -> Callable[[dict[str, Any]], None]:
    """Set what lies at the end of the keys; `node` as the third copies shared parts first."""

    def change(config: dict[str, Any]) -> None:
        section: Any = config
        if keys[0] == "available_node_types" and "node_config" in keys:
            node(config, keys[1])
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = value

    return change


def drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        section: Any = config
        if keys[0] == "available_node_types" and "node_config" in keys:
            node(config, keys[1])
        for key in keys[:-1]:
            section = section[key]
        del section[keys[-1]]

    return change


def reword(part: str, old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        before = config[part]
        config[part] = [line.replace(old, new) for line in before]
        assert config[part] != before

    return change


def rename(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        config["available_node_types"][new] = config["available_node_types"].pop(old)

    return change


TYPES = "available_node_types"
PLANTED: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    ("aws", put("x", "unknown_key"), "unknown_key"),
    ("aws", drop("cluster_name"), "cluster_name is not set"),
    ("aws", put("unknown", "head_node_type"), "head_node_type"),
    ("aws", put(1.5, TYPES, "gpu-spot-l4", "resources", "CPU"), "1.5 is not of type"),
    ("aws", put(4, TYPES, "head", "resources", "CPU"), "head.resources.CPU is 4"),
    ("aws", drop(TYPES, "head", "resources", "GPU"), "head.resources.GPU is None"),
    (
        "aws",
        put({"MarketType": "spot"}, TYPES, "head", "node_config", "InstanceMarketOptions"),
        "head is a spot",
    ),
    ("aws", put(1, TYPES, "gpu-spot-l4", "min_workers"), "gpu-spot-l4.min_workers is 1"),
    ("aws", put({"CPU": 4, "GPU": 1}, TYPES, "gpu-spot-l4", "resources"), "4 CPUs for 1 GPUs"),
    ("aws", put({"CPU": 16}, TYPES, "gpu-spot-a10g", "resources"), "resources.GPU is 0"),
    ("aws", drop(TYPES, "gpu-spot-l4", "node_config", "InstanceMarketOptions"), "no spot marker"),
    (
        "aws",
        put({"MarketType": "spot"}, TYPES, "gpu-ondemand-l4", "node_config", "InstanceMarketOptions"),
        "its name lacks the word spot",
    ),
    ("aws", rename("gpu-ondemand-l4", "gpu-zz-l4"), "gpu-zz-l4 comes before gpu-spot-l4"),
    ("aws", put(99, TYPES, "gpu-ondemand-l4", "priority"), "gpu-ondemand-l4.priority is not below"),
    ("aws", drop(TYPES, "gpu-spot-l4", "node_config", "IamInstanceProfile"), "has no IamInstanceProfile"),
    (
        "aws",
        put({"Name": "fossilray-head"}, TYPES, "gpu-spot-l4", "node_config", "IamInstanceProfile"),
        "must not start machines",
    ),
    ("aws", put("m7i.4xlarge", TYPES, "gpu-spot-l4", "node_config", "InstanceType"), "no instance store"),
    ("aws", put(0, TYPES, "gpu-spot-l4", "node_config", "Instancetype"), "Unknown parameter"),
    ("aws", put("big", TYPES, "gpu-spot-l4", "node_config", "EbsOptimized"), "Invalid type"),
    ("aws", drop(TYPES, "gpu-spot-l4", "node_config", "SecurityGroupIds"), "port 22 to the whole world"),
    ("aws", drop(TYPES, "head", "node_config", "MetadataOptions"), "HttpTokens"),
    ("aws", drop(TYPES, "head", "node_config", "ImageId"), "head.ImageId is None"),
    ("aws", put(0, "idle_timeout_minutes"), "idle_timeout_minutes is 0"),
    ("aws", put(True, "provider", "cache_stopped_nodes"), "cache_stopped_nodes"),
    ("aws", put({"aws_access_key_id": "x"}, "provider", "aws_credentials"), "holds credentials"),
    ("aws", put(["export AWS_SECRET_ACCESS_KEY=x"], "initialization_commands"), "holds an AWS key"),
    ("aws", put(["export RAY_AUTH_TOKEN=0123"], "initialization_commands"), "holds a Ray token"),
    (
        "aws",
        put({"IpPermissions": [{"FromPort": 8265}]}, "provider", "security_group"),
        "security_group opens ports",
    ),
    ("aws", reword("head_start_ray_commands", "127.0.0.1", "0.0.0.0"), "--dashboard-host is 0.0.0.0"),
    ("aws", reword("head_start_ray_commands", "--disable-usage-stats", ""), "--disable-usage-stats"),
    ("aws", reword("worker_start_ray_commands", "RAY_USAGE_STATS_ENABLED=0", ""), "worker: RAY_USAGE_STATS"),
    ("aws", reword("worker_start_ray_commands", "RAY_AUTH_MODE=token", ""), "worker: RAY_AUTH_MODE=token"),
    ("aws", reword("worker_start_ray_commands", "134217728", "34359738368"), "worker: give --object-store"),
    ("aws", drop("head_start_ray_commands"), "head: --dashboard-host is 0.0.0.0"),
    ("aws", drop("file_mounts"), "auth_token"),
    ("aws", reword("setup_commands", "--require-hashes", ""), "pins no versions"),
    ("aws", drop("worker_setup_commands"), "scratch.sh"),
    ("gcp", put("SPOT", TYPES, "head", "node_config", "scheduling"), "'SPOT' is not of type 'object'"),
    ("gcp", put({"provisioningModel": "CHEAP"}, TYPES, "gpu-spot-l4", "node_config", "scheduling"), "CHEAP"),
    ("gcp", put("g2", TYPES, "gpu-spot-l4", "node_config", "machinetype"), "machinetype"),
    ("gcp", put([], TYPES, "gpu-spot-l4", "node_config", "disks"), "no disk of type SCRATCH"),
    ("gcp", drop(TYPES, "gpu-spot-l4", "node_config", "serviceAccounts"), "has no serviceAccounts"),
    ("gcp", drop(TYPES, "head", "node_config", "networkInterfaces"), "has no networkInterfaces"),
    ("gcp", put("europe-west4-a", "provider", "availability_zone"), "is not in"),
    ("gcp", put({"type": "service_account"}, "provider", "gcp_credentials"), "holds credentials"),
    ("aws", drop("setup_commands"), "pip install -U"),
    ("aws", put([], TYPES), "Ray refuses it"),
]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_shipped_files_have_no_mistake(cloud: str) -> None:
    assert mistakes(launcher_file(cloud)) == []


@pytest.mark.parametrize(("cloud", "plant", "named"), PLANTED, ids=[named for _, _, named in PLANTED])
def test_a_planted_mistake_is_named(cloud: str, plant: Callable[[dict[str, Any]], None], named: str) -> None:
    config = launcher_file(cloud)
    plant(config)
    found = mistakes(config)
    assert any(named in mistake for mistake in found), found


def test_an_image_family_is_refused() -> None:
    config = launcher_file("gcp")
    node(config, "head")["disks"][0]["initializeParams"]["sourceImage"] = "projects/p/global/images/family/f"
    assert any("image family" in mistake for mistake in mistakes(config))


def test_the_command_lists_what_is_left_to_fill_in(tmp_path: Path) -> None:
    filled = tmp_path / "aws.yaml"
    text = (CLUSTER / "aws.yaml").read_text(encoding="utf-8")
    filled.write_text(text.replace("REPLACE-ME", "1"), encoding="utf-8")
    completed = run_check("--ready", str(CLUSTER / "aws.yaml"))
    assert completed.returncode == 1
    assert "to fill in: ami-REPLACE-ME" in completed.stdout
    assert run_check("--ready", str(filled)).returncode == 0
    assert run_check(str(CLUSTER / "run.yaml")).returncode == 1


def run_check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CLUSTER / "check.py"), *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("cloud", CLOUDS)
def test_rays_autoscaler_brings_spot_machines_first_and_on_demand_ones_when_none_is_left(cloud: str) -> None:
    from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for

    config = launcher_file(cloud)
    types = config["available_node_types"]
    types["gpu-ondemand-l4"]["max_workers"] = 2
    spot = sum(kind["max_workers"] for name, kind in types.items() if "spot" in name)
    scorer = functools.partial(
        _default_utilization_scorer, node_availability_summary=NodeAvailabilitySummary({})
    )
    workers = load_config(CLUSTER / "run.yaml", []).workers
    share = {"CPU": workers.cpus_per_worker, "GPU": workers.gpus_per_worker}
    for machines in (1, spot, spot + 1):
        brought, left = get_nodes_for(types, {"head": 1}, "head", 99, [share] * 2 * machines, scorer)
        assert not left
        assert sum(brought.values()) == machines
        assert brought.get("gpu-ondemand-l4", 0) == machines - min(machines, spot)
        assert brought.get("head", 0) == 0


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("part", ["head", "worker"])
def test_rays_command_line_knows_every_option_of_the_start_commands(cloud: str, part: str) -> None:
    from ray.scripts.scripts import start

    last = launcher_file(cloud)[f"{part}_start_ray_commands"][-1]
    environment, _, words = last.partition("ray start ")
    given = start.make_context("start", words.replace("$RAY_HEAD_IP", "10.0.0.1").split()).params
    assert given["head"] == (part == "head")
    assert given["object_store_memory"] == 128 * 2**20
    assert given["disable_usage_stats"] == (part == "head")
    assert "RAY_AUTH_MODE=token" in environment


def test_a_group_without_gpus_is_named_accordingly() -> None:
    config = launcher_file("aws")
    config[TYPES]["cpu-spot"] = {**config[TYPES]["gpu-spot-l4"], "resources": {"CPU": 16}}
    assert mistakes(config) == []


def test_the_configuration_fits_the_machines() -> None:
    config = load_config(CLUSTER / "run.yaml", [])
    assert config.slides.scratch == "/scratch"
    assert config.workers.memory_gb is not None
    for cloud in CLOUDS:
        for name, kind in launcher_file(cloud)["available_node_types"].items():
            if name == "head":
                continue
            resources, machine = kind["resources"], kind["node_config"]
            workers = int(resources["GPU"] / config.workers.gpus_per_worker)
            assert workers * config.workers.cpus_per_worker <= resources["CPU"]
            size = LOCAL_DISK_GB[machine.get("InstanceType") or machine["machineType"]]
            assert workers * config.slides.scratch_gb < size
            assert workers * config.workers.memory_gb < MEMORY_GB


class TestScratch:
    """scratch.sh, with commands in the path that only log their arguments."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Callable[..., tuple[list[str], str]]:
        log, stubs = tmp_path / "log", tmp_path / "bin"
        stubs.mkdir()
        for name in ("sudo", "mountpoint"):
            (stubs / name).write_text(
                '#!/bin/sh\n[ "$1" = "-q" ] && { [ "$2" = "$MOUNTED" ]; exit; }\necho "$@" >> ' + f"{log}\n"
            )
            (stubs / name).chmod(0o755)

        def run(mounted: str = "", *disks: str) -> tuple[list[str], str]:
            links = tmp_path / "by-id"
            links.mkdir()
            for number, name in enumerate(disks):
                device = tmp_path / f"nvme{name.rpartition('_')[2] or number}"
                device.touch()
                (links / name).symlink_to(device)
            done = subprocess.run(
                ["bash", str(CLUSTER / "node" / "scratch.sh"), "/scratch", str(links)],
                env={"PATH": f"{stubs}:/usr/bin:/bin", "MOUNTED": mounted},
                capture_output=True,
                text=True,
                check=True,
            )
            commands = log.read_text().replace(f"{tmp_path}/", "").splitlines() if log.exists() else []
            return commands, done.stdout + done.stderr

        return run

    def test_one_disk_under_two_names_is_formatted_and_mounted_once(
        self, run: Callable[..., tuple[list[str], str]]
    ) -> None:
        name = "nvme-Amazon_EC2_NVMe_Instance_Storage_AWS1"
        commands, _ = run(
            "", name, f"{name}-ns-1_AWS1", f"{name}-part1", "nvme-Amazon_Elastic_Block_Store_vol0"
        )
        assert commands[:3] == [
            "mkdir -p /scratch",
            "mkfs.ext4 -q -m 0 -E lazy_itable_init=1,nodiscard nvmeAWS1",
            "mount -o noatime nvmeAWS1 /scratch",
        ]
        assert commands[3].startswith("chown ")

    def test_several_disks_become_one(self, run: Callable[..., tuple[list[str], str]]) -> None:
        commands, output = run("", "google-local-nvme-ssd-0", "google-local-nvme-ssd-1")
        assert commands[1].startswith("mdadm --create /dev/md0 --run --level=0 --raid-devices=2 ")
        assert "mount -o noatime /dev/md0 /scratch" in commands
        assert "scratch: /scratch is" in output

    def test_what_the_image_mounted_is_used(self, run: Callable[..., tuple[list[str], str]]) -> None:
        commands, _ = run("/opt/dlami/nvme", "nvme-Amazon_EC2_NVMe_Instance_Storage_AWS1")
        assert "mount --bind /opt/dlami/nvme /scratch" in commands
        assert not any("mkfs" in line for line in commands)

    def test_a_second_call_changes_nothing(self, run: Callable[..., tuple[list[str], str]]) -> None:
        assert run("/scratch", "google-local-nvme-ssd-0")[0] == []

    def test_a_missing_disk_is_reported(self, run: Callable[..., tuple[list[str], str]]) -> None:
        commands, output = run()
        assert "root disk" in output
        assert not any("mkfs" in line for line in commands)
