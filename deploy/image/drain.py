"""A pod's preStop hook: drain the pod's Ray node, then wait until its workers are gone or the time is up.

    python drain.py --seconds 90

Ray then starts nothing new here and the autoscaler requests a replacement at once, while a slide in progress
continues: it commits if it can, and is given to another worker if it cannot. A node without workers (the autoscaler
takes idle ones) goes at once. Exits 0 whatever happens, for a pod that is to end ends anyway; errors are printed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

REQUEST_S = 15
"""Most that the request itself may take: Ray's command starts Python and sends a request to the head."""
POLL_S = 0.5
SERVANTS = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""What a raylet runs that does no work of ours, by the titles Ray gives its processes."""


def main() -> int:
    """Drain, wait, and print one line for each node about how it ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, required=True, help="time until the node is gone")
    parser.add_argument("--node-id", help="of several raylets on one machine, the one meant (a rehearsal)")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    for pid, options in raylets():
        node = options.get("node_id", "")
        if arguments.node_id not in (None, node):
            continue
        drained = drain(node, options.get("gcs-address", ""), arguments.seconds)
        while drained and workers_of(pid) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        left = len(workers_of(pid))
        print(f"node {node[:8]}: {'drained' if drained else 'not drained'}, {left} workers left", flush=True)
    return 0


def raylets() -> Iterator[tuple[int, dict[str, str]]]:
    """Process id and options of each raylet that runs here."""
    for pid, words in processes():
        if words and Path(words[0]).name == "raylet":
            pairs = (word[2:].partition("=") for word in words[1:] if word.startswith("--"))
            yield pid, {name: value for name, _, value in pairs}


def drain(node: str, address: str, seconds: int) -> bool:
    """Whether the head knows now that this node will be gone in so many seconds."""
    # Ray beside this interpreter: a hook's PATH need not hold the environment.
    ray = shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"
    command = [ray, "drain-node", "--address", address, "--node-id", node]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "its pod is being ended"]
    command += ["--deadline-remaining-seconds", str(seconds)]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=REQUEST_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"ray drain-node did not run: {error}", flush=True)
        return False
    if completed.returncode:
        lines = completed.stderr.strip().splitlines() or ["no reason given"]
        print(f"ray drain-node failed: {lines[-1]}", flush=True)
    return completed.returncode == 0


def workers_of(raylet: int) -> list[int]:
    """Process ids of the raylet's children that hold or do work."""
    return [
        pid
        for pid, words in processes()
        if words
        and words[0].startswith("ray::")
        and not words[0].startswith(SERVANTS)
        and _parent(pid) == raylet
    ]


def processes() -> Iterator[tuple[int, list[str]]]:
    """Process id and command line of everything that runs here."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            yield (
                int(folder.name),
                (folder / "cmdline").read_text("utf-8", "replace").rstrip("\0").split("\0"),
            )
        except OSError:  # ended meanwhile
            continue


def _parent(pid: int) -> int:
    try:
        # The name in parentheses may hold spaces and parentheses itself.
        return int(Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
