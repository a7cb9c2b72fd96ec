#!/usr/bin/env bash
# Build the image's file system without a container engine, and run fossilray in it as an unprivileged user.
#
#   sudo deploy/prove_install.sh FOLDER [gpu|cpu] [LOCK]
#
# The same install.sh as in the Dockerfile, into FOLDER/opt/fossilray, then what the image is for: `fossilray doctor`
# and a demo of one slide by a user who may write to one temporary folder alone and sees no other process. It does not
# prove the base image, its Debian packages, or a GPU. FOLDER needs 12 GB (gpu) and can be deleted afterwards. PYTHON
# must be one that every user may run (not below a user's home).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?usage: $0 FOLDER [gpu|cpu] [LOCK]}
variant=${2:-gpu}
lock=${3:-cluster}
prefix=$folder/opt/fossilray
user=65532 # of no account: no entry in /etc/passwd, as `runAsUser` in Kubernetes may have it

main() {
    mkdir -p "$folder/opt"
    timed "dependencies ($variant, $lock)" "$here/install.sh" dependencies "$prefix" "$variant" "$lock"
    timed "wheel" "$prefix/bin/pip" wheel --quiet --no-deps --wheel-dir "$folder/dist" "$here/.."
    timed "package" "$here/install.sh" package "$prefix" "$folder"/dist/fossilray-*.whl
    cp -r "$here/../pipelines" "$here/image" "$prefix/"
    echo "size: $(du -sm "$prefix" | cut -f1) MB in $(find "$prefix" -type f | wc -l) files"
    du -sm "$prefix"/lib/python3*/site-packages/* | sort -rn | head -12
    mkdir -p "$folder/tmp" && chown "$user:$user" "$folder/tmp"
    timed "doctor" as_user fossilray doctor
    timed "demo" as_user fossilray demo --slides 1 --size 4096 "$folder/tmp/demo"
    timed "health" as_user python "$prefix/image/healthcheck.py"
    echo "proven: $prefix runs as user $user, who cannot write to it"
}

timed() {
    local subject=$1 start=$SECONDS
    shift
    "$@"
    echo "== $subject: $((SECONDS - start)) s"
}

# The environment that the Dockerfile sets, and nothing else of the caller's.
as_user() {
    (cd "$folder/tmp" && unshare --fork --pid --mount-proc \
        setpriv --reuid="$user" --regid="$user" --clear-groups --no-new-privs \
        env --ignore-environment PATH="$prefix/bin:/usr/bin:/bin" HOME="$folder/tmp" TMPDIR="$folder/tmp" \
        PYTHONDONTWRITEBYTECODE=1 RAY_USAGE_STATS_ENABLED=0 "$@")
}

main
