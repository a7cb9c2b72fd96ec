"""A cluster of real `ray start` processes on this machine: a head that does no work, its job server, and nodes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

BIN = Path(sys.executable).parent
OBJECT_STORE_BYTES = 80 * 2**20


class Node:
    """One `ray start --block` with all it started, in a process group of its own."""

    def __init__(self, words: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as stream:
            self._process = subprocess.Popen(
                [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", *words],
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """As a machine goes: everything at once, without a word."""
        for pid in _session(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(timeout=30)

    def end(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        self.kill()


class RayNodes:
    """A head with 0 CPUs and a job server; `add` starts further nodes."""

    def __init__(self, **variables: str) -> None:
        # Sockets lie below it, whose names must stay short.
        self._folder = Path(tempfile.mkdtemp(prefix="fr"))
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("RAY_ADDRESS", "PYTEST_CURRENT_TEST")
        }
        # A busy machine takes its time, and Ray gives up after a minute.
        self._environment |= {
            "RAY_raylet_start_wait_time_s": "240",
            "RAY_agent_register_timeout_ms": "240000",
        }
        self._environment |= {"PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled", **variables}
        token = variables.get("RAY_AUTH_TOKEN")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        ports = _free_ports(3)
        self.gcs, self.address = f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
        head = ["--head", "--num-cpus=0", f"--port={ports[0]}", f"--dashboard-port={ports[1]}"]
        head += [
            f"--ray-client-server-port={ports[2]}",
            f"--temp-dir={self._folder}",
            "--include-dashboard=true",
        ]
        self.nodes = [self._start(head)]

    def __enter__(self) -> Self:
        try:
            self._wait_for_head()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def add(self, *, cpus: int) -> Node:
        """A further node, once the head counts it."""
        before = self._alive()
        node = self._start([f"--address={self.gcs}", f"--num-cpus={cpus}"])
        self.nodes.append(node)
        deadline_s = time.monotonic() + 300
        # A count would not do: of a node that was killed the head learns only later.
        while self._alive() <= before:
            assert node.is_alive(), node.said + self._last_words()
            assert time.monotonic() < deadline_s, node.said + self._last_words()
            time.sleep(0.3)
        return node

    def _last_words(self) -> str:
        """The ends of what raylets and agents have written, for a node that did not come up."""
        logs = self._folder.glob("session_latest/logs/*")
        named = [
            path for path in logs if path.name.startswith(("raylet", "dashboard_agent", "runtime_env_agent"))
        ]
        return "".join(f"\n== {path.name}\n{path.read_text()[-1500:]}" for path in sorted(named))

    def _alive(self) -> set[str]:
        """The ids of nodes that the head takes for alive."""
        answer = requests.get(f"{self.address}/nodes?view=summary", headers=self._headers, timeout=30).json()
        nodes = [one["raylet"] for one in answer["data"]["summary"]]
        return {node["nodeId"] for node in nodes if node.get("state") == "ALIVE"}

    def _start(self, words: list[str]) -> Node:
        agent, grpc, metrics, runtime = _free_ports(4)
        words = [*words, "--node-ip-address=127.0.0.1", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        words += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}"]
        words += [f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={runtime}"]
        return Node(words, self._environment, self._folder / f"node-{agent}.log")

    def _wait_for_head(self) -> None:
        deadline_s = time.monotonic() + 300
        while time.monotonic() < deadline_s:
            assert self.nodes[0].is_alive(), self.nodes[0].said
            with contextlib.suppress(requests.RequestException):
                jobs = requests.get(f"{self.address}/api/jobs/", headers=self._headers, timeout=5)
                if jobs.ok and self._alive():
                    return
            time.sleep(0.2)
        raise AssertionError(self.nodes[0].said)

    def _end(self) -> None:
        for node in reversed(self.nodes):
            node.end()
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _session(leader: int) -> list[int]:
    """Every process of a session: Ray gives some of them groups of their own."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader:
                    found.append(int(folder.name))
    return found
