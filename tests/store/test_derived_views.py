"""Predictions and embeddings as views beside the objects, under all their names."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import duckdb
import pytest
from support.classified_run import GENERA, embed, predict
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.small_run import COUNTS, HOSTILE_WELL, WELL, write_small_run

from fossilray.core.config import StoreConfig
from fossilray.store import RunStore, open_run
from fossilray.store.dataset.compact import compact_run
from fossilray.store.query.connection import run_query

DOCS = Path(__file__).parents[2] / "docs"
OBJECTS = sum(COUNTS.values())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = write_small_run(tmp_path_factory.mktemp("archive") / "well=7" / "run")
    predict(store, "genera")
    predict(store, "later", seed=1)
    embed(store, "small", dimension=4)
    embed(store, "large", dimension=6)
    return store


def test_predictions_of_every_head_join_their_objects(run: RunStore) -> None:
    found = run_query(
        run,
        "SELECT head, o.well, genus, count(*) AS n FROM objects o JOIN predictions USING (slide_id, object_id) "
        "GROUP BY ALL",
    ).to_pylist()
    assert {row["head"] for row in found} == {"genera", "later"}
    assert {row["well"] for row in found} == {WELL}, "the slide of the other well has no object"
    by_head = Counter(dict.fromkeys(("genera", "later"), 0))
    for row in found:
        by_head[row["head"]] += row["n"]
    assert by_head == {"genera": OBJECTS, "later": OBJECTS}
    assert {row["genus"] for row in found} == {*GENERA, None}


def test_embeddings_of_unlike_lengths_stand_beside_each_other(run: RunStore) -> None:
    found = run_query(
        run,
        "SELECT name, len(embedding) AS d, count(*) AS n, max(abs(embedding[1] - object_id)) AS off, "
        "any_value(well) AS well FROM embeddings GROUP BY ALL ORDER BY name",
    ).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("large", 6, OBJECTS, 0.0, WELL),
        ("small", 4, OBJECTS, 0.0, WELL),
    ]


def test_a_run_that_nobody_asked_about_has_empty_views_of_the_same_columns(
    run: RunStore, tmp_path: Path
) -> None:
    bare = write_small_run(tmp_path / "run")
    for view in ("predictions", "embeddings"):
        empty = run_query(bare, f"SELECT * FROM {view}")
        assert empty.num_rows == 0
        assert empty.schema.equals(run_query(run, f"SELECT * FROM {view}").schema)
    predict(bare, "begun", slides=[])
    assert run_query(bare, "SELECT * FROM Predictions").num_rows == 0


def test_a_dataset_shows_the_results_of_its_run(run: RunStore, tmp_path: Path) -> None:
    compact_run(run, str(tmp_path / "dataset"), access=StoreConfig())
    sql = (
        "SELECT count(*) AS n FROM objects JOIN predictions USING (slide_id, object_id) WHERE head = 'genera'"
    )
    assert run_query(open_run(str(tmp_path / "dataset")), sql)["n"].to_pylist() == [OBJECTS]


def test_results_in_a_bucket_are_shown_as_those_on_a_disk(
    s3_run: tuple[str, StoreConfig],  # noqa: F811
) -> None:
    url, access = s3_run
    remote = write_small_run(url, config=access, counts={"a-2030": 5, "d-empty": 3})
    predict(remote, "genera")
    found = run_query(remote, "SELECT well, count(*) AS n FROM predictions GROUP BY ALL ORDER BY n DESC")
    assert found.to_pylist() == [{"well": WELL, "n": 5}, {"well": HOSTILE_WELL, "n": 3}]


def test_the_recipes_in_the_docs_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = write_small_run(tmp_path / "run")
    predict(run, "genera")
    section = (DOCS / "guide" / "training.md").read_text(encoding="utf-8").partition("\n## Predictions\n")[2]
    section = section.partition("\n## ")[0]
    bare = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    ours = re.findall(r'^fossilray query run "(.*)"$', section, re.MULTILINE)
    assert len(bare) == 1
    assert len(ours) == 2
    rows = duckdb.sql(bare[0]).fetchall()
    assert sum(row[-1] for row in rows) == OBJECTS - 3, "three slides with an object that has no genus"
    assert all(run_query(run, sql).num_rows for sql in ours)
