"""Provenance of names: predictions are no labels, labels can be withdrawn, and a name has one spelling."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from support.classified_run import predict
from support.cli_runner import rows_of, run_command
from support.expert_labels import label_objects
from support.small_run import write_small_run

from fossilray.analysis.export.boxes import export_objects
from fossilray.analysis.export.image_folder import export_image_folder
from fossilray.core.errors import UsageError
from fossilray.core.name_source import NameMark, mark_jpeg, read_mark
from fossilray.labels.current import labels_of_run
from fossilray.labels.importing import ImportReport, import_label_round
from fossilray.labels.label_set import LabelSet
from fossilray.labels.load import load_labels
from fossilray.labels.spelling import read_spelling
from fossilray.labels.withdrawal import withdraw_labels
from fossilray.store import RunStore

SLIDE = "a-2030"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = write_small_run(tmp_path_factory.mktemp("named") / "run")
    predict(store, "genera", genera=["Alnus", "Betula/Corylus"])
    return store


def table(path: Path, header: Sequence[str], *rows: Sequence[object]) -> Path:
    with path.open("w", newline="") as sink:
        csv.writer(sink).writerows([header, *rows])
    return path


def names(run: RunStore, labels: Path) -> dict[tuple[str, int], str]:
    return dict(labels_of_run(labels, run).current)


def take(source: Path, run: RunStore, into: Path, **options: Any) -> ImportReport:
    return import_label_round(source, run, into, who=options.pop("who", "Ada"), **options)


def test_an_exported_table_of_predictions_is_no_source_of_labels(run: RunStore, tmp_path: Path) -> None:
    file, labels = tmp_path / "objects.csv", tmp_path / "labels"
    export_objects(run, file, form="csv", slides=[SLIDE])
    rows = rows_of(file)
    assert {row["name_source"].partition(":")[0] for row in rows} == {"prediction", ""}
    assert all(bool(row["genus"]) == bool(row["name_source"]) for row in rows)
    with pytest.raises(
        UsageError, match=r"names that a classifier predicted, the first .*--predicted checked"
    ):
        take(file, run, labels)
    assert not labels.exists()
    with pytest.raises(UsageError, match="would learn and be measured by the errors"):
        load_labels(file, run=run)
    for row in rows[:2]:
        row.update(genus="Quercus", name_source="expert")
    table(file, list(rows[0]), *(row.values() for row in rows))
    report = take(file, run, labels, predicted="leave-out")
    assert set(names(run, labels).values()) == {"Quercus"}
    assert report.predicted == len([row for row in rows if row["name_source"].startswith("prediction")])
    rows[2]["name_source"] = "me"
    table(file, list(rows[0]), *(row.values() for row in rows))
    with pytest.raises(UsageError, match="name_source is 'me', expected expert"):
        take(file, run, labels)


def test_a_person_may_state_that_all_predictions_were_checked(run: RunStore, tmp_path: Path) -> None:
    file, labels = tmp_path / "objects.csv", tmp_path / "labels"
    export_objects(run, file, form="csv", slides=[SLIDE])
    output = run_command(
        *("labels", "import", file, "--run", run.url, "--to", labels, "--predicted", "checked")
    )
    assert "round 1:" in output
    assert len(names(run, labels)) == len([row for row in rows_of(file) if row["genus"]])


def test_a_query_of_predictions_is_recognised_by_its_columns(run: RunStore, tmp_path: Path) -> None:
    for file in (tmp_path / "query.csv", tmp_path / "query.parquet"):
        run_command("query", run.url, "SELECT * FROM predictions", "--out", file)
        with pytest.raises(UsageError, match="names that a classifier predicted"):
            take(file, run, tmp_path / "labels")


def test_a_name_in_a_column_of_its_own_is_a_persons(run: RunStore, tmp_path: Path) -> None:
    file = tmp_path / "objects.csv"
    export_objects(run, file, form="csv", slides=[SLIDE])
    rows = rows_of(file)
    chosen = [{**row, "taxon": "Quercus"} for row in rows[:3]]
    table(file, list(chosen[0]), *(row.values() for row in chosen))
    take(file, run, tmp_path / "labels")
    assert list(names(run, tmp_path / "labels").values()) == ["Quercus"] * 3


def test_an_exported_folder_is_recognised_and_what_was_moved_is_a_label(
    run: RunStore, tmp_path: Path
) -> None:
    out = tmp_path / "folder"
    export_image_folder(run, out, slides=[SLIDE])
    images = sorted(out.glob("*/*.jpg"))
    with Pillow.open(images[0]) as image:
        described = image.getexif()[0x010E]
        image.load()
    fields = json.loads(described.removeprefix("fossilray "))
    assert fields["name_source"].startswith("prediction:")
    assert fields["folder"] == images[0].parent.name
    with pytest.raises(UsageError, match=f"{len(images)} names that a classifier predicted"):
        take(out, run, tmp_path / "labels")

    with pytest.raises(UsageError, match="would learn and be measured by the errors"):
        load_labels(out)

    # A copy of one folder without the table, below another one.
    copy = tmp_path / "copy"
    shutil.copytree(images[0].parent, copy / images[0].parent.name)
    with pytest.raises(UsageError, match="names that a classifier predicted"):
        take(copy, run, tmp_path / "labels")

    # Without EXIF the table of the export is left.
    for path in images:
        with Pillow.open(path) as image:
            image.copy().save(path)
    assert read_mark(images[0].read_bytes()) is None
    with pytest.raises(UsageError, match="names that a classifier predicted"):
        take(out, run, tmp_path / "labels")

    (out / "Quercus").mkdir()
    images[0].rename(out / "Quercus" / images[0].name)
    report = take(out, run, tmp_path / "labels", predicted="leave-out")
    assert list(names(run, tmp_path / "labels").values()) == ["Quercus"]
    assert report.predicted == len(images) - 1


def test_a_mark_is_read_where_it_is_and_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Pillow.new("RGB", (8, 8)).save(path)
    mark = NameMark("prediction:ab", 'Ølnus "x"', "_lnus", 0.5)
    marked = mark_jpeg(path.read_bytes(), mark)
    assert read_mark(marked) == mark
    path.write_bytes(marked)
    with Pillow.open(path) as image:
        assert image.size == (8, 8)
        image.load()
    for content in (
        b"",
        b"fossilray",
        b'fossilray {"name_source"',
        b'fossilray {"name_source": 1}',
        marked[:40],
    ):
        assert read_mark(content) is None


def test_a_label_is_withdrawn_and_its_round_stays(run: RunStore, tmp_path: Path) -> None:
    labels = label_objects(run, tmp_path / "labels", [(SLIDE, 0, "Alnus"), (SLIDE, 1, "Alnus")])
    label_objects(run, labels, [(SLIDE, 1, "Betula")], who="Ben")
    command = ("labels", "withdraw", labels, "--run", run.url)
    output = run_command(*command, "--object", f"{SLIDE}:1", "--annotator", "Ben")
    assert "round 3: 1 labels withdrawn" in output
    assert names(run, labels) == {(SLIDE, 0): "Alnus", (SLIDE, 1): "Alnus"}
    assert len(LabelSet.open(labels).labels(version=2).conflicts) == 1
    with pytest.raises(UsageError, match=r"no label of Cem to withdraw of a-2030 #1 \(Alnus by Ada\)"):
        withdraw_labels(labels, run, who="Cem", objects=[(SLIDE, 1)])
    assert "round 4: 2 labels withdrawn" in run_command(*command, "--given-in", "1")
    assert names(run, labels) == {}
    with pytest.raises(UsageError, match="no label of round 1 is current"):
        withdraw_labels(labels, run, who=None, given_in=1)
    with pytest.raises(UsageError, match="one of --object SLIDE:ID and --given-in ROUND"):
        withdraw_labels(labels, run, who="Ada")
    given = table(tmp_path / "again.csv", ("slide_id", "object_id", "taxon"), (SLIDE, 0, "Alnus"))
    take(given, run, labels)
    assert names(run, labels) == {(SLIDE, 0): "Alnus"}


def test_two_spellings_of_one_name_are_a_question(run: RunStore, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    columns = ("slide_id", "object_id", "taxon")
    first = table(tmp_path / "1.csv", columns, (SLIDE, 0, "Leiotriletes"), (SLIDE, 1, "Leiotriletes"))
    take(first, run, labels)
    second = table(tmp_path / "2.csv", columns, (SLIDE, 2, "cf. leiotriletes"), (SLIDE, 3, "Alnus"))
    with pytest.raises(UsageError, match=r"Leiotriletes \(2\), leiotriletes \(1\); which one is meant\?"):
        take(second, run, labels)
    take(second, run, labels, spelling=read_spelling(None, ["leiotriletes=Leiotriletes"]))
    merged = LabelSet.open(labels).labels()
    stated = {label.object_id: label.occurrence for label in merged.consensus.values()}
    assert (stated[2].written, stated[2].taxon, stated[2].qualifier) == (
        "cf. Leiotriletes",
        "Leiotriletes",
        "cf.",
    )
    third = table(tmp_path / "3.csv", columns, (SLIDE, 4, "leiotriletes"))
    take(third, run, labels, spelling=read_spelling(None, ["leiotriletes=leiotriletes"]))
    assert set(names(run, labels).values()) == {"Leiotriletes", "Alnus"}, "one class"
    assert "one name in several spellings, a class under the first: Leiotriletes (3), leiotriletes (1)" in (
        run_command("labels", "show", labels)
    )
    with pytest.raises(UsageError, match="expected two names"):
        read_spelling(None, ["x"])


def test_a_vocabulary_is_enforced_with_the_nearest_spelling(run: RunStore, tmp_path: Path) -> None:
    words = tmp_path / "taxa.csv"
    words.write_text("genus,family,synonyms\nLeiotriletes,Triletes,Deltoidospora\nAlnus,Betulaceae,\n")
    columns = ("slide_id", "object_id", "taxon")
    wrong = table(tmp_path / "1.csv", columns, (SLIDE, 0, "Leiotrilets"), (SLIDE, 1, "Zzz"))
    spelling = read_spelling(words, [])
    with pytest.raises(UsageError) as refused:
        take(wrong, run, tmp_path / "labels", spelling=spelling)
    assert "2 names that the vocabulary does not have" in str(refused.value)
    assert "Leiotrilets (1 times, first line 2, is it Leiotriletes?)" in str(refused.value)
    right = table(
        tmp_path / "2.csv",
        columns,
        (SLIDE, 0, "leiotriletes"), (SLIDE, 1, "Deltoidospora"), (SLIDE, 2, "Alnus sp. A"), (SLIDE, 3, "wood"),
        (SLIDE, 4, "Betulaceae"),
    )  # fmt: skip
    take(right, run, tmp_path / "labels", spelling=spelling)
    assert sorted(names(run, tmp_path / "labels").values()) == [
        "Alnus sp. A", "Betulaceae", "Deltoidospora", "Leiotriletes", "wood",
    ]  # fmt: skip
