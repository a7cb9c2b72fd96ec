"""No command writes its output among the files of a run, a dataset, an index or a label set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer.main
from support.cli_runner import invoke

from fossilray.cli.main import app
from fossilray.core.errors import UsageError
from fossilray.core.folder_kinds import FOLDER_KINDS, kind_of_folder, refuse_inside, refuse_output_inside

DESCRIPTIONS = {
    record: kind.description for kind in FOLDER_KINDS for record in (kind.record, kind.pending) if record
}
"""What a folder with this file in it is."""


def folder_of_fossilray(folder: Path, mark: str = "run.json", content: str = '{"schema_version": 1}') -> Path:
    folder.mkdir(parents=True)
    (folder / mark).write_text(content)
    return folder


@pytest.mark.parametrize("mark", DESCRIPTIONS)
@pytest.mark.parametrize("path", [".", "run.json", "report.html", "arrays", "a/b/c.csv"])
def test_output_inside_a_folder_of_fossilray_is_refused(mark: str, path: str, tmp_path: Path) -> None:
    folder = folder_of_fossilray(tmp_path / "folder", mark)
    (tmp_path / "link").symlink_to(folder)
    for root in (folder, tmp_path / "link"):
        with pytest.raises(UsageError, match=f"is inside {folder}, which is {DESCRIPTIONS[mark]}"):
            refuse_output_inside(root / path)
    refuse_output_inside(tmp_path / "report.html")


@pytest.mark.parametrize("content", ['{"name": "web"}', "[1, 2]"])
def test_files_of_other_programs_do_not_protect_a_folder(content: str, tmp_path: Path) -> None:
    refuse_output_inside(folder_of_fossilray(tmp_path / "folder", "index.json", content) / "report.html")


@pytest.mark.parametrize("content", ["", "{", "\0" * 20])
def test_a_damaged_record_still_protects_its_folder(content: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        refuse_output_inside(folder_of_fossilray(tmp_path / "folder", content=content) / "report.html")


def test_output_inside_a_run_in_an_object_store_is_refused() -> None:
    with pytest.raises(UsageError, match=r"s3://b/run/x\.parquet is inside s3://b/run"):
        refuse_inside("s3://b/run/x.parquet", ["s3://b/run/"])
    refuse_inside("s3://b/run-2/x.parquet", ["s3://b/run"])


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["run.json", "objects", "slides"], "run"),
        (["objects", "slides", "attempts"], None),
        (["dataset.json", "failures.parquet"], "dataset"),
        (["dataset.json", "run.json"], "dataset"),
        (["failures.parquet", "run.json"], "dataset"),
        (["failures.parquet", "objects"], "dataset"),
        (["compacting.json", "failures.parquet"], None),
        (["index.json"], "index"),
        (["shards", "data"], "index"),
        (["shards"], None),
        (["labels.json"], "label set"),
        (["rounds"], "label set"),
        (["notes.txt"], None),
        ([], None),
    ],
)
def test_a_folder_is_recognised_by_its_record_or_by_what_is_left_of_it(
    names: list[str], kind: str | None
) -> None:
    found = kind_of_folder(names)
    assert (found.name if found else None) == kind


def test_every_option_that_names_an_output_is_checked() -> None:
    unchecked, seen = [], 0
    waiting: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        waiting += [((*path, name), one) for name, one in getattr(command, "commands", {}).items()]
        for parameter in command.params:
            if {"--out", "--sheet"} & set(parameter.opts):
                seen += 1
                unchecked += [path] if parameter.callback is None else []
    assert seen >= 15
    assert not unchecked


def test_query_leaves_the_record_of_a_run_alone(tmp_path: Path) -> None:
    run = folder_of_fossilray(tmp_path / "run")
    before = (run / "run.json").read_bytes()
    arguments = ["query", str(run), "select 1", "--out", str(run / "run.json"), "--format", "json"]
    result = invoke(*arguments)
    assert isinstance(result.exception, UsageError)
    assert (run / "run.json").read_bytes() == before
