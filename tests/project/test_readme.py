"""README and recipes, run as they stand on a small demo; and the demo held against its truth."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from support.cli_runner import run_command
from support.slides_on_disk import write_slide

from fossilray.store import RunStore
from fossilray.store.query.connection import run_query
from fossilray.synthetic.archive import ARCHIVE_MPP, TRUTH_FILE
from fossilray.synthetic.truth import score_against_truth

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SIZE = "3072"
"""Side of the demo's slides."""
RECIPES = (ROOT / "docs" / "guide" / "run-directory.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Demo:
    """Where `fossilray demo` was run, and what it printed."""

    place: Path
    printed: str

    @property
    def run(self) -> RunStore:
        return RunStore.open(str(self.place / "fossilray-demo" / "run"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    place = tmp_path_factory.mktemp("readme")
    return Demo(place, fossilray(place, "demo", "--slides", "2", "--size", SIZE))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_first_command_ends_in_the_demo() -> None:
    assert blocks(README, "bash")[0].strip().endswith("&& .venv/bin/fossilray demo")


def test_continuous_integration_runs_the_second_command() -> None:
    assert "<!-- tests -->" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    command = re.search(r"<!-- tests -->\s*```bash\n(.*?)```", README, re.DOTALL)
    assert command is not None
    assert command[1].strip().endswith("-m pytest -n 2")


def test_the_demo_finds_what_was_painted(demo: Demo) -> None:
    objects = run_query(demo.run, "SELECT slide_id, x_min, y_min, x_max, y_max FROM objects")
    truth = pq.read_table(demo.place / "fossilray-demo" / "slides" / TRUTH_FILE)
    score = score_against_truth(objects, truth, iou=0.5, mpp=ARCHIVE_MPP)
    assert score.recall is not None
    assert score.precision is not None
    assert score.recall > 0.8
    assert score.precision > 0.8


def test_the_demo_says_where_to_look(demo: Demo) -> None:
    assert (demo.place / "fossilray-demo" / "report.html").stat().st_size > 100_000
    assert "report.html" in demo.printed


def test_the_demo_again_finds_everything_done(demo: Demo) -> None:
    with contextlib.chdir(demo.place):
        again = run_command("demo", "--slides", "2", "--size", SIZE)
    assert "2 of 2 slides committed (2 before)" in again


def test_every_command_of_the_readme_works(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)  # `serve` would go on for ever
    write_slide(demo.place / "own-slides" / "a.mrxs", size=1024)
    ran = 0
    for line in "".join(blocks(README, "bash")).splitlines():
        if not line.startswith("fossilray "):
            continue
        words = shlex.split(line.replace("/data/slides", "own-slides").replace("/data/run", "own-run"))
        with contextlib.chdir(demo.place):
            run_command(*words[1:])
        ran += 1
    assert RunStore.open(str(demo.place / "own-run")).committed() == {"a"}
    assert ran >= 9
    assert list((demo.place / "crops").glob("*.jpg"))
    assert len(list((demo.place / "boxes").glob("*.geojson"))) == 2
    assert (demo.place / "losses.csv").read_text(encoding="utf-8").count("\n") == 3


def test_bare_duckdb_reads_the_run(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo.place)
    for sql in blocks(README, "sql"):
        rows = duckdb.sql(sql).fetchall()
        assert len(rows) == 2
        assert all(isinstance(row[0], str) for row in rows)


@pytest.mark.parametrize("sql", blocks(RECIPES, "sql"))
def test_every_recipe_answers(demo: Demo, sql: str) -> None:
    table = run_query(demo.run, sql)
    assert table.num_columns >= 3
    assert table.num_rows or "failures" in sql


def test_python_of_the_readme_gives_a_crop_and_a_vector(demo: Demo) -> None:
    (code,) = blocks(README, "python")
    code += "assert crop.shape == (224, 224, 3) and vector.ndim == 1\n"
    subprocess.run([sys.executable, "-c", code], cwd=demo.place, check=True, env=None)


def test_every_column_is_explained() -> None:
    from fossilray.core.schemas import OBJECTS_SCHEMA, SLIDES_SCHEMA

    for name in [*OBJECTS_SCHEMA.names, *SLIDES_SCHEMA.names]:
        assert f"`{name}`" in RECIPES or name.startswith("seconds_")


def fossilray(place: Path, *arguments: str) -> str:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from fossilray.cli.main import main; main()"
    answer = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert answer.returncode == 0, f"{arguments}: {answer.stdout}{answer.stderr}"
    return answer.stdout
