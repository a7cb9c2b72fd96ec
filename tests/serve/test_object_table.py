"""The objects in memory: conditions, orders, and what of a large run is held."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from support.classified_run import predict
from support.small_run import write_small_run

from fossilray.serve.object_table import ObjectTable, Order, read_object_table
from fossilray.store import RunStore
from fossilray.store.derived.listing import latest_predictions


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = write_small_run(tmp_path_factory.mktemp("table") / "run")
    predict(store, "head", genera=("Alnus", "Pinus"), slides=["a-2030"])
    return store


@pytest.fixture(scope="module")
def table(run: RunStore) -> ObjectTable:
    return read_object_table(run, latest_predictions(run, None))


def test_it_holds_every_object_in_order_with_its_prediction(table: ObjectTable) -> None:
    assert (table.slides, table.total_slides, len(table)) == (
        ("a-2030", "b-2050", "c-2080", "d-empty"),
        4,
        77,
    )
    assert table.rows_of_slide("b-2050") == slice(40, 65)
    assert table.rows_of_slide("d-empty") == slice(77, 77)
    assert table.rows_of_slide("absent") == slice(0, 0)
    assert [table.row_of("c-2080", n) for n in (0, 11, 12)] == [65, 76, None]
    assert table.taxa == ("Alnus", "Pinus")
    assert (table.taxon[39:] == -1).all()
    assert np.isnan(table.confidence[39:]).all()


def test_conditions_are_joined_by_and(table: ObjectTable) -> None:
    alnus = table.choose(taxa=["Alnus"])
    assert set(alnus.tolist()) == {row for row in range(39) if table.taxon[row] == 0}
    assert len(table.choose(taxa=[""])) == 38
    assert len(table.choose(taxa=["Betula"])) == 0
    sure = table.choose(slides=["a-2030"], taxa=["Alnus"], confidence=(0.5, 1.0))
    assert set(sure.tolist()) == {row for row in alnus.tolist() if table.confidence[row] >= 0.5}
    mask = np.zeros(len(table), bool)
    mask[[3, 41]] = True
    assert table.choose(among=mask).tolist() == [3, 41]
    assert table.choose(slides=["b-2050", "c-2080"], among=mask).tolist() == [41]


@pytest.mark.parametrize("order", get_args(Order))
def test_an_order_keeps_every_row_and_sorts_by_its_key(table: ObjectTable, order: str) -> None:
    rows = table.choose()
    ordered = table.sort(rows, order, seed=3)  # type: ignore[arg-type]
    assert sorted(ordered.tolist()) == rows.tolist()
    assert ordered.tolist() == table.sort(rows, order, seed=3).tolist()  # type: ignore[arg-type]
    if order in ("most-confident", "least-confident"):
        values = table.confidence[ordered]
        assert np.isnan(values[39:]).all()
        assert (np.diff(values[:39]) * (-1 if order == "most-confident" else 1) >= 0).all()
    elif order in ("largest", "smallest"):
        sizes = table.size_um[ordered].max(axis=1)
        assert (np.diff(sizes) * (-1 if order == "largest" else 1) >= 0).all()
    elif order == "random":
        assert ordered.tolist() != table.sort(rows, order, seed=4).tolist()  # type: ignore[arg-type]


def test_a_random_order_stays_when_others_are_labelled_meanwhile(table: ObjectTable) -> None:
    every = table.sort(table.choose(), "random", seed=7)
    some = np.array([row for row in table.choose().tolist() if row % 3])
    assert [row for row in every.tolist() if row % 3] == table.sort(some, "random", seed=7).tolist()


def test_of_a_run_that_is_too_large_whole_slides_are_held(run: RunStore) -> None:
    table = read_object_table(run, latest_predictions(run, None), most=50)
    assert table.total_slides == 4
    assert set(table.slides) < {"a-2030", "b-2050", "c-2080", "d-empty"}
    assert 0 < len(table) <= 50
    counts = {"a-2030": 40, "b-2050": 25, "c-2080": 12, "d-empty": 0}
    assert len(table) == sum(counts[slide_id] for slide_id in table.slides)


def test_a_run_without_objects_is_an_empty_table(tmp_path: Path) -> None:
    table = read_object_table(write_small_run(tmp_path / "run", counts={"d-empty": 0}), None)
    assert (len(table), table.taxa) == (0, ())
    assert table.sort(table.choose(), "random").tolist() == []
