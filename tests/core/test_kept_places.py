"""No command writes its output among the files of a run, a dataset, an index or a label set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from fossilray.cli.main import app
from fossilray.core.errors import UsageError
from fossilray.core.kept_places import MARKS, refuse_inside, refuse_kept_place


def kept(folder: Path, mark: str = "run.json", content: str = '{"schema_version": 1}') -> Path:
    folder.mkdir(parents=True)
    (folder / mark).write_text(content)
    return folder


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("place", [".", "run.json", "report.html", "arrays", "a/b/c.csv"])
def test_a_place_in_a_kept_folder_is_refused(mark: str, place: str, tmp_path: Path) -> None:
    folder = kept(tmp_path / "folder", mark)
    (tmp_path / "link").symlink_to(folder)
    for root in (folder, tmp_path / "link"):
        with pytest.raises(UsageError, match=f"is inside {folder}, which is {MARKS[mark]}"):
            refuse_kept_place(root / place)
    refuse_kept_place(tmp_path / "report.html")


@pytest.mark.parametrize("content", ['{"name": "web"}', "[1, 2]"])
def test_the_files_of_other_programs_keep_no_place(content: str, tmp_path: Path) -> None:
    refuse_kept_place(kept(tmp_path / "folder", "index.json", content) / "report.html")


@pytest.mark.parametrize("content", ["", "{", "\0" * 20])
def test_a_damaged_mark_still_keeps_its_folder(content: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        refuse_kept_place(kept(tmp_path / "folder", content=content) / "report.html")


def test_a_place_in_a_run_in_an_object_store_is_refused() -> None:
    with pytest.raises(UsageError, match=r"s3://b/run/x\.parquet is inside s3://b/run"):
        refuse_inside("s3://b/run/x.parquet", ["s3://b/run/"])
    refuse_inside("s3://b/run-2/x.parquet", ["s3://b/run"])


def test_every_option_that_names_an_output_is_checked() -> None:
    unchecked, seen = [], 0
    waiting: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        waiting += [((*path, name), one) for name, one in getattr(command, "commands", {}).items()]
        for parameter in command.params:
            if {"--out", "--sheet", "--csv"} & set(parameter.opts):
                seen += 1
                unchecked += [path] if parameter.callback is None else []
    assert seen >= 15
    assert not unchecked


def test_query_leaves_the_record_of_a_run_alone(tmp_path: Path) -> None:
    run = kept(tmp_path / "run")
    before = (run / "run.json").read_bytes()
    arguments = ["query", str(run), "select 1", "--out", str(run / "run.json"), "--format", "json"]
    answer = CliRunner().invoke(app, arguments)
    assert isinstance(answer.exception, UsageError)
    assert (run / "run.json").read_bytes() == before
