"""A Ray cluster of several nodes on this machine, to rehearse on: `python cluster/local.py --nodes 3`.

A head that does no work and nodes that do, each with servers of its own, as on several machines. It prints an address
for `fossilray process --address`, and lives until Ctrl-C or SIGTERM. Meanwhile `kill -USR1 PID` takes the youngest node
away without a warning, as a cloud takes back a spot machine, and `kill -USR2 PID` brings a new one.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

OBJECT_STORE_BYTES = 80 * 2**20
"""Ray's least is 75 MiB; some hundred bytes a slide pass through it."""
ENDS = (signal.SIGINT, signal.SIGTERM)
NODE_LOST, NODE_ADDED = signal.SIGUSR1, signal.SIGUSR2


def main() -> None:
    """Start the cluster, print its address, and act on signals until one of ENDS arrives."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=3, help="nodes that work, beside the head")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs that each of them claims to have")
    parser.add_argument(
        "--gpus", type=int, default=0, help="GPUs that each claims to have; none need be there"
    )
    parser.add_argument("--dashboard", action="store_true", help="dashboard and job server, on the loopback")
    given = parser.parse_args()

    # Signals wait in a queue: acting on one takes a while, and Ray is not to be entered from a handler.
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (*ENDS, NODE_LOST, NODE_ADDED):
        signal.signal(number, lambda got, _frame: signals.put(got))
    _protect()
    # Ray's sockets live below its folder, and their paths must stay short.
    with tempfile.TemporaryDirectory(prefix="fossilray-cluster-", dir="/tmp") as folder:
        rehearse(signals, given, Path(folder))


def rehearse(signals: queue.SimpleQueue[int], given: argparse.Namespace, folder: Path) -> None:
    """Run a cluster with the given options until one of ENDS arrives."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "num_gpus": 0,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": given.dashboard,
            "dashboard_host": "127.0.0.1",
            "temp_dir": str(folder),
        },
    )
    nodes: list[Any] = []
    try:
        for _ in range(given.nodes):
            nodes.append(_node(cluster, given))
        _print_line(f"address {cluster.address}")
        if os.environ["RAY_AUTH_MODE"] == "token":
            _print_line("set RAY_AUTH_MODE=token for what joins it; the token is in ~/.ray/auth_token")
        if given.dashboard:
            _print_line(f"jobs http://{cluster.head_node.address_info['webui_url']}")
        _print_line(f"process {os.getpid()}: -USR1 takes a node away, -USR2 brings one, Ctrl-C ends")
        while (number := signals.get()) not in ENDS:
            if number == NODE_ADDED:
                nodes.append(_node(cluster, given))
                _print_line(f"a node joined: {len(nodes)}")
            elif nodes:
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                _print_line(f"a node is lost: {len(nodes)}")
            else:
                _print_line("no node is left to lose")
    finally:
        cluster.shutdown()
        _print_line("stopped")


def _protect() -> None:
    """Require a token: Ray's servers listen on every interface, and any client that reaches them can run code."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled

    ensure_token_if_auth_enabled(create_token_if_missing=True)
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file():
        token.chmod(0o600)


def _node(cluster: Any, given: argparse.Namespace) -> Any:
    return cluster.add_node(num_cpus=given.cpus, num_gpus=given.gpus, object_store_memory=OBJECT_STORE_BYTES)


def _print_line(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
