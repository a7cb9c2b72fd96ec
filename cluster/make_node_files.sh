#!/usr/bin/env bash
# What `ray up` copies to each machine: the wheel of this checkout and the versions that its tests passed with.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -f cluster/node/fossilray-*.whl
"${PYTHON:-python3}" -m pip wheel --quiet --no-deps --wheel-dir cluster/node .
cp deploy/constraints.txt cluster/node/constraints.txt
ls -l cluster/node
