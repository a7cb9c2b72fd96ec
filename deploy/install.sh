#!/usr/bin/env bash
# What the Dockerfile runs, and prove_install.sh where there is no container engine: the environment under PREFIX.
#
#   deploy/install.sh dependencies PREFIX VARIANT EXTRAS   a virtual environment with everything fossilray imports
#   deploy/install.sh package PREFIX WHEEL                 fossilray itself, a few MB: code changes, torch does not
#
# VARIANT: gpu (torch from PyPI with its CUDA libraries) or cpu (from PyTorch's own index, a tenth of the size).
# EXTRAS: extras of pyproject.toml, such as cluster or cluster,learn.
# PYTHON: the interpreter (python3); PYTHON_CPU_INDEX: another index for torch's CPU wheels.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
constraints=$here/constraints.txt
cpu_index=${PYTHON_CPU_INDEX:-https://download.pytorch.org/whl/cpu}

main() {
    case ${1:-} in
    dependencies) install_dependencies "$2" "$3" "$4" ;;
    package) "$2/bin/pip" install --no-deps --no-cache-dir "$3" ;;
    *) echo "usage: $0 dependencies PREFIX VARIANT EXTRAS | package PREFIX WHEEL" >&2 && exit 2 ;;
    esac
}

install_dependencies() {
    local prefix=$1 variant=$2 extras=$3 pip
    "${PYTHON:-python3}" -m venv "$prefix"
    pip=("$prefix/bin/pip" install --no-cache-dir --constraint "$constraints")
    "${pip[@]}" --upgrade setuptools
    case $variant in
    gpu) "${pip[@]}" torch torchvision ;;
    # A constraint `==2.1` accepts `2.1+cpu`, so the versions are the same and only the build differs.
    cpu) "${pip[@]}" --index-url "$cpu_index" torch torchvision ;;
    *) echo "VARIANT is gpu or cpu, not '$variant'" >&2 && exit 2 ;;
    esac
    list_dependencies "$extras" >"$prefix/requirements.txt"
    "${pip[@]}" --requirement "$prefix/requirements.txt"
    # ultralytics asks for opencv-python, which needs a screen's libraries (libGL, X11); the other one is the same code.
    "$prefix/bin/pip" uninstall --yes opencv-python
    "${pip[@]}" --no-deps opencv-python-headless
    drop_headers "$prefix"
}

# The dependencies of pyproject.toml with the chosen extras, one a line: they change less often than the code.
list_dependencies() {
    "${PYTHON:-python3}" - "$here/../pyproject.toml" "$1" <<'PY'
import sys, tomllib

project = tomllib.load(open(sys.argv[1], "rb"))["project"]
lines = list(project["dependencies"])
for extra in filter(None, sys.argv[2].split(",")):
    lines += project["optional-dependencies"][extra]
print("\n".join(lines))
PY
}

# Headers and static libraries: nothing in the image compiles (so `workers.compile` is for other installations).
drop_headers() {
    local site
    site=$(echo "$1"/lib/python3*/site-packages)
    rm -rf "$site"/{torch,pyarrow,numpy/_core}/include "$site"/nvidia/*/include
    find "$site" -name '*.a' -delete
}

main "$@"
