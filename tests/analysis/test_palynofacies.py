"""Palynofacies, marine share and reworking of samples of known composition are recovered within their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cli_runner import invoke, rows_of, run_command
from support.expert_labels import label_objects, stated
from support.small_run import WELL, write_small_run

from fossilray.analysis.stratigraphy.confusion import Confusion
from fossilray.analysis.stratigraphy.palynofacies import PARTS, estimate_palynofacies
from fossilray.analysis.stratigraphy.samples import WellSample, WellSamples
from fossilray.analysis.stratigraphy.taxon_grouping import group_taxa
from fossilray.analysis.stratigraphy.ternary import to_plane
from fossilray.core.errors import UsageError
from fossilray.store import RunStore

NAMES = ("wood", "amorphous matter", "Deflandrea", "Alnus", "mineral")
SHARES = np.array([[0.30, 0.25, 0.20, 0.15, 0.10], [0.05, 0.60, 0.25, 0.05, 0.05]])


def samples_of(counts: np.ndarray[Any, Any]) -> WellSamples:
    rows = tuple(
        WellSample(
            label=f"s{row}",
            depth_m=2000.0 + row,
            top_m=2000.0 + row,
            base_m=2000.0 + row,
            sample_type=None,
            spike=None,
            amount=None,
            has_mixed_spikes=False,
            slides=1,
            classified=1,
            objects=int(each.sum()),
            unclassified=0,
            lost_share=0.0,
        )
        for row, each in enumerate(counts)
    )
    return WellSamples(WELL, None, NAMES, rows, counts, ())


@pytest.mark.parametrize("right", [1.0, 0.85])
def test_shares_of_drawn_samples_lie_in_their_intervals_at_the_stated_rate(right: float) -> None:
    rng = np.random.default_rng(3)
    confused = np.full((5, 5), (1 - right) / 4) + np.eye(5) * (right - (1 - right) / 4)
    grouping = group_taxa(NAMES, None)
    organic = SHARES[:, [1, 0]]
    truth = np.concatenate([organic, SHARES[:, 2:4].sum(axis=1, keepdims=True)], axis=1)
    truth /= truth.sum(axis=1, keepdims=True)
    marine = SHARES[:, 2] / SHARES[:, 2:4].sum(axis=1)
    inside, marine_inside = [], []
    for draw in range(60):
        counts = np.stack([rng.multinomial(300, share @ confused) for share in SHARES])
        confusion = (
            None if right == 1 else Confusion(NAMES, np.stack([rng.multinomial(80, row) for row in confused]))
        )
        found = estimate_palynofacies(
            samples_of(counts),
            NAMES,
            grouping,
            confusion=confusion,
            sides=(["Deflandrea"], ["Alnus"]),
            seed=draw,
        )
        assert found.facies is not None
        assert found.marine is not None
        assert np.allclose(found.facies.shares.sum(axis=1), 1)
        inside.append((found.facies.low <= truth) & (truth <= found.facies.high))
        marine_inside.append((found.marine.low[:, 0] <= marine) & (marine <= found.marine.high[:, 0]))
    assert np.mean(inside) > 0.92
    assert np.mean(marine_inside) > 0.92


def test_corners_and_sides_of_the_triangle() -> None:
    assert np.allclose(to_plane(np.eye(3)), [[0.5, np.sqrt(3) / 2], [0, 0], [1, 0]])
    assert np.allclose(to_plane(np.full((1, 3), 1 / 3)), [[0.5, np.sqrt(3) / 6]])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return write_small_run(tmp_path_factory.mktemp("facies") / "run", embeddings=False)


def test_labels_alone_make_a_ternary_diagram_a_marine_share_and_a_reworked_share(
    run: RunStore, tmp_path: Path
) -> None:
    given = [
        *[("a-2030", number, "wood") for number in range(4)],
        *[("a-2030", number, "cuticle") for number in range(4, 6)],
        *[("a-2030", number, "amorphous matter") for number in range(6, 16)],
        *[("a-2030", number, "mineral") for number in range(16, 20)],
        *[("a-2030", number, "Deflandrea") for number in range(20, 26)],
        *[("a-2030", number, "Alnus") for number in range(26, 28)],
        *[("a-2030", number, stated("Cicatricosisporites", situation="reworked")) for number in (28, 29)],
        ("a-2030", 30, stated("Azolla", situation="caved")),
        ("b-2050", 0, "Alnus"),
    ]
    labels = label_objects(run, tmp_path / "labels", given)
    words = ("chart", run.url, "--well", WELL, "--labels", labels, "--out", tmp_path / "chart")
    printed = run_command(*words, "--marine", "Deflandrea", "--terrestrial", "Alnus")
    top, second, last = rows_of(tmp_path / "chart" / "palynofacies.csv")
    organic = 4 + 2 + 10 + 6 + 2 + 2
    assert int(top["particles"]) == organic
    assert [float(top[f"{part.replace(' ', '_')}_percent"]) for part in PARTS] == pytest.approx(
        [100 * 10 / organic, 100 * 6 / organic, 100 * 10 / organic], abs=0.01
    )
    assert (float(top["marine_percent"]), float(top["marine_to_terrestrial"])) == (75.0, 3.0)
    assert (top["labelled_palynomorphs"], top["reworked"], top["reworked_percent"]) == ("10", "2", "20.0")
    assert float(top["reworked_percent_low"]) < 20 < float(top["reworked_percent_high"])
    assert (second["palynomorphs_percent"], second["marine_to_terrestrial"]) == ("100.0", "0.0")
    assert (last["particles"], last["marine_percent"], last["reworked_percent"]) == ("0", "", "")
    assert "2 of 11 labelled palynomorphs" in printed
    assert "palynofacies, mean of the samples" in printed
    assert {"palynofacies.svg", "palynofacies.png"} <= {path.name for path in (tmp_path / "chart").iterdir()}
    assert "Ternary diagram" in (tmp_path / "chart" / "chart.html").read_text(encoding="utf-8")
    for sides, message in (
        (("--marine", "Deflandrea"), "needs both sides"),
        (("--marine", "Alnus", "--terrestrial", "alnus"), "both marine and terrestrial"),
        (("--marine", "dinocysts", "--terrestrial", "Alnus"), "give --taxonomy"),
    ):
        refused = invoke(*words, *sides)
        assert isinstance(refused.exception, UsageError)
        assert message in str(refused.exception)


def test_the_only_well_need_not_be_named(run: RunStore, tmp_path: Path) -> None:
    of_two = invoke(
        "chart", run.url, "--labels", label_objects(run, tmp_path / "two", [("a-2030", 0, "Alnus")])
    )
    assert "name one of the 2 wells by --well" in str(of_two.exception)
    one = write_small_run(tmp_path / "run", counts={"a-2030": 4}, embeddings=False)
    labels = label_objects(one, tmp_path / "one", [("a-2030", 0, "Alnus")])
    assert f"well {WELL}" in run_command("chart", one.url, "--labels", labels, "--out", tmp_path / "chart")


def test_without_kinds_groups_and_labels_there_is_nothing_to_show(run: RunStore, tmp_path: Path) -> None:
    labels = label_objects(run, tmp_path / "labels", [("a-2030", 0, "Alnus")])
    run_command("chart", run.url, "--well", WELL, "--labels", labels, "--out", tmp_path / "chart")
    names = {path.name for path in (tmp_path / "chart").iterdir()}
    assert not names & {"palynofacies.csv", "palynofacies.svg"}
