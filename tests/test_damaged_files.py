"""Damaged files of every kind: named by whatever meets them, never a traceback, and what others hold is still shown."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from commands import run as run_command
from damaged_files import LOOKS, Outcome, Trial, chosen, look, try_one, write_world
from small_run import write_small_run
from typer.testing import CliRunner

from fossilray.cli import app
from fossilray.errors import DamagedFile
from fossilray.query import run_query
from fossilray.store import RunStore

PACKAGE = Path(__file__).parent.parent / "fossilray"
UNSEEN = ("flip", "another flip", "flips at the end", "noise", "zeros", "column negative", "column of NaN")
"""Damage that leaves a file readable may show only in `verify --deep`, which compares checksums."""
READERS = {
    "json.loads": {"formats/json_text.py"},
    "json.load": set(),
    "yaml.safe_load": set(),
    "yaml.load": set(),
    "pq.read_table": set(),
    "pq.read_metadata": {"formats/parquet.py"},
    "csv.DictReader": set(),
    "zarr.open": set(),
    "zarr.open_group": {"store/arrays.py"},
}
"""Calls of libraries that read what others wrote, and the files that may make them."""
OWN_WORDS = {
    "folder_owners.py",  # marks of processes: what is none belongs to another program
    "store/unfinished_dataset.py",  # the mark of a compaction: what is none is left alone
    "store/claims.py",  # claims: what is none counts as held
    "synthetic/archive.py",  # a recipe: what is none means another archive
    "export_vectors.py",  # what was encoded a line before
    "scheduler/autoscaler.py",  # what Ray keeps in its memory
    "cli/submit.py",  # an option of the command line
    "store/answers.py",  # what was encoded a line before
}
"""Where json.loads reads no file."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


def check(trial: Trial, outcome: Outcome | None) -> None:
    """No traceback, no hang; what differs names the file."""
    if outcome is None or outcome.kind in ("same", "named"):
        return
    assert outcome.kind == "unnamed", f"{trial}: {outcome.kind}\n{outcome.detail}"
    assert trial.damage in UNSEEN or trial.damage.startswith(("column", "no metadata")), (
        f"{trial}: {outcome.detail}"
    )


def test_some_damaged_files_are_named(world: Path) -> None:
    sound: dict[tuple[str, str], str] = {}
    for trial in chosen(world, 0.002):
        check(trial, try_one(world, trial, sound))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_every_damaged_file_is_named(world: Path, part: int) -> None:
    sound: dict[tuple[str, str], str] = {}
    for trial in chosen(world, 1.0)[part::20]:
        check(trial, try_one(world, trial, sound))


@pytest.mark.parametrize("content", [b"", b"PAR1 torn", b"PAR1 torn PAR1"])
def test_a_torn_catalog_is_named_and_hides_nothing_else(tmp_path: Path, content: bytes) -> None:
    write_small_run(tmp_path / "run")
    (tmp_path / "run" / "catalog.parquet").write_bytes(content)
    for name in ("status", "verify", "gc", "count"):
        said = look(tmp_path, LOOKS[name], run="run")
        assert said.kind == "said", said
        assert "catalog.parquet (the run's catalog) cannot be used" in " ".join(said.detail.split())
    assert "77," in look(tmp_path, LOOKS["count"], run="run").detail
    assert look(tmp_path, LOOKS["catalog"], run="run").kind == "refused"


@pytest.mark.parametrize("content", [b"", b"PAR1 torn", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_query_goes_on_without_a_torn_file_and_names_it(tmp_path: Path, content: bytes) -> None:
    store = write_small_run(tmp_path / "run")
    path = store.committed_files()["a-2030"]
    (tmp_path / "run" / path).write_bytes(content)
    store = RunStore.open(store.url)
    assert run_query(store, "SELECT count(*) AS n FROM objects")["n"].to_pylist() == [37]
    (message,) = store.left_out.messages
    assert f"{path} (the objects of slide a-2030) cannot be used" in message
    assert "verify RUN --withdraw" in message
    answer = CliRunner().invoke(app, ["compact", store.url, "--to", str(tmp_path / "dataset")])
    assert isinstance(answer.exception, DamagedFile)
    assert path in str(answer.exception)


def test_a_compacted_run_is_made_again_without_what_was_withdrawn(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run")
    (tmp_path / "run" / store.committed_files()["a-2030"]).write_bytes(b"torn")
    answer = CliRunner().invoke(app, ["verify", store.url, "--withdraw"])
    assert answer.exit_code == 1
    assert "1 slides withdrawn" in answer.output
    assert "37" in run_command("query", store.url, "SELECT count(*) AS n FROM objects", "--format", "csv")


def test_each_format_is_read_in_one_place() -> None:
    found = {
        (ast.unparse(node.func), path.relative_to(PACKAGE).as_posix())
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    allowed = {(call, path) for call, paths in READERS.items() for path in paths}
    allowed |= {("json.loads", path) for path in OWN_WORDS}
    assert sorted((call, path) for call, path in found if call in READERS) == sorted(allowed & found)
