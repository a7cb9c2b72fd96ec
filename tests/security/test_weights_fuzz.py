"""Weights, heads, checkpoints and coders, spoiled in every way: each is loaded or refused, and nothing else happens."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.weights_fuzz import KINDS, count_outcomes


def test_spoiled_weights_of_every_kind_are_loaded_or_refused_in_one_sentence(tmp_path: Path) -> None:
    counted, faults = count_outcomes(tmp_path, seed=0, each=6)
    assert not faults, "\n".join(faults)
    assert {kind for kind, end in counted if end == "refused"} == set(KINDS)
    assert sum(counted.values()) == 6 * len(KINDS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_many_spoiled_weights_are_loaded_or_refused(seed: int, tmp_path: Path) -> None:
    _, faults = count_outcomes(tmp_path, seed=100 + seed, each=250)
    assert not faults, "\n".join(faults)
