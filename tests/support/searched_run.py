"""A run of four slides with its index, and exhaustive search of its vectors."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from support.indexed_runs import (
    a_vector_run,
    directions,
    index_runs,
    kinds_of_vectors,
)

from fossilray.analysis.search.search import Hit, SearchIndex
from fossilray.store import RunStore

SIZES = {"a": 400, "b": 350, "c": 5, "d": 600}
WELLS = {"a": "W-1", "b": "W-1", "c": "W-2", "d": "6407/6-5"}
ALL = {"probes": 1000}


def vectors_of(sizes: dict[str, int] = SIZES) -> dict[str, NDArray[np.float16]]:
    return {name: kinds_of_vectors(size, seed=ord(name)) for name, size in sizes.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return a_vector_run(tmp_path_factory.mktemp("runs") / "run", vectors_of(), wells=WELLS)


@pytest.fixture(scope="module")
def index(run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    return SearchIndex.open(index_runs([run.url], tmp_path_factory.mktemp("index") / "index").url)


def exact(
    slides: dict[str, NDArray[np.float16]], query: NDArray[np.float32], count: int
) -> list[tuple[str, int]]:
    """Return the nearest objects by exhaustive search, without the last of each slide, which has no pixels."""
    scored = [
        (-float(direction @ query), name, number)
        for name, vectors in slides.items()
        for number, direction in enumerate(directions(vectors)[:-1])
    ]
    return [(name, number) for _, name, number in sorted(scored)[:count]]


def named(hits: list[Hit]) -> list[tuple[str, int]]:
    return [(hit.slide.slide_id, hit.object_id) for hit in hits]


def some_queries(count: int = 20) -> NDArray[np.float32]:
    return directions(kinds_of_vectors(count, seed=999))
