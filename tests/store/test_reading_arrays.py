"""Crops and embeddings read without fossilray: the codec alone, and every snippet of docs/guide/reading-arrays.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pytest
from numpy.typing import NDArray
from support.bare_site import CODEC, ROOT, make_bare_site
from support.small_run import CROP_PX, decode_jpeg, write_small_run

from fossilray.analysis.export.vectors import export_vectors
from fossilray.store import RunStore
from fossilray.store.query.connection import load_crops, load_embeddings, run_query

PAGE = (ROOT / "docs" / "guide" / "reading-arrays.md").read_text(encoding="utf-8")
GROUP = "run/arrays/a-2030/0123456789abcdef.zarr"
ROW = 17
NODE = shutil.which("node")


@dataclass(frozen=True)
class Stored:
    """A folder with a run, the group of one of its slides, and what fossilray reads of row ROW."""

    place: Path
    group: str
    crop: NDArray[np.uint8]
    vector: NDArray[np.float16]
    site: Path


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    place = tmp_path_factory.mktemp("reading")
    run = write_small_run(place / "run")
    row = run_query(run, f"SELECT * FROM objects WHERE slide_id = 'a-2030' AND object_id = {ROW}")
    group = f"run/{row['arrays'][0].as_py()}"
    site = make_bare_site(place / "site")
    return Stored(place, group, load_crops(run, row)[0], load_embeddings(run, row)[0], site)


def snippet(language: str, *, containing: str = "") -> str:
    (code,) = (
        code for code in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if containing in code
    )
    return code


def run_bare(stored: Stored, code: str) -> list[str]:
    """Lines that the page's Python prints where neither fossilray nor this Python's site-packages are."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", code.replace(GROUP, stored.group)],
        cwd=stored.place,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(stored.site), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()


def test_zarr_with_the_codec_alone_reads_a_crop_and_vectors(stored: Stored) -> None:
    code = snippet("python", containing="zarr.open_group") + (
        "import importlib.util\n"
        "assert importlib.util.find_spec('fossilray') is None\n"
        "print(crop.tobytes().hex())\n"
        f"print(vectors[{ROW}].astype('<f4').tobytes().hex())\n"
    )
    crop, vector = run_bare(stored, code)
    assert bytes.fromhex(crop) == stored.crop.tobytes()
    assert bytes.fromhex(vector) == stored.vector.astype("<f4").tobytes()


def test_a_shard_is_read_with_the_standard_library_alone(stored: Stored) -> None:
    code = snippet("python", containing="struct.unpack") + (
        "import sys\nassert 'numpy' not in sys.modules\nprint(*vector)\n"
    )
    (vector,) = run_bare(stored, code)
    assert [float(one) for one in vector.split()] == stored.vector.tolist()
    pixels = decode_jpeg((stored.place / "crop.jpg").read_bytes())
    assert np.abs(pixels.astype(int) - stored.crop).max() <= 2


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_a_shard_is_read_with_node_alone(stored: Stored) -> None:
    (stored.place / "crop.jpg").unlink(missing_ok=True)
    vector = run_node(stored, snippet("js"), stored.place, shown="Array.from(vector)")
    assert vector == stored.vector.tolist()
    pixels = decode_jpeg((stored.place / "crop.jpg").read_bytes())
    assert np.abs(pixels.astype(int) - stored.crop).max() <= 2


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_the_half_floats_of_the_page_are_those_of_numpy(stored: Stored) -> None:
    bits = np.arange(0, 2**16, 7, dtype="<u2")
    function = re.search(r"function half.*?\n}\n", snippet("js"), re.DOTALL)
    assert function is not None
    seen = run_node(
        stored, function[0], stored.place, shown=f"{bits.tolist()}.map((one) => half(one)).map(String)"
    )
    assert np.array_equal(
        np.array([float(one.replace("Infinity", "inf")) for one in seen]),
        bits.view(np.float16).astype(float),
        equal_nan=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(NODE is None, reason="needs node")
def test_zarrita_reads_crops_and_vectors(stored: Stored) -> None:
    """Needs npm's registry."""
    (command,) = re.findall(r"^npm install .*$", PAGE, re.MULTILINE)
    place = stored.place / "node"
    place.mkdir()
    fetched = subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--prefix", ".", *command.split()[2:]],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode:
        pytest.skip(f"npm's registry is out of reach: {fetched.stderr[-300:]}")
    code = snippet("mjs").replace(GROUP, str(stored.place / stored.group))
    seen = run_node(stored, code, place, shown="[crop.shape, Array.from(crop.data), Array.from(vector)]")
    shape, pixels, vector = seen
    assert shape == [CROP_PX, CROP_PX, 3]
    assert vector == stored.vector.tolist()
    assert np.abs(np.array(pixels).reshape(shape) - stored.crop.astype(int)).max() <= 8, (
        "chroma is upsampled otherwise"
    )


def run_node(stored: Stored, code: str, place: Path, *, shown: str) -> list:
    """What a module of JavaScript gives for `shown`, as JSON."""
    import json

    script = place / "snippet.mjs"
    script.write_text(
        code.replace(GROUP, stored.group) + f"\nconsole.log(JSON.stringify({shown}));\n", encoding="utf-8"
    )
    assert NODE is not None
    done = subprocess.run([NODE, str(script)], cwd=place, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_duckdb_ranks_exported_vectors(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunStore.open(str(stored.place / "run"))
    monkeypatch.chdir(stored.place)
    export_vectors(run, Path("vectors.parquet"))
    rows = duckdb.sql(snippet("sql")).fetchall()
    assert len(rows) == 10
    assert rows[0][2] == pytest.approx(1)
    assert rows == sorted(rows, key=lambda row: -row[2])


def test_the_codecs_project_states_what_fossilray_states() -> None:
    own = tomllib.loads((CODEC / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert own["entry-points"]["zarr.codecs"] == whole["entry-points"]["zarr.codecs"]
    assert own["license"] == whole["license"]
    assert (CODEC / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    named = {re.split(r"[<>=!~;\[ ]", one)[0] for one in own["dependencies"]}
    assert named == {"numpy", "simplejpeg", "zarr"}
    assert named <= {re.split(r"[<>=!~;\[ ]", one)[0] for one in whole["dependencies"]}


def test_the_distribution_of_fossilray_contains_the_codec_without_its_project() -> None:
    """As setuptools finds packages, with what builds of the codec leave in its folder."""
    from setuptools import find_namespace_packages

    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    finder = found["packages"]["find"]
    packages = find_namespace_packages(str(ROOT), exclude=finder["exclude"], include=finder["include"])
    assert "fossilray" in packages
    assert [one for one in packages if one.startswith("fossilray_jpeg")] == ["fossilray_jpeg"]


@pytest.mark.slow
def test_a_fresh_environment_with_the_codec_reads_a_run_and_both_distributions_get_along(
    stored: Stored, tmp_path: Path
) -> None:
    """Needs a package index."""
    source = tmp_path / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(
            ".git", "tests", "docs", "*.egg-info", "build", ".*_cache", "__pycache__"
        ),
    )
    venv.create(tmp_path / "venv", with_pip=True)
    pip = [str(tmp_path / "venv" / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", str(source / "fossilray_jpeg")], check=True)
    code = snippet("python", containing="zarr.open_group").replace(GROUP, stored.group)
    code += "import sys; sys.stdout.write(crop.tobytes().hex())"

    def read() -> bytes:
        python = str(tmp_path / "venv" / "bin" / "python")
        done = subprocess.run(
            [python, "-I", "-W", "error", "-c", code],
            cwd=stored.place,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.returncode, done.stderr
        return bytes.fromhex(done.stdout)

    installed = subprocess.run([*pip, "list"], check=True, capture_output=True, text=True).stdout
    assert not re.search(r"^fossilray ", installed, re.MULTILINE)
    assert read() == stored.crop.tobytes()
    # Both have the codec's folder: whichever comes second, there is one codec and Zarr chooses without a warning.
    subprocess.run([*pip, "install", "--quiet", "--no-deps", str(source)], check=True)
    assert read() == stored.crop.tobytes()
    subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--force-reinstall", str(source / "fossilray_jpeg")],
        check=True,
    )
    assert read() == stored.crop.tobytes()
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", "fossilray-jpeg"], check=True)
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--force-reinstall", str(source)], check=True)
    assert read() == stored.crop.tobytes()
