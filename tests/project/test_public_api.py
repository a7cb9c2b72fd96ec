"""The public API: what `import fossilray` offers, without loading anything until it is used."""

from __future__ import annotations

import ast
import doctest
import inspect
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.slides_on_disk import write_slide
from support.small_run import DIMENSION, MPP, WELL, commit_slide, start_run

import fossilray
from fossilray.models.heads import BackboneReference, save_head, train_head

NAMES = [name for name in fossilray.__all__ if not name.startswith("__")]
NEED_RAY = ("process", "train")
HEAVY = ("numpy", "pyarrow", "pydantic", "torch", "ray", "duckdb", "zarr", "openslide", "PIL", "rich", "yaml")


def code_of(name: str) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(inspect.getdoc(getattr(fossilray, name)) or "")


def test_importing_loads_no_library_and_a_name_loads_its_own_module() -> None:
    code = (
        f"import sys, fossilray; assert not set({HEAVY!r}) & set(sys.modules), sorted(sys.modules)\n"
        f"assert set(fossilray.__all__) <= set(dir(fossilray)); assert not set({HEAVY!r}) & set(sys.modules)\n"
        "fossilray.errors.UsageError; fossilray.RunConfig\n"
        "assert not {'torch', 'ray', 'duckdb', 'zarr', 'openslide'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_resolves_to_the_object_of_that_name(name: str) -> None:
    value = getattr(fossilray, name)
    expected = f"fossilray.core.{name}" if isinstance(value, types.ModuleType) else name
    assert value.__name__ == expected
    assert getattr(fossilray, name) is value


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'fossilray' has no attribute 'open_runs'"):
        _ = fossilray.open_runs


def test_type_checkers_see_every_name() -> None:
    tree = ast.parse(Path(fossilray.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_explains_itself(name: str) -> None:
    value = getattr(fossilray, name)
    text = inspect.getdoc(value) or ""
    assert code_of(name), f"{name} has no example"
    if inspect.isfunction(value):
        assert "Raises:" in text
        assert "Args:" in text
        for parameter in inspect.signature(value).parameters:
            assert f"{parameter}:" in text, f"{name} does not explain {parameter}"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two slides at `census`, one real slide, and a head."""
    folder = tmp_path_factory.mktemp("api")
    slide = folder / "slides" / "a-2030.mrxs"
    write_slide(slide, size=2048, objects=24, mpp=MPP)
    run = start_run(folder / "census")
    for number, (slide_id, well) in enumerate((("a-2030", WELL), ("b-2050", "another well"))):
        commit_slide(run, slide_id, count=12, well=well, depth_m=2000.0, seed=number, path=str(slide))
    label = np.arange(40) % 2
    vectors = np.random.default_rng(1).normal(size=(40, DIMENSION)) + 3 * label[:, None]
    boxes = fossilray.query(run, "SELECT slide_id, x_min, y_min, x_max, y_max FROM objects")
    pq.write_table(boxes, folder / "slides" / "truth.parquet")
    head = train_head(
        vectors.astype(np.float32),
        label,
        classes=("a", "b"),
        kind="logistic",
        backbone=BackboneReference(name="x", sha256=""),
    )
    save_head(folder / "genera.safetensors", head)
    return folder


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NEED_RAY])
def test_the_example_of_every_name_runs(name: str, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    namespace: dict[str, object] = {}
    for example in code_of(name):
        exec(compile(example.source, f"<example of {name}>", "exec"), namespace)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_examples_that_start_ray_run(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(demo / "slides", tmp_path / "slides")
    monkeypatch.chdir(tmp_path)
    for name in NEED_RAY:
        namespace: dict[str, object] = {}
        for example in code_of(name):
            exec(compile(example.source, f"<example of {name}>", "exec"), namespace)
    assert namespace["result"].finished  # type: ignore[attr-defined]
