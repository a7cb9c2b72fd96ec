"""Each command and query of the guide to questions, run on a drawn well whose composition is known."""

from __future__ import annotations

import csv
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from support.cli_runner import rows_of, run_command
from support.expert_labels import label_objects, stated
from support.synthetic_well import TAXA, WELL, make_truth, start_run, write_well

from fossilray.core.records import CatalogRow
from fossilray.store import RunStore
from fossilray.store.query.connection import run_query

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "questions.md"
OTHER = "6407/7-1"
TRUTH = make_truth(samples=6)
TOP = "6407-6-5-2000"
MARKERS, GRAINS, GRAMS = 12, 40_000, 10


@dataclass(frozen=True)
class Question:
    """One section of the guide."""

    command: tuple[str, ...]
    sql: str


def questions() -> dict[str, Question]:
    text = GUIDE.read_text("utf-8")
    sections = {}
    for section in text.split("\n## ")[1:]:
        (command,) = re.findall(r"```bash\nfossilray (.*?)\n```", section)
        (sql,) = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
        sections[section.splitlines()[0]] = Question(tuple(shlex.split(command)), sql)
    return sections


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """A run of two wells in a folder with labels, a spike in the top sample, and an expert's counts."""
    place = tmp_path_factory.mktemp("questions")
    run = start_run(place / "run")
    names = [(f"6407-6-5-{depth:g}", depth) for depth in TRUTH.depths.tolist()]
    run.freeze_catalog(
        [CatalogRow(name, "a.mrxs", well=WELL, measured_depth_m=depth) for name, depth in names]
    )
    predictions = write_well(run, TRUTH, objects=90)
    deeper = replace(TRUTH, depths=TRUTH.depths + 300)
    write_well(run, deeper, well=OTHER, objects=60, predictions=predictions, seed=40)
    label_objects(
        run,
        place / "labels",
        [
            *((TOP, number, stated("Lycopodium", specimen="marker")) for number in range(MARKERS)),
            *((TOP, number, stated("Deflandrea", situation="reworked")) for number in range(20, 23)),
            *((TOP, number, stated("Deflandrea", situation="in place")) for number in range(23, 30)),
        ],
    )
    spike = f"slide_id,weight_g,marker,marker_tablets,grains_per_tablet\n{TOP},{GRAMS},Lycopodium,2,{GRAINS // 2}\n"
    (place / "samples.csv").write_text(spike)
    run_command("samples", "import", run.url, place / "samples.csv")
    rng = np.random.default_rng(8)
    with (place / "counts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["measured_depth_m", *TAXA])
        for row, depth in enumerate(TRUTH.depths.tolist()):
            specimens = rng.multinomial(300, TRUTH.shares[row])
            if row == 0:
                specimens[TAXA.index("Wetzeliella")] = 0  # the expert misses the leading taxon
            writer.writerow([depth, *specimens.tolist()])
    return run


def test_each_question_has_a_command_and_a_query_that_give_what_was_drawn(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(store.url).parent)
    rows = {}
    done = set()
    for title, question in questions().items():
        if "chosen.csv" in question.command:
            run_command("query", "run", question.sql, "--out", "chosen.csv")
        if question.command not in done:
            run_command(*question.command)
            done.add(question.command)
        rows[title] = run_query(store, question.sql).to_pylist()
    assert len(rows) == 8

    in_sample = {row["taxon"]: row for row in rows["What is in this sample?"]}
    wetzeliella = in_sample["Wetzeliella"]
    assert next(iter(in_sample)) == "Wetzeliella"
    counted = 90 - MARKERS - 3
    assert wetzeliella["count_low"] <= counted * TRUTH.shares[0, -1] <= wetzeliella["count_high"]

    holding = rows["Which samples of this well hold a taxon, with what interval?"]
    certain = {row["measured_depth_m"] for row in holding if row["is_certain"]}
    true = set(TRUTH.depths[TRUTH.shares[:, TAXA.index("Deflandrea")] > 0.1].tolist())
    assert certain >= true
    assert holding[0]["labelled"] == 7

    borders = [row["border_m"] for row in rows["Where does the assemblage change?"]]
    assert borders == [TRUTH.depths[1:3].mean(), TRUTH.depths[3:5].mean()]

    (pair,) = rows["Which wells have similar assemblages?"]
    assert (pair["well"], pair["other_well"]) == (WELL, OTHER)
    assert 0 <= pair["squared_chord_distance"] < 0.15
    assert len(rows_of(Path("match/correlation.csv"))) >= 4

    (reworked,) = rows["How much is reworked?"]
    assert (reworked["reworked"], reworked["labelled_palynomorphs"]) == (3, 10)
    assert (
        reworked["reworked_percent_low"]
        < reworked["reworked_percent"]
        == 30
        < reworked["reworked_percent_high"]
    )

    (concentration,) = rows["How many grains are in a gram?"]
    assert (concentration["markers"], concentration["grains_per"]) == (MARKERS, "g")
    assert concentration["concentration"] == pytest.approx(counted / MARKERS * GRAINS / GRAMS, rel=0.02)

    differing = rows["What did the expert count that we did not, and the other way round?"]
    assert (2000, "Wetzeliella", 0, True) in {
        (row["measured_depth_m"], row["taxon"], row["specimens"], row["is_certain"]) for row in differing
    }

    chosen = rows["Which specimens should be published?"]
    assert {row["taxon"] for row in chosen} == set(TAXA)
    assert 6 <= len(chosen) <= 12
    assert "Wetzeliella" in Path("plate.svg").read_text("utf-8")
