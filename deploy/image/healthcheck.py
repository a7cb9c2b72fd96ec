"""Exit code 0 if this container is well: its Ray node responds, or it runs none and fossilray can be imported.

Ray's own agent reports for the raylet beside it; in a container that runs one command and no Ray node, the engine
knows by itself that the command still runs.
"""

from __future__ import annotations

import importlib.util
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

AGENT = "http://127.0.0.1:{port}/api/local_raylet_healthz"
AGENT_PORT = "52365"
"""Port on which Ray's agent listens unless `ray start` is given another."""
TIMEOUT_S = 5.0


def main() -> int:
    """The exit code, after one line with the reason if it is not 0."""
    if not list(raylets()):
        return 0 if importlib.util.find_spec("fossilray") else _ill("fossilray is not installed here")
    port = sys.argv[1] if len(sys.argv) > 1 else AGENT_PORT
    try:
        # An address on this machine, so a proxy from the environment must not be used.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(AGENT.format(port=port), timeout=TIMEOUT_S) as response:
            text = response.read(1000).decode(errors="replace")
    except OSError as error:
        return _ill(f"the agent of this Ray node does not respond on port {port}: {error}")
    return 0 if "success" in text else _ill(f"this Ray node is not well: {text}")


def raylets() -> Iterator[Path]:
    """Folders below /proc of the raylets that run in this container."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text(encoding="utf-8").strip() == "raylet":
                yield folder
        except OSError:  # ended meanwhile
            continue


def _ill(reason: str) -> int:
    print(reason)
    return 1


if __name__ == "__main__":
    sys.exit(main())
