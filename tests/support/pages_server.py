"""Serves a run for a test that kills it: prints its address, commits rounds every so often."""

from __future__ import annotations

import sys
from pathlib import Path

from fossilray.serve import server
from fossilray.store import open_run

if __name__ == "__main__":
    run, labels, commit_every_s, port = sys.argv[1:]
    server.serve_runs(
        [open_run(run)],
        host="127.0.0.1",
        port=int(port),
        name="ada",
        labels=Path(labels),
        commit_every_s=float(commit_every_s),
        ready=lambda address: print(address, flush=True),
    )
