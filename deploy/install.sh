#!/usr/bin/env bash
# What the Dockerfile runs, and prove_install.sh where there is no container engine: the environment under PREFIX.
#
#   deploy/install.sh dependencies PREFIX VARIANT LOCK   a virtual environment with everything fossilray imports
#   deploy/install.sh package PREFIX WHEEL               fossilray itself, a few MB: code changes, torch does not
#
# VARIANT: gpu (torch from PyPI with its CUDA libraries) or cpu (from PyTorch's own index, a tenth of the size).
# LOCK: a lock file of requirements/ without its ending: run, cluster or all. Every file is checked against its hash,
# but for the CPU builds of torch, whose index has other files than PyPI: there only the version is fixed.
# PYTHON: the interpreter (python3); PYTHON_CPU_INDEX: another index for torch's CPU wheels.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
locks=$here/../requirements
cpu_index=${PYTHON_CPU_INDEX:-https://download.pytorch.org/whl/cpu}

main() {
    case ${1:-} in
    dependencies) install_dependencies "$2" "$3" "$4" ;;
    package) "$2/bin/pip" install --no-deps --no-cache-dir "$3" ;;
    *) echo "usage: $0 dependencies PREFIX VARIANT LOCK | package PREFIX WHEEL" >&2 && exit 2 ;;
    esac
}

install_dependencies() {
    local prefix=$1 variant=$2 lock=$locks/$3.txt pip
    [[ -f $lock ]] || { echo "there is no $lock; LOCK is run, cluster or all" >&2 && exit 2; }
    "${PYTHON:-python3}" -m venv "$prefix"
    pip=("$prefix/bin/pip" install --no-cache-dir --no-compile --no-deps)
    # opencv-python needs a screen's libraries (libGL, X11); opencv-python-headless is the same code.
    case $variant in
    gpu) leave_out "$lock" opencv-python >"$prefix/requirements.txt" ;;
    cpu)
        "${pip[@]}" --index-url "$cpu_index" "$(pin_of "$lock" torch)" "$(pin_of "$lock" torchvision)"
        leave_out "$lock" opencv-python torch torchvision triton 'nvidia-.*' 'cuda-.*' >"$prefix/requirements.txt"
        ;;
    *) echo "VARIANT is gpu or cpu, not '$variant'" >&2 && exit 2 ;;
    esac
    "${pip[@]}" --require-hashes --requirement "$prefix/requirements.txt"
    drop_unused "$prefix"
}

# A lock file without some packages (regular expressions): a package is its line and the hashes that follow it.
leave_out() {
    local lock=$1
    shift
    awk -v names="^($(IFS='|' && echo "$*"))$" '
        /^[a-z0-9]/ { split($0, part, "=="); dropped = part[1] ~ names }
        !dropped' "$lock"
}

# `torch==2.1`, which also accepts the build `2.1+cpu`.
pin_of() {
    sed -n "s/^\($2==[^ ]*\).*/\1/p" "$1" | head -n 1
}

# Headers, static libraries and torch's tests: nothing here compiles (so `workers.compile` is for other installations).
drop_unused() {
    local site
    site=$(echo "$1"/lib/python3*/site-packages)
    rm -rf "$site"/{torch,pyarrow,numpy/_core}/include "$site"/nvidia/*/include "$site"/torch/test "$site"/torch/bin/test_*
    find "$site" -name '*.a' -delete
}

main "$@"
