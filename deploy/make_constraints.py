"""Print `name==version` for all that fossilray needs, as it is installed where this runs.

    python -m pytest && python deploy/make_constraints.py > deploy/constraints.txt

Run it in the environment in which the tests have just passed: the image then holds what they passed with.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
EXTRAS = ("cluster", "export", "learn", "onnx", "similar")
BESIDES = ("setuptools",)
"""Not required by anything, but the wheel is built with it."""


def main() -> None:
    """Write the constraints to stdout."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--extras", nargs="*", default=list(EXTRAS))
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    needs = list(project["dependencies"])
    for extra in asked.parse_args().extras:
        needs += project["optional-dependencies"][extra]
    pins = pinned([Requirement(need) for need in needs])
    for name in BESIDES:
        pins[name] = metadata.version(name)
    # The image has the build of OpenCV that asks for no screen; both are released together.
    pins["opencv-python-headless"] = pins["opencv-python"]
    print("# Written by deploy/make_constraints.py; what the tests passed with.")
    for name in sorted(pins):
        print(f"{name}=={pins[name]}")


def pinned(needs: list[Requirement]) -> dict[str, str]:
    """Versions, by name, of these requirements and of all that they require in their turn."""
    pins: dict[str, str] = {}
    done: set[str] = set()
    todo = list(needs)
    while todo:
        need = todo.pop()
        name = canonicalize_name(need.name)
        if str(need) in done:
            continue
        done.add(str(need))
        try:
            # `2.1+cpu` is the same release as `2.1`, which every index has.
            pins[name] = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            print(f"{need} is not installed here, so not pinned", file=sys.stderr)
            continue
        for line in metadata.requires(name) or []:
            below = Requirement(line)
            extras = {"", *need.extras}
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(below)
    return pins


if __name__ == "__main__":
    main()
