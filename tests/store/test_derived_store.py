"""Answers of later jobs: one file a slide, committed by its creation, bound to what gave them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.run_fixtures import a_failure, a_run
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)

from fossilray.core.config import StoreConfig
from fossilray.core.errors import RunMismatch, RunNotFound, StoreError, UsageError
from fossilray.core.schemas import embeddings_schema
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import (
    EMBEDDINGS_PER_ROW_GROUP,
    DerivedRecord,
    DerivedStore,
    derived_names,
)

RECORD = DerivedRecord(
    kind="embeddings", run_digest="ab" * 32, backbone={"name": "net", "sha256": "cd" * 32, "dimension": 4}
)


def some_vectors(slide_id: str, *, value: float = 1.0, count: int = 3) -> pa.Table:
    schema = embeddings_schema(4)
    values = pa.array(np.full(count * 4, value, np.float16))
    return pa.Table.from_arrays(
        [
            pa.array([slide_id] * count, pa.string()),
            pa.array(range(count), pa.int32()),
            pa.FixedSizeListArray.from_arrays(values, type=schema.field("embedding").type),
        ],
        schema=schema,
    )


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(a_run())
    return store


def test_committed_answers_are_read_back_and_stand_against_later_ones(run: RunStore) -> None:
    answers = DerivedStore.create(run, "embeddings", "net-1", RECORD)
    assert answers.committed() == set()
    assert answers.commit("slide 1", "6407/6-5", some_vectors("slide 1"), source_attempt="a1")
    assert not answers.commit("slide 1", "6407/6-5", some_vectors("slide 1", value=2), source_attempt="a2")
    assert answers.committed_files() == {"slide 1": "well=6407%2F6-5/slide 1.parquet"}
    again = DerivedStore.open(run, "embeddings", "net-1")
    assert again.read("slide 1").equals(some_vectors("slide 1"))
    assert again.footer("well=6407%2F6-5/slide 1.parquet").source_attempt == "a1"


def test_a_slide_without_objects_has_answers_too(run: RunStore) -> None:
    answers = DerivedStore.create(run, "embeddings", "net", RECORD)
    answers.commit("empty", None, some_vectors("empty", count=0), source_attempt="a1")
    assert answers.read("empty").num_rows == 0


def test_a_name_belongs_to_one_backbone(run: RunStore) -> None:
    DerivedStore.create(run, "embeddings", "net", RECORD)
    DerivedStore.create(run, "embeddings", "net", RECORD)
    other = replace(RECORD, backbone={**RECORD.backbone, "sha256": "ef" * 32})
    with pytest.raises(RunMismatch, match=r"backbone.*another --name"):
        DerivedStore.create(run, "embeddings", "net", other)
    DerivedStore.create(run, "embeddings", "other", other)
    assert derived_names(run, "embeddings") == ["net", "other"]


def test_names_that_lead_elsewhere_are_refused_and_absent_ones_told(run: RunStore) -> None:
    for name in ("..", "a/b", "", "-x", "a..b", "x" * 65):
        with pytest.raises(UsageError, match="cannot name embeddings"):
            DerivedStore.create(run, "embeddings", name, RECORD)
    DerivedStore.create(run, "embeddings", "net", RECORD)
    with pytest.raises(RunNotFound, match="no embeddings named nett; it has: net"):
        DerivedStore.open(run, "embeddings", "nett")


def test_a_file_that_was_damaged_or_moved_is_not_believed(run: RunStore) -> None:
    answers = DerivedStore.create(run, "embeddings", "net", RECORD)
    answers.commit("one", "w", some_vectors("one"), source_attempt="a1")
    path = Path(answers.url) / "well=w" / "one.parquet"
    (path.parent / "two.parquet").write_bytes(path.read_bytes())
    with pytest.raises(StoreError, match="of slide one"):
        answers.read("two")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match="cannot be used"):
        answers.read("one")


SLICES = [(256, 512), (0, 256), (512, 768), (250, 260), (599, 600)]


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_some_rows_are_read_without_the_others(place: str, request: pytest.FixtureRequest) -> None:
    if place == "disk":
        run = request.getfixturevalue("run")
    else:
        run = RunStore.open(*request.getfixturevalue("s3_run"))
        run.create_or_check(a_run())
    answers = DerivedStore.create(run, "embeddings", "net", RECORD)
    count = 2 * EMBEDDINGS_PER_ROW_GROUP + 88
    table = some_vectors("one", count=count)
    values = pa.array(np.arange(count * 4) % 1000, pa.float16())
    field = table.schema.field("embedding")
    table = table.set_column(2, field, pa.FixedSizeListArray.from_arrays(values, type=field.type))
    answers.commit("one", "w", table, source_attempt="a1")
    path = answers.committed_files()["one"]
    found = answers.read_slices(path, SLICES, columns=["embedding"], source_attempt="a1")
    for (start, stop), part in zip(SLICES, found, strict=True):
        assert part.equals(table.select(["embedding"]).slice(start, stop - start))
    with pytest.raises(StoreError, match="processed again since"):
        answers.read_slices(path, SLICES, columns=["embedding"], source_attempt="a2")
    with pytest.raises(StoreError, match="no results of slide two"):
        answers.read_slices("well=w/two.parquet", SLICES, columns=["embedding"], source_attempt="a1")
    content = bytearray(answers.files.read(path))
    content[len(content) // 2] ^= 255
    answers.files.write(path, bytes(content))
    with pytest.raises(StoreError, match="cannot be used"):
        answers.read_slices(path, SLICES, columns=["embedding"], source_attempt="a1")


def test_failures_of_answers_are_kept_apart_from_those_of_the_run(run: RunStore) -> None:
    answers = DerivedStore.create(run, "embeddings", "net", RECORD)
    answers.attempts.record_failure(a_failure("one", "a1b2"))
    answers.attempts.record_failure(a_failure("two", "a1b2"))
    answers.commit("two", None, some_vectors("two"), source_attempt="a1")
    assert [failure.slide_id for failure in answers.attempts.failures()] == ["one"]
    assert run.attempts.failures() == []


def test_answers_in_a_bucket_are_the_same(s3_run: tuple[str, StoreConfig]) -> None:  # noqa: F811
    url, config = s3_run
    run = RunStore.open(url, config)
    run.create_or_check(a_run())
    answers = DerivedStore.create(run, "embeddings", "net", RECORD)
    assert answers.commit("one", "6407/6-5", some_vectors("one"), source_attempt="a1")
    assert not answers.commit("one", "6407/6-5", some_vectors("one", value=2), source_attempt="a2")
    assert DerivedStore.open(run, "embeddings", "net").read("one").equals(some_vectors("one"))
    assert derived_names(run, "embeddings") == ["net"]
