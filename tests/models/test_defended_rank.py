"""The rank that a prediction can defend: thresholds from held-out crops, and what they hold on new objects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.cli_runner import run_command
from support.fault_job_commands import without_ray
from support.small_run import WELL, commit_slide

from fossilray.core.config import CropsConfig, RunConfig
from fossilray.models.heads import load_head
from fossilray.models.heads.defended_rank import defended_taxa, fit_thresholds
from fossilray.models.heads.head import TaxaMeta
from fossilray.store import RunStore
from fossilray.store.query.connection import connect, query_table
from fossilray.store.run.run_record import describe_run

CLASSES = ("Alnus", "Betula", "Pinus", "Picea", "wood")
LINEAGES = (
    {"genus": "Alnus", "family": "Betulaceae"},
    {"genus": "Betula", "family": "Betulaceae"},
    {"genus": "Pinus", "family": "Pinaceae"},
    {"genus": "Picea"},
    {},
)
TAXA = TaxaMeta(rank="genus", lineages=LINEAGES, accuracy=0.9)


def draw(n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probabilities from which the labels are drawn, so that they are calibrated; the Betulaceae are hard to tell."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 5)) + 4.5 * np.eye(5)[rng.integers(0, 5, n)]
    logits[:, :2] = logits[:, :2].max(axis=1, keepdims=True) + rng.normal(0, 0.4, (n, 2))
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    label = (probability.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return probability.astype(np.float32), label


def test_what_a_rank_reports_is_right_as_often_as_stated_and_the_family_is_used() -> None:
    taxa = fit_thresholds(*draw(1500, 1), TAXA)
    probability, label = draw(20_000, 2)
    names, ranks = defended_taxa(probability, CLASSES, taxa)
    for rank in ("genus", "family"):
        rows = [row for row, found in enumerate(ranks) if found == rank]
        truth = [LINEAGES[label[row]].get(rank) for row in rows]
        share = np.mean([names[row] == true for row, true in zip(rows, truth, strict=True)])
        assert len(rows) > 1000
        assert share > 0.9 - 0.02
    assert {name for name, rank in zip(names, ranks, strict=True) if rank == "family"} == {"Betulaceae"}
    assert {rank for name, rank in zip(names, ranks, strict=True) if name == "wood"} == {None}


def test_a_class_falls_back_to_taxa_that_it_shares_with_others_only() -> None:
    taxa = TAXA.model_copy(update={"thresholds": {"family": 0.5}})
    probability = np.eye(5, dtype=np.float32) * 0.9 + 0.02
    names, ranks = defended_taxa(probability, CLASSES, taxa)
    assert names == ["Betulaceae", "Betulaceae", None, None, None]
    assert ranks == ["family", "family", None, None, None]


def test_too_few_held_out_crops_defend_nothing() -> None:
    certain = np.eye(5, dtype=np.float32)[[0, 1, 2, 3] * 2]
    taxa = fit_thresholds(certain, np.array([0, 1, 2, 3] * 2), TAXA)
    assert taxa.thresholds == {}
    assert defended_taxa(certain, CLASSES, taxa) == ([None] * 8, [None] * 8)
    nine = np.eye(5, dtype=np.float32)[[0, 1, 2] * 3]
    assert fit_thresholds(nine, np.array([0, 1, 2] * 3), TAXA).thresholds == {"genus": 1.0}


def test_a_head_of_a_rank_is_trained_stored_and_run(tmp_path: Path) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    config = RunConfig(crops=CropsConfig(size_px=32))
    store.create_or_check(describe_run(config, {"detector": "ab" * 32, "embedder/net": "ef" * 32}))
    commit_slide(store, "a-2030", count=80, well=WELL, depth_m=2030.0, seed=3)
    order = query_table(connect(store), "SELECT object_id FROM objects ORDER BY opacity")[
        "object_id"
    ].to_pylist()
    cells = ["wood"] * 20 + ["Alnus glutinosa"] * 10 + ["Alnipollenites"] * 10 + ["Betula cf. nana"] * 20
    cells += ["Betulaceae"] * 5 + ["?Alnus"] * 5
    rows = "".join(f"a-2030,{order[n]},{cell}\n" for n, cell in enumerate(cells))
    (tmp_path / "t.csv").write_text(f"slide_id,object_id,taxon\n{rows}")
    (tmp_path / "taxa.csv").write_text(
        "genus,family,synonyms\nAlnus,Betulaceae,Alnipollenites\nBetula,Betulaceae,\n"
    )
    run_command("labels", "import", tmp_path / "t.csv", "--run", store.url, "--to", tmp_path / "labels")
    head = tmp_path / "genera.safetensors"
    train = ("classify", "train", "--labels", tmp_path / "labels", "--run", store.url, "--backbone", "run")
    output = run_command(*train, "--rank", "genus", "--taxonomy", tmp_path / "taxa.csv", "--out", head)
    assert "60 labelled crops of 3 classes" in output
    assert "5 are coarser than genus; left out" in output
    assert "5 are uncertain; left out" in output
    assert "probability from which 90% are right, by rank" in output
    taxa = load_head(head).meta.taxa
    assert taxa is not None
    assert load_head(head).classes == ("Alnus", "Betula", "wood")
    assert taxa.lineages[0] == {"genus": "Alnus", "family": "Betulaceae"}
    assert taxa.lineages[2] == {}
    with pytest.raises(SystemExit) as ended:
        without_ray("classify", "run", store.url, "--head", head)
    assert not ended.value.code
    found = json.loads(
        run_command("query", store.url, "SELECT genus, taxon, rank FROM predictions", "--format", "json")
    )
    assert len(found) == 80
    assert {row["rank"] for row in found} <= {"genus", "family", None}
    assert any(row["taxon"] for row in found)
    species = run_command(
        *train, "--rank", "species", "--uncertain", "train", "--out", tmp_path / "s.safetensors"
    )
    assert "50 labelled crops of 3 classes" in species
