"""Imports go down only: the table of DESIGN, held."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fossilray"
FLOORS = {
    1: "__init__ config machine records errors formats kept_places name_pattern whole_files",
    2: "slide overview slidedat slide_properties mirax_companions tiff_tiles slide_names site_names tiling blank "
    "windows detect merge crops measures half_precision precision embed meta_device pictures store tables in_parts "
    "folder_owners marked_folders objects_table pages sources synthetic direct timeline watched_pool slide_threads "
    "failing slide_access neighbours private_ray text_table",
    3: "damaged_views "
    "worker detection cutting catalog ledger progress slide_plan dry_run query export status report doctor learn "
    "export_anndata export_coco export_folder export_rows export_split export_tiles export_vectors export_yolo "
    "compact care certainty estimate explain config_reading "
    "stored_worker view_sql cost watching tracing wells labelling similar judging slide_states",
    4: "scheduler job answer_job train_job submission index_job",
    5: "cli demo __main__",
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names.split()}
ENGINES = {
    "ray": {"scheduler", "train_job", "submission"},
    "openslide": {"slide"},
    "ultralytics": {"detect", "learn"},
    "zarr": {"store"},
    "duckdb": {"query", "doctor", "damaged_views"},
    "faiss": {"similar"},
}


def test_every_module_has_a_floor() -> None:
    assert {top_name(path) for path in modules()} == set(FLOOR)


def test_no_module_imports_from_a_floor_above_its_own() -> None:
    upward = [
        f"{path.relative_to(ROOT)} (floor {FLOOR[top_name(path)]}) imports {name} (floor {FLOOR[name]})"
        for path in modules()
        for name in imported_from_package(path)
        if FLOOR[name] > FLOOR[top_name(path)]
    ]
    assert not upward


def test_there_is_no_circle_of_imports() -> None:
    graph = {module_name(path): imported_modules(path) for path in modules()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        for below in graph[module]:
            visit(below, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_has_one_home(engine: str) -> None:
    homes = {top_name(path) for path in modules() if engine in imported_roots(path)}
    assert homes <= ENGINES[engine]


def test_importing_fossilray_loads_nothing_heavy() -> None:
    heavy = ("torch", "ray", "ultralytics", "zarr", "pyarrow", "openslide", "numpy", "duckdb", "matplotlib")
    code = f"import fossilray, sys; print([name for name in {heavy!r} if name in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert answer.stdout.strip() == "[]"


def test_the_slide_job_below_the_scheduler_imports_no_ray() -> None:
    code = (
        "import fossilray.processing.worker, fossilray.slides.catalog, fossilray.store.query.connection, fossilray.analysis.report.page, sys;"
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def top_name(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in raw_imports(path)}


def imported_from_package(path: Path) -> set[str]:
    return {(name.split(".")[1:] or ["__init__"])[0] for name in imported_modules(path)}


def imported_modules(path: Path) -> set[str]:
    known = {module_name(one) for one in modules()}
    named = {name for name in raw_imports(path) if name.split(".")[0] == "fossilray"}
    return {longest_known(name, known) for name in named} - {module_name(path)}


def longest_known(name: str, known: set[str]) -> str:
    """`fossilray.core.records.Boxes` names a thing in the module `fossilray.core.records`."""
    return name if name in known else longest_known(name.rpartition(".")[0], known)


def raw_imports(path: Path) -> set[str]:
    """Dotted names imported anywhere in a file, but for type checkers alone."""
    names: set[str] = set()
    for node in live_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def live_nodes(tree: ast.AST) -> list[ast.AST]:
    found = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        found += [child, *live_nodes(child)]
    return found
