"""Audits: what is drawn from which calls, how labels confirm or contradict them, and bounds that hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from audit import CELLS, LEVEL, measure
from numpy.typing import NDArray
from scipy.stats import binomtest
from support.classified_run import BACKBONE
from support.cli_runner import invoke, rows_of, run_command
from support.expert_labels import label_objects, stated
from support.synthetic_well import TAXA, WELL, make_truth, predictions_table, start_run, write_well

from fossilray.analysis.audit.bounds import draws_needed, lower_bound, upper_bound
from fossilray.analysis.audit.report import AuditReport, describe_audit, report_audit
from fossilray.core.errors import StoreError, UsageError
from fossilray.core.schemas import CALIBRATED_PREDICTIONS_SCHEMA
from fossilray.labels.audit.allocation import allocate_draws, draw_marks, draw_positions
from fossilray.labels.audit.audit_record import AUDIT_DRAWS, Audit, read_audit
from fossilray.labels.audit.draw import draw_audit
from fossilray.labels.audit.population import AuditRequest
from fossilray.labels.determinations import read_determinations
from fossilray.labels.label_set import LabelSet
from fossilray.labels.sources import object_of
from fossilray.labels.taxonomy import read_taxonomy
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import CALIBRATED_VERSION, DerivedRecord, DerivedStore
from fossilray.store.query.connection import run_query

OTHER_WELL = "6407/6-6"
OBJECTS = 80
Key = tuple[str, int]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """Two wells of five and three samples; `kept` are other predictions with p-values."""
    store = start_run(tmp_path_factory.mktemp("wells") / "run")
    predictions = write_well(store, make_truth(samples=5), objects=OBJECTS)
    write_well(
        store,
        make_truth(samples=3, seed=1),
        well=OTHER_WELL,
        objects=OBJECTS,
        seed=9,
        predictions=predictions,
    )
    return store


@pytest.fixture(scope="module")
def calls(run: RunStore) -> dict[Key, str]:
    """What the head called each object."""
    table = run_query(run, "SELECT slide_id, object_id, genus FROM predictions WHERE head = 'genera'")
    return {(row["slide_id"], row["object_id"]): row["genus"] for row in table.to_pylist()}


@pytest.fixture(scope="module")
def truth(calls: dict[Key, str]) -> dict[Key, str]:
    """What each object is: an eighth of the calls are wrong, and some of these are of a genus the head lacks."""
    found = {}
    for number, (key, call) in enumerate(sorted(calls.items())):
        others = [*(taxon for taxon in TAXA if taxon != call), "Spiniferites"]
        found[key] = others[number // 8 % len(others)] if number % 8 == 0 else call
    return found


def wrong_share(calls: dict[Key, str], truth: dict[Key, str]) -> float:
    return float(np.mean([call != truth[key] for key, call in calls.items()]))


def audit_of(run: RunStore, folder: Path, request: AuditRequest | None = None, *, count: int = 60) -> Audit:
    draw_audit(run, folder, request or AuditRequest(), count=count)
    return read_audit(folder)


def test_an_audit_is_drawn_labelled_without_its_calls_and_bounds_the_wrong_ones(
    run: RunStore, calls: dict[Key, str], truth: dict[Key, str], tmp_path: Path
) -> None:
    drawn, labels = tmp_path / "audit", tmp_path / "labels"
    output = run_command("audit", "draw", run.url, "--out", drawn, "--limit", 150, "--bound", "0.1")
    assert "150 of 640 objects" in output
    assert "to show that at most 10 % are wrong, label " in output
    rows = rows_of(drawn / "audit.csv")
    assert {"guess", "score"}.isdisjoint(rows[0])
    words = (drawn / "audit.csv").read_text() + (drawn / "particletrieur.csv").read_text()
    assert not any(taxon in words for taxon in TAXA)
    assert {row["well"] for row in rows} == {WELL, OTHER_WELL}
    for row in rows:
        key = (row["slide_id"], int(row["object_id"]))
        assert object_of(row["file"]) == key
        folder = drawn / truth[key]
        folder.mkdir(exist_ok=True)
        (drawn / row["file"]).rename(folder / Path(row["file"]).name)
    run_command("labels", "import", drawn, "--run", run.url, "--to", labels, "--annotator", "Ada")
    audit = read_audit(drawn)
    given = [label for labels_ in LabelSet.open(labels).labels().by_object.values() for label in labels_]
    assert {label.chosen_by for label in given} == {audit.record.chosen_by}
    assert f"150 were chosen at random, by {audit.record.chosen_by}" in run_command("labels", "show", labels)
    run_command("labels", "export", labels, "--out", tmp_path / "labels.csv")
    run_command("labels", "import", tmp_path / "labels.csv", "--run", run.url, "--to", tmp_path / "copy")
    assert LabelSet.open(tmp_path / "copy").labels().by_object.keys() == {label.key for label in given}
    assert LabelSet.open(tmp_path / "copy").labels_of_round(1)[0].chosen_by == audit.record.chosen_by
    words = ("audit", "report", run.url, "--audit", drawn, "--labels", labels, "--bound", "0.05")
    output = run_command(*words, "--out", tmp_path / "report")
    assert "150 of 150 draws are labelled" in output
    assert "a bound of 5 % on all calls cannot be shown" in output
    found = json.loads(run_command(*words, "--json"))
    assert found == json.loads((tmp_path / "report" / "report.json").read_text())
    share = found["total"]["share"]
    assert share["low"] < wrong_share(calls, truth) < share["high"] < 0.3
    shares = {row["taxon"]: row for row in rows_of(tmp_path / "report" / "shares.csv")}
    assert sum(float(row["share"]) for row in shares.values()) == pytest.approx(1)
    for taxon in {*TAXA, "Spiniferites"}:
        of_it = np.mean([name == taxon for name in truth.values()])
        assert float(shares[taxon]["share_low"]) <= of_it <= float(shares[taxon]["share_high"])
    table = {row["call"]: row for row in rows_of(tmp_path / "report" / "wrong_calls.csv")}
    assert sum(int(row["objects"]) for call, row in table.items() if call != "all calls") == 640
    for taxon in TAXA:
        of_it = np.mean([truth[key] != call for key, call in calls.items() if call == taxon])
        assert float(table[taxon]["at_least"]) <= of_it <= float(table[taxon]["at_most"])


def test_calls_are_written_only_if_they_are_wanted(
    run: RunStore, calls: dict[Key, str], tmp_path: Path
) -> None:
    run_command(
        *("audit", "draw", run.url, "--out", tmp_path / "audit", "--limit", 12, "--show-predictions"),
    )
    for row in rows_of(tmp_path / "audit" / "audit.csv"):
        assert row["guess"] == calls[row["slide_id"], int(row["object_id"])]


def test_draws_are_spread_over_samples_and_taxa_and_weights_add_up_to_the_population(
    run: RunStore, calls: dict[Key, str], tmp_path: Path
) -> None:
    audit = audit_of(run, tmp_path / "audit")
    for taxon in TAXA:
        of_taxon = [draw for draw in audit.draws if draw.call == taxon]
        expected = list(calls.values()).count(taxon)
        assert sum(draw.weight for draw in of_taxon) == pytest.approx(expected)
        assert all(draw.weight >= 1 for draw in of_taxon)
    assert {draw.slide_id for draw in audit.draws} == run.committed()
    assert all(calls[draw.key] == draw.call for draw in audit.draws)
    again = audit_of(run, tmp_path / "again")
    assert (again.draws, again.record.id) == (audit.draws, audit.record.id)
    names = [row["file"] for row in rows_of(tmp_path / "audit" / "audit.csv")]
    assert names != sorted(names), "the order is random"


def test_a_population_is_what_the_options_leave(run: RunStore, calls: dict[Key, str], tmp_path: Path) -> None:
    some = sorted(calls)[:30]
    labels = label_objects(run, tmp_path / "labels", [(*key, calls[key]) for key in some])
    taxonomy = tmp_path / "taxa.csv"
    taxonomy.write_text(
        "genus,family,group\nDeflandrea,Deflandreaceae,dinocysts\nAreoligera,Areoligeraceae,\n"
    )
    cases = {
        "well": (AuditRequest(well=OTHER_WELL), lambda key, call: key[0].startswith("6407-6-6")),
        "where": (AuditRequest(where="object_id < 20 -- small"), lambda key, call: key[1] < 20),
        "out": (
            AuditRequest(leave_out=("dinocysts",), taxonomy=read_taxonomy(taxonomy)),
            lambda key, call: call != "Deflandrea",
        ),
        "labelled": (AuditRequest(labels=labels), lambda key, call: key not in some),
    }
    for name, (request, is_in) in cases.items():
        audit = audit_of(run, tmp_path / name, request, count=700)
        wanted = {key for key, call in calls.items() if is_in(key, call)}
        assert set(audit.objects) == wanted, name
        assert audit.record.objects == len(wanted)
    assert "without a label in labels, version 1" in audit.record.population.describe()
    with pytest.raises(UsageError, match="Quercus is no class of the head"):
        draw_audit(run, tmp_path / "none", AuditRequest(leave_out=("Quercus",)), count=9)
    with pytest.raises(UsageError, match="no call of the population: all calls, of the well 1/1-1"):
        draw_audit(run, tmp_path / "none", AuditRequest(well="1/1-1"), count=9)
    with pytest.raises(UsageError, match="is not empty"):
        draw_audit(run, tmp_path / "well", AuditRequest(), count=9)


def test_kept_predictions_are_those_of_the_command_calls(run: RunStore, tmp_path: Path) -> None:
    head = {"sha256": "12" * 32, "kind": "knn", "classes": list(TAXA)}
    record = DerivedRecord(
        "predictions", run.read_run().digest, BACKBONE, head=head, schema_version=CALIBRATED_VERSION
    )
    with_p = DerivedStore.create(run, "predictions", "calibrated", record)
    p_values = np.linspace(0.001, 1, OBJECTS).astype(np.float32)
    for slide_id in sorted(run.committed()):
        footer = run.footer(slide_id)
        assert footer is not None
        table = predictions_table(slide_id, np.repeat(TAXA, OBJECTS)[:OBJECTS])
        more = {
            "genera": pa.array([[TAXA[0]]] * OBJECTS, pa.list_(pa.string())),
            "wrong_p": pa.array(np.where(p_values < 0.3, 0.001, p_values)),
            "novelty": pa.array(p_values),
            "novelty_p": pa.array(np.where(np.arange(OBJECTS) == 3, 0.001, 0.5).astype(np.float32)),
        }
        columns = [
            *table.columns,
            *(array.cast(CALIBRATED_PREDICTIONS_SCHEMA.field(n).type) for n, array in more.items()),
        ]
        with_p.commit(
            slide_id,
            footer.summary.well,
            pa.Table.from_arrays(columns, schema=CALIBRATED_PREDICTIONS_SCHEMA),
            source_attempt=footer.attempt,
        )
    kept = run_command("calls", run.url, "--predictions", "calibrated", "--wrong", "0.05")
    out = tmp_path / "audit"
    output = run_command(
        *("audit", "draw", run.url, "--out", out, "--predictions", "calibrated", "--wrong", "0.05"),
        *("--limit", 1000),
    )
    assert "these are all, so their labels give shares without a sampling error" in output
    audit = read_audit(out)
    assert f"{audit.record.objects} of them are of objects that are close to a label" in kept
    assert max(draw.object_id for draw in audit.draws) < 0.3 * OBJECTS
    assert 3 not in {draw.object_id for draw in audit.draws}


def report_on(run: RunStore, audit: Audit, labels: Path, **options: object) -> AuditReport:
    return report_audit(run, audit, read_determinations(labels, run), **options)  # type: ignore[arg-type]


def test_each_kind_of_label_is_counted_and_open_ones_widen_the_bounds(
    run: RunStore, truth: dict[Key, str], tmp_path: Path
) -> None:
    audit = audit_of(run, tmp_path / "audit", AuditRequest(predictions="genera"))
    objects = audit.objects
    plain = {key: truth[key] for key in objects}
    whole = report_on(run, audit, label_objects(run, tmp_path / "whole", [(*k, v) for k, v in plain.items()]))
    by_call = {draw.key: draw.call for draw in audit.draws}
    given = {
        objects[0]: stated(f"cf. {by_call[objects[0]]}"),
        objects[1]: stated("wood"),
        objects[2]: stated(f"{by_call[objects[2]]} sp. A"),
        objects[3]: stated(plain[objects[3]], is_unsure=True),
        objects[5]: stated("no object"),
    }
    labels = label_objects(
        run, tmp_path / "labels", [(*k, given.get(k, v)) for k, v in plain.items() if k not in objects[4:5]]
    )
    label_objects(run, labels, [(*objects[6], "Quercus")], who="Eva")
    mixed = report_on(run, audit, labels)
    assert mixed.reached == len(audit.draws)
    assert mixed.outcomes["doubtful"] == 2
    assert (mixed.outcomes["unlabelled"], mixed.outcomes["contradicted"]) == (1, 1)
    assert (mixed.no_fossils, mixed.total.open) == (2, 4)
    assert mixed.total.share.high > whole.total.share.high
    text = " | ".join(describe_audit(mixed))
    assert "1 passed over without a label" in text
    assert "2 are labelled as what is not a whole fossil" in text
    half = label_objects(run, tmp_path / "half", [(*key, plain[key]) for key in objects[:20]])
    early = report_on(run, audit, half)
    assert (early.reached, early.total.open) == (20, 0)
    assert "draws after the last labelled one are not part of the sample yet" in " ".join(
        describe_audit(early)
    )


def test_a_label_coarser_than_the_call_decides_nothing(run: RunStore, tmp_path: Path) -> None:
    taxonomy = tmp_path / "taxa.csv"
    taxonomy.write_text(
        "genus,family,synonyms\nDeflandrea,Deflandreaceae,\nCerodinium,Deflandreaceae,Ceratiopsis\n"
        "Wetzeliella,Wetzeliellaceae,\n"
    )
    taxa = read_taxonomy(taxonomy)
    audit = audit_of(run, tmp_path / "audit", AuditRequest(predictions="genera"))
    synonym = {"Cerodinium": "Ceratiopsis", "Deflandrea": "Deflandreaceae", "Wetzeliella": "Deflandreaceae"}
    labels = label_objects(
        run,
        tmp_path / "labels",
        [(*draw.key, synonym.get(draw.call, draw.call)) for draw in {d.key: d for d in audit.draws}.values()],
    )
    found = report_audit(run, audit, read_determinations(labels, run, taxonomy=taxa), taxonomy=taxa)
    by_call = {row.call: row.found for row in found.by_call}
    assert by_call["Cerodinium"].wrong == by_call["Cerodinium"].open == 0
    assert by_call["Deflandrea"].open == by_call["Deflandrea"].draws
    assert by_call["Wetzeliella"].wrong == by_call["Wetzeliella"].draws


def test_audits_without_labels_of_other_runs_or_with_damage_are_refused(
    run: RunStore, tmp_path: Path
) -> None:
    audit = audit_of(run, tmp_path / "audit", AuditRequest(predictions="genera"))
    others = [key for key in ((slide, 0) for slide in run.committed()) if key not in audit.objects]
    labels = label_objects(run, tmp_path / "labels", [(*key, "Alnus") for key in others])
    with pytest.raises(UsageError, match="has a label in labels; label them"):
        report_on(run, audit, labels)
    with pytest.raises(UsageError, match="of audits are exact from"):
        report_on(run, audit, labels, level=0.6)
    with pytest.raises(UsageError, match="holds no audit"):
        read_audit(labels)
    other = start_run(tmp_path / "other")
    write_well(other, make_truth(samples=3, right=0.7), well="1/1-1", objects=9)
    with pytest.raises(UsageError, match="processed again since it was drawn"):
        report_on(other, audit, label_objects(other, tmp_path / "more", [("1-1-1-2000", 0, "Alnus")]))
    draws = tmp_path / "audit" / AUDIT_DRAWS
    draws.write_bytes(draws.read_bytes()[:-9] + b"123456789")
    with pytest.raises(StoreError, match="it is not the file that"):
        read_audit(tmp_path / "audit")
    assert invoke("audit", "draw", run.url, "--out", tmp_path / "x", "--predictions", "none").exit_code == 1


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_bounds_hold_in_the_stated_share_of_400_audits_and_corrected_shares_are_unbiased(cell) -> None:  # type: ignore[no-untyped-def]
    found = measure(cell, audits=400)
    assert min(found.held_above, found.held_below, found.held_by_taxon, found.held_shares) >= LEVEL
    assert found.bias is None or found.bias < 3.5
    if cell.draws >= 300 and cell.wrong > 0.05:
        assert found.error_corrected < found.error_called


def test_bounds_are_clopper_and_pearsons_but_for_the_last_draw() -> None:
    for draws, found in ((60, 0), (60, 7), (300, 12), (20, 18)):
        exact = binomtest(found, draws, alternative="less").proportion_ci(0.95, method="exact")
        assert upper_bound(found, draws, tail=0.05) == pytest.approx(exact.high)
        assert lower_bound(draws - found, draws, tail=0.05) == pytest.approx(1 - exact.high)
    assert (upper_bound(0, 0, tail=0.05), upper_bound(19, 20, tail=0.05), lower_bound(1, 20, tail=0.05)) == (
        1,
        1,
        0,
    )


@pytest.mark.parametrize("tail", [0.0125, 0.05, 0.25])
def test_bounds_hold_exactly_for_draws_with_other_probabilities(tail: float) -> None:
    rng = np.random.default_rng(4)
    for _ in range(300):
        draws = int(rng.integers(2, 25))
        a, b = rng.uniform(0.02, 3, 2)
        chances = rng.beta(a, b, draws)
        chances[: int(rng.integers(draws))] = rng.integers(2)
        exceeded = [
            chances.mean() > upper_bound(found, draws, tail=tail) + 1e-9 for found in range(draws + 1)
        ]
        below = [chances.mean() < lower_bound(found, draws, tail=tail) - 1e-9 for found in range(draws + 1)]
        mass = distribution(chances)
        assert mass[exceeded].sum() <= tail + 1e-9
        assert mass[below].sum() <= tail + 1e-9


def distribution(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of each number of successes."""
    mass = np.ones(1)
    for chance in chances.tolist():
        mass = np.convolve(mass, [1 - chance, chance])
    return mass


def test_draws_needed_are_the_fewest_that_show_the_bound() -> None:
    assert draws_needed(0.0, 0.05, tail=0.05) == 59  # 0.95 ** 59 < 0.05, the rule of three
    number = draws_needed(0.02, 0.05, tail=0.05)
    assert number is not None
    assert upper_bound(int(np.ceil(0.02 * number)), number, tail=0.05) <= 0.05
    assert draws_needed(0.05, 0.05, tail=0.05) is None
    assert draws_needed(0.0499999, 0.05, tail=0.05) is None


def test_draws_are_divided_by_size_with_a_least_number_and_rare_taxa_pooled() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = np.ceil(rng.lognormal(3, 2.5, int(rng.integers(1, 60)))).astype(int)
        objects = {f"taxon {number}": int(size) for number, size in enumerate(sizes)}
        count = int(rng.integers(2, 400))
        strata = allocate_draws(objects, count, per_taxon=8)
        assert sum(stratum.draws for stratum in strata) == min(count, sum(objects.values()))
        assert sorted(taxon for stratum in strata for taxon in stratum.taxa) == sorted(objects)
        assert all(1 <= stratum.draws <= stratum.objects for stratum in strata)
        if count >= 16 * len(objects):
            assert all(stratum.draws >= min(8, stratum.objects) for stratum in strata)
        assert (
            sum(
                stratum.objects / stratum.draws * marks.sum()
                for stratum, marks in zip(strata, draw_marks(strata, rng), strict=True)
            )
            > 0
        )


def test_each_object_is_drawn_and_marked_as_often_as_any_other() -> None:
    rng = np.random.default_rng(1)
    strata = allocate_draws({"common": 40, "rare": 7}, 14, per_taxon=5)
    drawn, marked = np.zeros(47), np.zeros(47)
    for _ in range(20_000):
        first = 0
        for stratum, marks in zip(strata, draw_marks(strata, rng), strict=True):
            at = first + draw_positions(stratum.objects, stratum.draws, rng)
            np.add.at(drawn, at, 1 / stratum.draws * stratum.objects)
            np.add.at(marked, at[marks], 1)
            first += stratum.objects
    assert drawn / 20_000 == pytest.approx(np.ones(47), abs=0.12)
    assert marked / marked.mean() == pytest.approx(np.ones(47), abs=0.12)
