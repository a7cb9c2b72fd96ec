"""Imports go down only: the rooms of `fossilray/`, their floors, and what each may import (docs/architecture.md)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.static_checks import modules

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fossilray"
FLOORS = (
    ("core",),
    ("store", "models", "render", "synthetic"),
    ("slides", "labels"),
    ("processing", "training"),
    ("analysis", "evaluation"),
    ("jobs", "serve"),
    ("cli",),
)
"""From the bottom."""
MAY_IMPORT = {
    "core": "",
    "render": "core",
    "synthetic": "core",
    "models": "core",
    "store": "core",
    "labels": "core store models",
    "slides": "core store/files",
    "training": "core render store models labels synthetic",
    "processing": "core render store models slides synthetic/archive",
    "evaluation": "core render models labels training store/files",
    "analysis": (
        "core render store models slides/slide slides/identity slides/fields slides/file_kinds slides/properties "
        "slides/limits slides/clear_field labels/load labels/current labels/label labels/label_set labels/embed "
        "labels/taxonomy labels/occurrence labels/determinations labels/audit processing/inference "
        "processing/detection processing/crops training/curation"
    ),
    "jobs": "core store models slides processing training analysis/search",
    "serve": "core render store slides labels analysis/specimens analysis/identify analysis/stratigraphy",
    "cli": "core render store models slides labels processing training analysis evaluation jobs serve synthetic",
}
"""Rooms, or one sub-room or file of a room."""
ENGINES = {
    "ray": {"jobs"},
    "openslide": {"slides/slide_handle"},
    "ultralytics": {"models/detectors", "training/detector"},
    "zarr": {"store/arrays"},
    "duckdb": {"store/query", "cli/doctor"},
    "fastapi": {"serve"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
    "faiss": {"analysis/search"},
    "lightly": {"training/methods/lightly_modules"},
    "pytorch_metric_learning": {"training/methods"},
}
"""A library with a home: only modules below these paths import it."""
LIGHT = {"numpy", "pyarrow", "pydantic", "pydantic_core", "annotated_types", "yaml", "PIL", "rich"}
"""What core may load when it is imported, beside the standard library."""

Graph = Mapping[str, set[str]]


def test_every_package_is_a_room_and_nothing_lies_loose_beside_them() -> None:
    rooms = {name for floor in FLOORS for name in floor}
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == rooms
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}
    assert set(MAY_IMPORT) == rooms


def test_rooms_may_import_from_lower_floors_only() -> None:
    floor_of = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    for room, allowed in MAY_IMPORT.items():
        for other in allowed.split():
            assert floor_of[other.partition("/")[0]] < floor_of[room], (room, other)


def test_each_module_imports_what_its_room_may() -> None:
    strangers = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if not is_allowed(module, other)
    ]
    assert not strangers


@pytest.mark.parametrize("depth", [1, 2, 9], ids=["rooms", "sub-rooms", "files"])
def test_there_is_no_circle_of_imports(depth: int) -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for module, others in GRAPH.items():
        for other in others:
            above, below = shortened(module, depth), shortened(other, depth)
            if above != below:
                graph[above].add(below)
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        for below in sorted(graph[module]):
            visit(below, (*trail, module))
        done.add(module)

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_has_one_home(engine: str) -> None:
    homes = tuple(f"{home}{end}" for home in ENGINES[engine] for end in ("/", ".py"))
    users = [
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        if engine in {name.split(".")[0] for name in raw_imports(path)}
    ]
    assert users
    assert [user for user in users if not user.startswith(homes)] == []


def test_no_module_takes_a_private_name_of_another_room() -> None:
    taken = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules()
        for name in raw_imports(path) | attributes_of_modules(path)
        if name.startswith("fossilray.")
        and any(re.match(r"_(?!_)", part) for part in name.split("."))
        and name.split(".")[1] != room_of(path)
    ]
    assert not taken


def test_imports_are_absolute_and_name_a_room() -> None:
    """The public API is above every room, and its names are loaded out of sight of this test."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in modules()
        if path.name != "__main__.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and (node.level or node.module == "fossilray"))
        or (isinstance(node, ast.Import) and any(alias.name == "fossilray" for alias in node.names))
    ]
    assert not wrong


def test_the_search_for_imports_sees_every_kind(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        "from fossilray.jobs import scheduler as s, progress\n"
        "def late():\n    import importlib\n    importlib.import_module(f'lightly.{late}')\n"
        "    import_module('fossilray.cli.main')\n    return s._pool, progress.Display\n"
    )
    assert raw_imports(tmp_path / "module.py") == {
        *("fossilray.jobs.scheduler", "fossilray.jobs.progress", "importlib"),
        *("lightly.", "fossilray.cli.main"),
    }
    assert "fossilray.jobs.scheduler._pool" in attributes_of_modules(tmp_path / "module.py")


@pytest.mark.parametrize("module", ["fossilray", "fossilray.core.config"])
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    heavy = {"torch", "ray", "ultralytics", "zarr", "openslide", "duckdb", "matplotlib", "cv2", "sklearn"}
    if module == "fossilray":
        heavy |= {"pyarrow", "numpy"}
    assert loaded_by(module) & heavy == set()


def test_core_loads_light_libraries_only() -> None:
    allowed = LIGHT | set(sys.stdlib_module_names) | loaded_by("sys")
    for library in sorted(LIGHT):
        allowed |= loaded_by(library)
    core = [module_name(path) for path in modules() if room_of(path) == "core"]
    extra = {name for name in loaded_by(", ".join(core)) - allowed if not name.startswith("_")}
    assert extra <= {"fossilray"}


def test_the_slide_job_below_the_scheduler_imports_no_ray() -> None:
    worker = {"fossilray.processing.worker", "fossilray.slides.catalog", "fossilray.store.query.connection"}
    for module in sorted(worker | {"fossilray.analysis.report.page", "fossilray.training.loop"}):
        assert "ray" not in loaded_by(module), module


def is_allowed(module: str, other: str) -> bool:
    room, below = module.split(".")[1:2], other.split(".")[1:]
    if not room or room == ["__main__"] or not below or room == below[:1]:
        return True
    return not {below[0], "/".join(below[:2])}.isdisjoint(MAY_IMPORT[room[0]].split())


def shortened(module: str, depth: int) -> str:
    """The room, or the room and the sub-room; a module in the room itself stands for itself."""
    return ".".join(module.split(".")[: depth + 1])


def loaded_by(module: str) -> set[str]:
    """Top names in sys.modules after an import in a fresh interpreter."""
    code = f"import {module}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(answer.stdout.split())


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def raw_imports(path: Path) -> set[str]:
    """Dotted names imported anywhere in a file: in functions and for type checkers alone, too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            # Of an f-string, what stands before the first value.
            first = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            if isinstance(first, ast.Constant):
                names.add(str(first.value))
    return names


def attributes_of_modules(path: Path) -> set[str]:
    """Dotted names of the attributes that a file takes from what it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    return {
        f"{imported[node.value.id]}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported
    }


def import_graph() -> Graph:
    known = {module_name(path) for path in modules()}

    def longest_known(name: str) -> str:
        return name if name in known else longest_known(name.rpartition(".")[0])

    return {
        module_name(path): {
            longest_known(name) for name in raw_imports(path) if name.split(".")[0] == "fossilray"
        }
        - {module_name(path)}
        for path in modules()
    }


GRAPH = import_graph()
