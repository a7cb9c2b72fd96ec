"""Write the lock files of this folder: every package that fossilray needs, at one version, with hashes of its files.

    pip install uv
    python requirements/lock.py            # keep the versions that still fit pyproject.toml
    python requirements/lock.py --upgrade  # take the newest of everything; then run the tests

`constraints.txt` is resolved first, over all extras, without hashes. Each lock is resolved under it, so that all files
agree on every version. Hashes cover the files of all platforms, versions those of
Linux and macOS (`tool.uv.environments` of pyproject.toml), Python 3.11 to 3.14.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parent / "pyproject.toml"
BUILD = ("setuptools",)
"""Needed to build fossilray itself; locked so that the build needs no isolated environment with unlocked packages."""
CLUSTER = ("boto3", "google-api-python-client", "opencv-python-headless")
"""Needed on a cluster alone: Ray's providers of machines, and the OpenCV that needs no screen."""
LOCKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "run.txt": (("serve",), BUILD),
    "cluster.txt": (("cluster", "gcs"), (*BUILD, *CLUSTER)),
    "all.txt": (
        ("azure", "cluster", "export", "gcs", "learn", "onnx", "serve", "similar"),
        (*BUILD, *CLUSTER),
    ),
    "test.txt": (("test",), BUILD),
}
"""File name: extras of pyproject.toml, and packages besides."""
CONSTRAINTS = "constraints.txt"
EVERYWHERE = "pyyaml"
"""A package that every platform needs; the marker it is given is that of the platforms themselves."""


def main() -> None:
    """Resolve, then write all files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    upgrade = parser.parse_args().upgrade
    everything = [need for extras, besides in LOCKS.values() for need in requirements(extras, besides)]
    constraints = HERE / CONSTRAINTS
    compile_lock(sorted(set(everything)), constraints, upgrade=upgrade)
    for name, (extras, besides) in LOCKS.items():
        compile_lock(requirements(extras, besides), HERE / name, constraints=constraints)


def requirements(extras: tuple[str, ...], besides: tuple[str, ...]) -> list[str]:
    """The dependencies of pyproject.toml with these extras, and packages besides."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    needs = list(project["dependencies"])
    waiting = list(extras)
    for extra in waiting:
        for need in project["optional-dependencies"][extra]:
            # An extra that is made of others names this project.
            if need.startswith(f"{project['name']}["):
                waiting += need.partition("[")[2].rstrip("]").split(",")
            else:
                needs.append(need)
    return [*needs, *besides]


def compile_lock(
    needs: list[str], lock: Path, *, constraints: Path | None = None, upgrade: bool = False
) -> None:
    """Write one file with `uv pip compile`; hashed if it is resolved under constraints."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.in"
        wanted.write_text("\n".join(needs) + "\n", encoding="utf-8")
        command = ["uv", "pip", "compile", str(wanted), "--universal"]
        command += ["--python-version", "3.11", "--no-header", "--no-annotate", "--output-file", str(lock)]
        command += ["--upgrade"] if upgrade or constraints else []
        command += ["--generate-hashes", "--constraint", str(constraints)] if constraints else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=PROJECT.parent)
    text = lock.read_text(encoding="utf-8")
    # On a platform that is not resolved for, pip must fail by name and not find that nothing is required.
    everywhere = re.search(rf"^{EVERYWHERE}==\S+( ; .*?)(?: \\)?$", text, re.MULTILINE)
    if everywhere is not None:
        text = text.replace(everywhere[1], "")
    lock.write_text(f"# Written by requirements/lock.py.\n{text}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
