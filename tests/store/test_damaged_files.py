"""Damaged files of every kind: named by whatever meets them, never a traceback, and what others hold is still shown."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.cli_runner import invoke, run_command
from support.damaged_files import LOOKS, Outcome, Trial, chosen, look, try_one, write_world
from support.small_run import write_small_run

from fossilray.core.errors import DamagedFile, UsageError
from fossilray.core.heartbeat import Heartbeat
from fossilray.store import RunStore
from fossilray.store.query.connection import run_query

PACKAGE = Path(__file__).parents[2] / "fossilray"
BEGUN = "2026-01-01T00:00:00+00:00"
UNSEEN = ("flip", "another flip", "flips at the end", "noise", "zeros", "column negative", "column of NaN")
"""Damage that leaves a file readable may show only in `verify --deep`, which compares checksums."""
BITS = ("flip", "another flip", "flips at the end", "noise", "zeros")
CHECKED = (".parquet", "codes", "offsets", "positions")
"""Files with checksums: `verify --deep` names each of which a bit is another."""
READERS = {
    "json.loads": {"core/formats/json_text.py"},
    "json.load": set(),
    "yaml.safe_load": set(),
    "yaml.load": set(),
    "pq.read_table": set(),
    "pq.read_metadata": {"core/formats/parquet.py"},
    "csv.DictReader": set(),
    "zarr.open": set(),
    "zarr.open_group": {"store/arrays/group.py"},
}
"""Calls of libraries that read what others wrote, and the files that may make them."""
OWN_WORDS = {
    "core/folder_owners.py",  # marks of processes: what is none belongs to another program
    "store/dataset/unfinished_dataset.py",  # the mark of a compaction: what is none is left alone
    "store/files/claims.py",  # claims: what is none counts as held
    "store/files/process_note.py",  # notes of processes: another content names none
    "synthetic/archive.py",  # a recipe: what is none means another archive
    "analysis/export/vectors.py",  # what was encoded a line before
    "jobs/scheduler/autoscaler.py",  # what Ray keeps in its memory
    "cli/submit.py",  # an option of the command line
    "store/derived/derived_store.py",  # what was encoded a line before
    "serve/decode_worker.py",  # what the server and the process that decodes its uploads write to each other
    "serve/decoding.py",
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
    assert not (trial.look.startswith("deep") and trial.path.endswith(CHECKED) and trial.damage in BITS), (
        f"{trial}: {outcome.detail}"
    )
    assert trial.damage in UNSEEN or trial.damage.startswith(("column", "no metadata")), (
        f"{trial}: {outcome.detail}"
    )


def test_some_damaged_files_are_named(world: Path) -> None:
    sound: dict[tuple[str, str], str] = {}
    for trial in chosen(world, 0.0012):
        if trial.look not in ("report", "compact"):  # a second each
            check(trial, try_one(world, trial, sound))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_every_damaged_file_is_named(world: Path, part: int) -> None:
    sound: dict[tuple[str, str], str] = {}
    for trial in chosen(world, 1.0)[part::20]:
        check(trial, try_one(world, trial, sound))


@pytest.mark.parametrize("content", [b"", b"PAR1 torn PAR1"])
def test_a_torn_catalog_is_named_and_hides_nothing_else(tmp_path: Path, content: bytes) -> None:
    write_small_run(tmp_path / "run")
    (tmp_path / "run" / "catalog.parquet").write_bytes(content)
    for name in ("status", "verify", "gc", "count"):
        said = look(tmp_path, LOOKS[name], run="run")
        assert said.kind == "said", said
        assert "catalog.parquet (the run's catalog) cannot be used" in " ".join(said.detail.split())
    assert "77," in look(tmp_path, LOOKS["count"], run="run").detail
    assert look(tmp_path, LOOKS["catalog"], run="run").kind == "refused"


@pytest.mark.parametrize("content", [b"PAR1 torn", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_query_goes_on_without_a_torn_file_and_names_it(tmp_path: Path, content: bytes) -> None:
    store = write_small_run(tmp_path / "run")
    path = store.committed_files()["a-2030"]
    (tmp_path / "run" / path).write_bytes(content)
    store = RunStore.open(store.url)
    assert run_query(store, "SELECT count(*) AS n FROM objects")["n"].to_pylist() == [37]
    (message,) = store.left_out.messages
    assert f"{path} (the objects of slide a-2030) cannot be used" in message
    assert "verify RUN --withdraw" in message
    answer = invoke("compact", store.url, "--to", tmp_path / "dataset")
    assert isinstance(answer.exception, DamagedFile)
    assert path in str(answer.exception)


def test_a_compacted_run_is_made_again_without_what_was_withdrawn(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run")
    (tmp_path / "run" / store.committed_files()["a-2030"]).write_bytes(b"torn")
    answer = invoke("verify", store.url, "--withdraw")
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


def test_files_that_may_not_be_read_are_named_and_hide_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, store = tmp_path / "run", write_small_run(tmp_path / "run")
    store.append_summaries(store.summaries()[:2])
    store.append_summaries(store.summaries()[2:])
    store.attempts.write_heartbeat(Heartbeat("driver", BEGUN, BEGUN, 6, 4, 1, 77, 12.5, 2, ("e-broken",)))
    (attempt,) = (run / "attempts" / "e-broken").iterdir()
    closed = [
        run / "catalog.parquet",
        run / "slides" / "part-000000.parquet",
        run / "drivers" / "driver.json",
        attempt,
        run / store.committed_files()["b-2050"],
    ]
    _close(closed, monkeypatch)
    for name in ("status", "verify"):
        said = look(tmp_path, LOOKS[name], run="run")
        assert said.kind == "said", said
        assert not [path for path in closed if f"cannot read {path}: Permission denied" not in said.detail]
        assert ('"committed": 4' if name == "status" else "committed 4 of") in " ".join(said.detail.split())


def _close(closed: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse the files to this process, which as root may read all there is."""

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: object, *given: Any, **options: Any) -> Any:
            if str(path) in map(str, closed):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *given, **options)

        return call

    monkeypatch.setattr(io, "open", refusing(io.open))
    monkeypatch.setattr(os, "open", refusing(os.open))


@pytest.mark.parametrize("kind", ["embeddings", "predictions", "objects"])
def test_a_folder_in_place_of_a_slides_file_is_named(world: Path, kind: str, tmp_path: Path) -> None:
    shutil.copytree(world / "run", tmp_path / "run")
    (file,) = (tmp_path / "run" / kind).rglob("a-2030.parquet")
    file.unlink()
    file.mkdir()
    said = look(tmp_path, LOOKS["verify"], run="run")
    assert (said.kind, "a-2030.parquet" in said.detail) == ("said", True), said


def test_verify_without_a_readable_record_looks_at_all_else(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run")
    torn = store.committed_files()["a-2030"]
    (tmp_path / "run" / torn).write_bytes(b"torn")
    for content in (b"torn", None):
        _spoil(tmp_path / "run" / "run.json", content)
        answer = invoke("verify", store.url, columns=400)
        assert answer.exit_code == 1
        assert "run.json" in answer.output
        assert torn in answer.output


@pytest.mark.parametrize(
    ("path", "damage"),
    [
        ("dataset/dataset.json", b"torn"),
        ("dataset/run.json", b"torn"),
        ("dataset/catalog.parquet", b"torn"),
        ("dataset/objects/*/*.parquet", "a bit"),
        ("dataset/embeddings/*/*.parquet", None),
        ("dataset/slides/*.parquet", b"torn"),
        ("index/index.json", b"torn"),
        ("index/coder-*.faiss", "a bit"),
        ("index/shards/*.json", b"torn"),
        ("index/data/*/codes", "a bit"),
        ("index/data/*/positions", "a bit"),
        ("index/data/*/offsets", None),
        ("labels/labels.json", b"torn"),
        ("labels/rounds/00001.parquet", "a bit"),
    ],
)
def test_verify_names_damage_of_datasets_indexes_and_label_sets(
    world: Path, path: str, damage: bytes | str | None
) -> None:
    place = world / path.partition("/")[0]
    file = sorted(world.glob(path))[-1]
    content = file.read_bytes()
    bit = bytearray(content)
    bit[len(bit) // 4] ^= 16
    _spoil(file, bytes(bit) if isinstance(damage, str) else damage)
    try:
        answer = invoke("verify", place, "--deep", columns=400)
    finally:
        file.write_bytes(content)
    assert (answer.exit_code, type(answer.exception)) == (1, SystemExit), answer.exception
    named = file.parent.name if file.parent.parent.name == "data" else file.name
    assert named in answer.output


def _spoil(file: Path, content: bytes | None) -> None:
    """Give it this content; None: delete it."""
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)


def test_an_index_whose_shards_have_no_checksums_is_read_and_checked(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "index", tmp_path / "index")
    for file in (tmp_path / "index" / "shards").iterdir():
        stated = json.loads(file.read_text(encoding="utf-8"))
        del stated["sha256"]
        file.write_text(json.dumps(stated), encoding="utf-8")
    run_command("verify", tmp_path / "index", "--deep")
    run_command("index", "status", tmp_path / "index")
    positions = sorted((tmp_path / "index" / "data").glob("*/positions"))[0]
    positions.write_bytes(bytes(len(positions.read_bytes())))
    answer = invoke("verify", tmp_path / "index", "--deep", columns=400)
    assert "repeats a position" in answer.output


def test_only_runs_are_mended_by_verify(world: Path) -> None:
    for place in ("dataset", "index", "labels"):
        run_command("verify", world / place, "--deep")
        answer = invoke("verify", world / place, "--withdraw")
        assert isinstance(answer.exception, UsageError)


def test_a_column_of_another_type_in_the_first_file_is_named_by_an_export(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run")
    path = store.committed_files()["a-2030"]
    file = tmp_path / "run" / path
    table = pq.ParquetFile(file).read()
    place = table.schema.get_field_index("x_min")
    file.unlink()
    pq.write_table(table.set_column(place, "x_min", pa.array(["many"] * table.num_rows)), file)
    said = look(tmp_path, LOOKS["export"], run="run")
    assert (said.kind, path in said.detail) == ("said", True)
    assert f"{path} (the objects of slide a-2030) cannot be used: column x_min" in said.detail
