"""The cluster to rehearse on, started as its user starts it: with a token, lost nodes and Ctrl-C."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.slides_on_disk import write_slide

from fossilray.store import RunStore

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "detector.kind=classical",
    "embedder.weights=none",
    "crops.size_px=64",
    "workers.count=2",
    "workers.cpus_per_worker=0.4",
    "slides.read_threads=1",
)


class Rehearsal:
    """A process of cluster/local.py, with a home folder of its own for the token."""

    def __init__(self, home: Path, *options: str) -> None:
        home.mkdir(exist_ok=True)
        self.environment = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token"}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "cluster" / "local.py"), *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._before: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def output_after(self, word: str) -> str:
        """What follows a word of the next line that has it."""
        while True:
            line = self._lines.get(timeout=120)
            assert line, "cluster/local.py ended: " + "".join(self._before)
            self._before.append(line)
            if word in line:
                return line.partition(word)[2].strip()

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")


@pytest.fixture
def rehearsal(tmp_path: Path) -> Iterator[Rehearsal]:
    rehearsal = Rehearsal(tmp_path / "home", "--nodes", "2")
    yield rehearsal
    if rehearsal.process.poll() is None:
        rehearsal.process.terminate()
        rehearsal.process.wait(timeout=60)


@pytest.mark.slow
def test_a_run_on_the_local_cluster_needs_its_token_and_outlives_a_node(
    rehearsal: Rehearsal, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        write_slide(tmp_path / "slides" / f"{name}.mrxs")
    address = rehearsal.output_after("address ")
    token = tmp_path / "home" / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0
    assert connect_without_token(address).returncode != 0

    rehearsal.send_signal(signal.SIGUSR1)
    assert rehearsal.output_after("a node is lost: ") == "1"
    rehearsal.send_signal(signal.SIGUSR2)
    assert rehearsal.output_after("a node joined: ") == "2"

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from fossilray.cli.main import main; main()",
            "process",
            str(tmp_path / "slides"),
        ]
        + ["--run", str(tmp_path / "run"), "--address", address]
        + [word for setting in SETTINGS for word in ("--set", setting)],
        env=rehearsal.environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert RunStore.open(str(tmp_path / "run")).committed() == {"a", "b", "c"}

    rehearsal.send_signal(signal.SIGINT)
    rehearsal.output_after("stopped")
    assert rehearsal.process.wait(timeout=60) == 0


def connect_without_token(address: str) -> subprocess.CompletedProcess[bytes]:
    """A client of Ray without the token, which lists the nodes."""
    code = f"from ray._raylet import GcsClient; print(GcsClient({address!r}).get_all_node_info())"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_gcs_rpc_server_connect_timeout_s": "1"},
        capture_output=True,
        timeout=100,
        check=False,
    )
