#!/usr/bin/env bash
# What `ray up` copies to each machine: the wheel of this checkout, and what its tests passed with, with hashes.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -f cluster/node/fossilray-*.whl
"${PYTHON:-python3}" -m pip wheel --quiet --no-deps --wheel-dir cluster/node .
cp requirements/cluster.txt cluster/node/requirements.txt
ls -l cluster/node
