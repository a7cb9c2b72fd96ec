"""A site-packages folder with some distributions and what they require, and nothing else: no fossilray."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
CODEC = ROOT / "fossilray_jpeg"


def make_bare_site(folder: Path) -> Path:
    """The folder, with the codec as an installed package and its dependencies as links to those of this Python."""
    folder.mkdir(parents=True)
    project = tomllib.loads((CODEC / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in sorted(with_requirements(project["dependencies"])):
        link_distribution(name, folder)
    (folder / "fossilray_jpeg").mkdir()
    for module in CODEC.glob("*.py"):
        (folder / "fossilray_jpeg" / module.name).symlink_to(module)
    installed = folder / f"fossilray_jpeg-{project['version']}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = project["entry-points"]["zarr.codecs"]
    (installed / "entry_points.txt").write_text(
        "[zarr.codecs]\n" + "".join(f"{name} = {where}\n" for name, where in points.items())
    )
    return folder


def with_requirements(requirements: list[str]) -> set[str]:
    """Names of distributions that these ask for, directly or not."""
    names: set[str] = set()
    waiting = list(requirements)
    while waiting:
        one = Requirement(waiting.pop())
        if one.name in names or (one.marker is not None and not one.marker.evaluate({"extra": ""})):
            continue
        names.add(one.name)
        waiting += metadata.requires(one.name) or []
    return names


def link_distribution(name: str, folder: Path) -> None:
    found = metadata.distribution(name)
    for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
        if not (folder / top).exists():
            (folder / top).symlink_to(Path(str(found.locate_file(top))))
