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
TRIES = 4
"""A raylet whose agents take half a minute to start, on a busy machine, gives itself up."""


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
    def log(self) -> str:
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
        self.nodes: list[Node] = []
        self._head = head

    def __enter__(self) -> Self:
        try:
            for _ in range(TRIES):
                self.nodes = [self._start(self._head)]
                if self._head_responds():
                    return self
            raise AssertionError(self.nodes[0].log + self._last_words())
        except BaseException:
            self._end()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def add(self, *, cpus: int) -> Node:
        """A further node, once the head counts it."""
        before = self._alive()
        for _ in range(TRIES):
            node = self._start([f"--address={self.gcs}", f"--num-cpus={cpus}"])
            self.nodes.append(node)
            while node.is_alive():
                # A count would not do: of a node that was killed the head learns only later.
                if not self._alive() <= before:
                    return node
                time.sleep(0.3)
        raise AssertionError(self.nodes[-1].log + self._last_words())

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

    def _head_responds(self) -> bool:
        """Whether it came up; waits until it has, or has given up."""
        while self.nodes[0].is_alive():
            with contextlib.suppress(requests.RequestException):
                jobs = requests.get(f"{self.address}/api/jobs/", headers=self._headers, timeout=5)
                if jobs.ok and self._alive():
                    return True
            time.sleep(0.2)
        self.nodes[0].kill()
        return False

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
