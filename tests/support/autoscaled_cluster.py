"""A cluster on one machine whose nodes are brought and taken by a real autoscaler of Ray, through its fake provider."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

HEAD_TYPE = "ray.head.default"
IDLE_S = 3.0
"""The autoscaler takes a node that has been idle for so long."""
NODE_BYTES = 80 * 2**20
"""Object store of each node."""


class AutoscaledCluster:
    """A head that does no work, and an autoscaler that may bring nodes of these types.

    Ray's own AutoscalingCluster is the model. It cannot be used: the wheel lacks its example.yaml, it takes Ray's
    default ports, and it begins and ends with `ray stop --force`, which ends every Ray of the machine.
    """

    def __init__(self, node_types: dict[str, dict[str, float]], *, most: int, v2: bool = False) -> None:
        port = _free_port()
        self.address = f"{ray.util.get_node_ip_address()}:{port}"
        # Sockets lie below it, and their paths must be short.
        self._folder = tempfile.TemporaryDirectory(prefix="ray-as-", dir="/tmp", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        config = folder / "autoscaling.yaml"
        config.write_text(yaml.safe_dump(_cluster_config(node_types, self.address, most=most)))
        self._log = folder / "head.log"
        self._command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"),
            *(f"--temp-dir={folder}", "--num-cpus=0", "--num-gpus=0", f"--object-store-memory={NODE_BYTES}"),
            *("--include-dashboard=false", "--disable-usage-stats", f"--autoscaling-config={config}"),
        ]
        self._environment = {
            **os.environ,
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
        if v2:
            self._environment |= {
                "RAY_enable_autoscaler_v2": "1",
                "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            }

    def __enter__(self) -> AutoscaledCluster:
        # Ray gives a node 30 s to start, which a busy machine may not meet.
        for _ in range(3):
            with self._log.open("wb") as log:
                self._head = subprocess.Popen(
                    self._command, env=self._environment, stdout=log, stderr=subprocess.STDOUT
                )
            # Who connects before the servers listen waits for most of a minute.
            while self._head.poll() is None and b"runtime started" not in self._log.read_bytes():
                time.sleep(0.1)
            if self._head.poll() is None:
                return self
        self._folder.cleanup()
        raise AssertionError("the head did not start")

    def __exit__(self, *error: object) -> None:
        ray.shutdown()
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=20)
        self._head.wait(timeout=20)
        self._folder.cleanup()

    def kill_node(self, node_id: str) -> None:
        """One node gone from one moment to the next, as a spot machine goes."""
        (raylet,) = [
            process
            for process in self._processes()
            if process.name() == "raylet" and process.environ().get("RAY_CLOUD_INSTANCE_ID") == node_id
        ]
        for process in [raylet, *raylet.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _processes(self) -> list[psutil.Process]:
        """Those the head started, and those that outlived who started them: they name the folder."""
        processes = {self._head.pid}
        with contextlib.suppress(psutil.NoSuchProcess):
            processes |= {child.pid for child in psutil.Process(self._head.pid).children(recursive=True)}
        for process in psutil.process_iter(["cmdline"]):
            if any(self._folder.name in word for word in process.info["cmdline"] or ()):
                processes.add(process.pid)
        return [psutil.Process(pid) for pid in processes if psutil.pid_exists(pid)]


def _cluster_config(node_types: dict[str, dict[str, float]], address: str, *, most: int) -> dict[str, Any]:
    types: dict[str, Any] = {
        name: {
            "resources": {**resources, "object_store_memory": NODE_BYTES},
            "node_config": {},
            "min_workers": 0,
            "max_workers": most,
        }
        for name, resources in node_types.items()
    }
    types[HEAD_TYPE] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "fake",
        "max_workers": most,
        "provider": {
            # As an external one, since version 2 reads defaults that the wheel lacks for the type fake_multinode.
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": types,
        "head_node_type": HEAD_TYPE,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": IDLE_S / 60,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
