"""Codes of vectors in an index, and the sample that they are trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.indexed_runs import (
    PLAIN,
    a_vector_run,
    directions,
)

from fossilray.analysis.search.quantizer import (
    QUANTIZERS,
    InvertedLists,
    VectorQuantizer,
    compare_quantizers,
    lists_for,
)
from fossilray.analysis.search.sample import sample_vectors
from fossilray.analysis.search.vectors_of_runs import open_sources
from fossilray.core.errors import UsageError


def test_the_sample_is_stratified_by_well(tmp_path: Path) -> None:
    slides = {"a": 900, "b": 300, "c": 40}
    wells = {"a": "rich", "b": "fair", "c": "poor"}
    made = {name: np.eye(3)[[axis]].repeat(count, 0) for axis, (name, count) in enumerate(slides.items())}
    store = a_vector_run(tmp_path / "run", made, wells=wells)
    sources = open_sources([store.url], None, PLAIN)
    listed = sources[store.url].slides()
    vectors = sample_vectors(sources, listed, count=340, dimension=3, seed=0)
    assert np.abs(vectors.sum(axis=0) - [150, 150, 40]).max() <= 1  # the last of each slide has no pixels


@pytest.mark.parametrize("name", QUANTIZERS)
def test_codes_preserve_the_neighbours_of_vectors(name: str) -> None:
    rng = np.random.default_rng(3)
    vectors = directions(rng.normal(size=(3000, 160)) * np.arange(1, 161) ** -0.7)
    coder = VectorQuantizer.train(vectors, name=name, lists=16, seed=0)
    again = VectorQuantizer.from_bytes(
        coder.to_bytes(), name=name, dimension=coder.dimension, lists=coder.lists, path="here"
    )
    lists, codes = again.encode(vectors)
    assert codes.shape == (3000, coder.code_bytes)
    assert 60 <= coder.code_bytes <= 100
    kept = InvertedLists(again)
    for number in range(16):
        rows = np.flatnonzero(lists == number)
        kept.add(number, rows, codes[rows])
    queries = vectors[:100]
    found = kept.search(again.nearest_lists(queries, 16), 30, None)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    assert np.mean([len(np.intersect1d(f, b)) for f, b in zip(found, best, strict=True)]) > 9.5
    few = np.packbits(np.arange(3000) % 7 == 0, bitorder="little")
    assert (kept.search(again.nearest_lists(queries, 16), 30, few) % 7 == 0).all()


def test_the_quantizer_is_chosen_by_its_recall() -> None:
    rng = np.random.default_rng(3)
    flat = directions(rng.normal(size=(4000, 160)))
    trials = compare_quantizers(flat, seed=0)
    assert {trial.coder for trial in trials} == set(QUANTIZERS)
    assert trials[0].coder != "pca64-8bit"  # 64 axes are too few for 160 equal ones
    assert trials[0].recall == max(trial.recall for trial in trials)
    with pytest.raises(UsageError, match="too few"):
        compare_quantizers(flat[:50], seed=0)


def test_lists_grow_with_the_square_root() -> None:
    assert [lists_for(n) for n in (1, 10_000, 10**6, 10**7, 3 * 10**9)] == [4, 128, 1024, 4096, 65536]
