"""Pipes, sockets, devices and folders in place of files end no command and make none wait; lost slides are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli_runner import invoke
from support.irregular_files import irregular
from support.small_run import write_small_run
from typer.testing import Result

from fossilray.core.config import load_config
from fossilray.core.errors import ConfigError, DamagedFile
from fossilray.core.formats import FileRole
from fossilray.core.formats.images import decode_image
from fossilray.store import RunStore

Make = Callable[[Path], None]


def flat(result: Result) -> str:
    return " ".join(f"{result.output} {result.exception or ''}".split())


def put(make: Make, path: Path) -> None:
    path.unlink()
    make(path)


@irregular
def test_what_is_no_file_in_place_of_the_catalog_hides_nothing_else(tmp_path: Path, make: Make) -> None:
    run = write_small_run(tmp_path / "run").url
    put(make, tmp_path / "run" / "catalog.parquet")
    for words in (("status", run), ("verify", run), ("query", run, "SELECT count(*) AS n FROM objects")):
        found = flat(invoke(*words))
        assert "catalog.parquet cannot be used: it is a" in found, words
        assert "77" in found, words


@irregular
def test_what_is_no_file_in_place_of_a_record_is_left_out(tmp_path: Path, make: Make) -> None:
    store = write_small_run(tmp_path / "run")
    (tmp_path / "run" / "attempts" / "b-1").mkdir(parents=True)
    make(tmp_path / "run" / "attempts" / "b-1" / "0123456789abcdef.json")
    (tmp_path / "run" / "slides").mkdir(exist_ok=True)
    store = RunStore.open(store.url)
    store.attempts.records()
    if make is not Path.mkdir:
        assert "0123456789abcdef.json cannot be used: it is a" in store.left_out.messages[0]


@irregular
def test_a_run_with_no_file_in_place_of_an_objects_file_is_not_compacted(tmp_path: Path, make: Make) -> None:
    store = write_small_run(tmp_path / "run")
    store.rebuild_summaries()
    path = store.committed_files()["a-2030"]
    put(make, tmp_path / "run" / path)
    run = store.url
    queried = invoke("query", run, "SELECT count(*) AS n FROM objects", "--format", "csv")
    assert "37" in queried.output
    refused = invoke("compact", run, "--to", str(tmp_path / "dataset"))
    assert isinstance(refused.exception, DamagedFile)
    assert "a-2030" in str(refused.exception)


def test_a_committed_slide_without_its_objects_file_is_named_by_every_reader(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run")
    store.rebuild_summaries()
    (tmp_path / "run" / store.committed_files()["a-2030"]).unlink()
    store.attempts.start("a-2030", deadline_s=60)
    run = store.url
    for words in (
        ("status", run),
        ("query", run, "SELECT count(*) AS n FROM objects"),
        ("report", run, "--out", str(tmp_path / "report.html")),
        ("export", run, "--out", str(tmp_path / "coco"), "--format", "coco"),
    ):
        found = flat(invoke(*words))
        assert "left out: " in found, (words, found)
        assert "has lost the objects file of 1 committed slide (a-2030)" in found, words
        assert "interrupted" not in found
    refused = invoke("compact", run, "--to", str(tmp_path / "dataset"))
    assert isinstance(refused.exception, DamagedFile)
    assert "(a-2030); " in str(refused.exception)
    assert "start the same command again" in str(refused.exception)
    invoke("verify", run, "--rebuild")
    assert invoke("compact", run, "--to", str(tmp_path / "dataset")).exit_code == 0


@irregular
def test_a_configuration_and_an_image_that_are_no_files_are_refused(tmp_path: Path, make: Make) -> None:
    place = tmp_path / "settings.yaml"
    make(place)
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(place)
    with pytest.raises(DamagedFile, match="it cannot be decoded"):
        decode_image(place, FileRole(str(place), "an image", "bring it back"), most_px=100)
