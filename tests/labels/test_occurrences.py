"""What a label says beyond a name: names as palynologists write them, columns, export and import without loss."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.cli_runner import run_command
from support.small_run import WELL, commit_slide, start_run

from fossilray.core.errors import UsageError
from fossilray.labels.agreement import Naming, agree, class_of
from fossilray.labels.exporting import EXPORT_SUFFIXES, export_labels
from fossilray.labels.importing import import_label_round
from fossilray.labels.label import Label, Scan
from fossilray.labels.label_set import LabelSet
from fossilray.labels.occurrence import (
    KINDS_WITHOUT_TAXON,
    OBJECT_KINDS,
    QUALIFIERS,
    SITUATIONS,
    SPECIMEN_ROLES,
    Occurrence,
    clean_text,
    parse_taxon_name,
)
from fossilray.labels.occurrence_cells import occurrence_of_cell
from fossilray.labels.taxonomy import RANKS, read_taxonomy
from fossilray.store import RunStore

ORIGIN = {"source": "s", "source_sha256": "0" * 64, "run": "run", "run_digest": "0" * 64}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = start_run(tmp_path_factory.mktemp("occurrences") / "run")
    for seed, slide_id in enumerate(("a-2030", "b-2050")):
        facts = {"scan_id": f"{slide_id} 20000x16000"}
        commit_slide(store, slide_id, count=12, well=WELL, depth_m=2030.0, seed=seed, **facts)
    return store


@pytest.mark.parametrize(
    ("written", "taxon", "qualifier", "certain"),
    [
        ("Azolla", "Azolla", None, "Azolla"),
        ("cf. Spiniferites ramosus", "Spiniferites ramosus", "cf.", ""),
        ("Spiniferites cf. ramosus", "Spiniferites ramosus", "cf.", "Spiniferites"),
        ("Spiniferites aff ramosus", "Spiniferites ramosus", "aff.", "Spiniferites"),
        ("Deflandrea sp. A", "Deflandrea sp. A", "sp.", "Deflandrea sp. A"),
        ("Deflandrea sp. A?", "Deflandrea sp. A", "?", "Deflandrea"),
        ("Deflandrea spp.", "Deflandrea", "sp.", "Deflandrea"),
        ("?Azolla", "Azolla", "?", ""),
        ("Azolla ?", "Azolla", "?", ""),
        ("Spiniferites? ramosus", "Spiniferites ramosus", "?", ""),
        ("Spiniferites ?ramosus", "Spiniferites ramosus", "?", "Spiniferites"),
        ("Spiniferites ramosus?", "Spiniferites ramosus", "?", "Spiniferites"),
        ("Spiniferites indet.", "Spiniferites", "indet.", "Spiniferites"),
        ("Gen. et sp. indet.", "", "indet.", ""),
        ("Spiniferites sp. cf. S. ramosus", "Spiniferites ramosus", "cf.", "Spiniferites"),
        (
            "Spiniferites ramosus (Ehrenberg 1838) Mantell 1854",
            "Spiniferites ramosus",
            None,
            "Spiniferites ramosus",
        ),
        ("Azolla\N{NO-BREAK SPACE}cretacea", "Azolla cretacea", None, "Azolla cretacea"),
    ],
)
def test_names_are_split_into_taxon_and_qualifier(
    written: str, taxon: str, qualifier: str | None, certain: str
) -> None:
    parsed = parse_taxon_name(written)
    assert (parsed.taxon, parsed.qualifier, parsed.definite_taxon) == (taxon, qualifier, certain)


def test_a_cell_may_state_a_kind_and_the_name_is_kept_as_written() -> None:
    assert occurrence_of_cell("AOM") == Occurrence("", "", kind="amorphous matter")
    assert occurrence_of_cell("No object") == Occurrence("", "", kind="no object")
    assert occurrence_of_cell(" cf.  Azolla ") == Occurrence("cf.  Azolla", "Azolla", "cf.")
    assert occurrence_of_cell("unlabeled") is None


def test_two_annotators_who_differ_in_the_qualifier_agree_on_the_genus() -> None:
    sure, unsure = (occurrence_of_cell(text) for text in ("Spiniferites ramosus", "Spiniferites cf. ramosus"))
    other = occurrence_of_cell("Spiniferites membranaceus")
    assert sure is not None
    assert unsure is not None
    assert other is not None
    assert agree([sure, unsure], Naming(rank="genus")).name == "Spiniferites"
    assert agree([sure, unsure], Naming(rank="species")).reason == "uncertain"
    assert agree([sure, unsure], Naming(rank="species", uncertain="train")).name == "Spiniferites ramosus"
    assert agree([sure, other], Naming(rank="genus")).name == "Spiniferites"
    assert agree([sure, other], Naming()).is_conflict
    genus = Occurrence("Spiniferites", "Spiniferites")
    assert agree([sure, genus], Naming()).name == "Spiniferites"
    assert agree([sure, genus], Naming(rank="species")).reason == "coarser than species"
    assert agree([sure, Occurrence("", "", kind="wood")], Naming()).is_conflict
    assert class_of(Occurrence("", "", kind="wood"), Naming(rank="genus")).name == "wood"
    assert class_of(Occurrence("", "", kind="wood"), Naming(not_fossils="leave-out")).name is None


def test_a_label_of_a_family_is_coarser_than_a_genus_and_agrees_with_genera_of_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "genus,family,group,synonyms\nAlnus,Betulaceae,Pollen,Alnipollenites\nBetula,Betulaceae,Pollen,\n"
    )
    taxonomy = read_taxonomy(tmp_path / "t.csv")
    family, alnus, betula = (Occurrence(name, name) for name in ("Betulaceae", "Alnipollenites", "Betula"))
    assert class_of(alnus, Naming("genus", taxonomy)).name == "Alnus"
    assert class_of(family, Naming("genus", taxonomy)).reason == "coarser than genus"
    assert agree([alnus, betula], Naming("family", taxonomy)).name == "Betulaceae"
    assert agree([alnus, betula], Naming("genus", taxonomy)).is_conflict
    assert not agree([alnus, family], Naming("genus", taxonomy)).is_conflict
    assert class_of(alnus, Naming("group", taxonomy)).name == "Pollen"


TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs",)) | st.sampled_from("=+-@'\"?,;.\n\t "),
    max_size=20,
).map(clean_text)
NAMES = TEXT | st.sampled_from(
    ["cf. Azolla", "Deflandrea sp. A", "?Azolla", "=1+1", "'=x", "007", "1e5", "TRUE"]
)


@st.composite
def occurrences(draw: st.DrawFn) -> Occurrence:
    of_cell = occurrence_of_cell(draw(NAMES)) or Occurrence("Azolla", "Azolla")
    kind = of_cell.kind if of_cell.kind != "fossil" else draw(st.sampled_from(OBJECT_KINDS))
    if kind in KINDS_WITHOUT_TAXON and of_cell.taxon:
        kind = "fossil"
    return Occurrence(
        of_cell.written,
        of_cell.taxon,
        of_cell.qualifier or draw(st.sampled_from([None, *QUALIFIERS])),
        rank=draw(st.sampled_from([None, *RANKS])) if of_cell.taxon else None,
        kind=kind,
        situation=draw(st.sampled_from([None, *SITUATIONS])),
        specimen=draw(st.sampled_from([None, *SPECIMEN_ROLES])),
        is_unsure=draw(st.booleans()),
        remark=draw(TEXT),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    said=st.lists(
        st.tuples(occurrences(), st.sampled_from(["Ada", "=Grace", "Søren"])), min_size=1, max_size=6
    ),
    suffix=st.sampled_from(EXPORT_SUFFIXES),
    number=st.integers(0, 10**9),
)
def test_export_and_import_into_a_new_set_give_the_same_labels(
    run: RunStore,
    tmp_path_factory: pytest.TempPathFactory,
    said: list[tuple[Occurrence, str]],
    suffix: str,
    number: int,
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    footer = run.footer("a-2030")
    assert footer is not None
    scan = Scan("a-2030 20000x16000", 20000, 16000, 3000, 5000, 12000, 8000)
    labels = []
    for row, (occurrence, who) in enumerate(said):
        box = (3000 + 400 * row, 5000, 3100 + 400 * row, 5100)
        is_missed = bool(row % 2) and occurrence.kind != "no object"
        attempt = "an earlier attempt"
        at = "2026-03-01T14:05:00" if number % 2 else ""
        labels.append(Label("a-2030", None if is_missed else row, attempt, box, who, occurrence, scan, at))
    first = LabelSet.open_or_create(folder / "first")
    first.add(labels, **ORIGIN)  # type: ignore[arg-type]
    assert export_labels(first.labels(), folder / f"out{suffix}") == len(labels)
    import_label_round(folder / f"out{suffix}", run, folder / "second", who="nobody named")
    before, after = first.labels().by_object, LabelSet.open(folder / "second").labels().by_object

    def without_run(labels: dict[object, tuple[Label, ...]]) -> dict[object, list[Label]]:
        return {
            key: [Label(**{**vars(one), "run_digest": ""}) for one in given] for key, given in labels.items()
        }

    assert without_run(dict(after)) == without_run(dict(before))


FULL = (
    "slide_id,object_id,taxon,qualifier,kind,situation,specimen,unsure,remark,who,at,x_min,y_min,x_max,y_max\n"
    "a-2030,1,Azolla,cf.,,reworked,index,yes,cf. plate 3,Ada,2026-03-01,,,,\n"
    "a-2030,2,,,no object,,,,,Ada,,,,,\n"
    "a-2030,,Azolla,,,,,,,Ada,,4000,6000,4100,6100\n"
    "a-2030,3,wood,,,,,,,Ada,,,,,\n"
    "a-2030,4,,,,,,,,,,,,,\n"
)


def test_a_table_brings_every_field_and_missed_objects(run: RunStore, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(FULL)
    output = run_command(
        "labels", "import", tmp_path / "t.csv", "--run", run.url, "--to", tmp_path / "labels"
    )
    assert "round 1: 4 labels" in output
    assert "1 have no label yet" in output
    assert "1 are of objects that the detector missed" in output
    given = {
        label.object_id: label for label in LabelSet.open(tmp_path / "labels").labels().consensus.values()
    }
    first = given[1]
    assert first.occurrence == Occurrence(
        "Azolla",
        "Azolla",
        "cf.",
        situation="reworked",
        specimen="index",
        is_unsure=True,
        remark="cf. plate 3",
    )
    assert first.at == "2026-03-01"
    assert first.scan.scan_id == "a-2030 20000x16000"
    assert given[2].occurrence.kind == "no object"
    assert given[3].occurrence.kind == "wood"
    assert given[None].box == (4000, 6000, 4100, 6100)
    shown = run_command("labels", "show", tmp_path / "labels")
    assert "index: 1, missed by the detector: 1, reworked: 1, unsure: 1" in shown
    state = run_command("labels", "status", tmp_path / "labels", "--run", run.url)
    assert "3 objects of" in state
    assert "1 have no partner in the run: the detector missed it in this run, too" in state


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "a-2030,1,Azolla,ca.,,,,,,,,,,,",
            r"line 2: qualifier is 'ca.', expected cf., aff., \?, sp., indet.",
        ),
        (
            "a-2030,1,Azolla,,,moved,,,,,,,,,",
            "line 2: situation is 'moved', expected in place, reworked, caved",
        ),
        ("a-2030,1,Azolla,,tree,,,,,,,,,,", "line 2: kind is 'tree', expected fossil, wood"),
        ("a-2030,1,Azolla,,,,holotype,,,,,,,,", "line 2: specimen is 'holotype', expected marker, index"),
        ("a-2030,1,Azolla,,,,,perhaps,,,,,,,", "line 2: unsure is 'perhaps', expected yes or no"),
        ("a-2030,1,Azolla,,,,,,,,1 March,,,,", "line 2: at is '1 March', expected a date or time such as"),
        (
            "a-2030,1,?Azolla,cf.,,,,,,,,,,,",
            "qualifier is 'cf.', and taxon is '.Azolla', which has '.'; keep one",
        ),
        ("a-2030,1,Azolla,,mineral,,,,,,,,,,", "kind is 'mineral', and taxon names 'Azolla'; keep one"),
        ("a-2030,1,wood,,dirt,,,,,,,,,,", "kind is 'dirt', and taxon is 'wood'; keep one"),
        (
            "a-2030,,Azolla,,,,,,,,,,,,",
            "line 2: it names no object; fill in object_id or, for an object that",
        ),
        ("a-2030,,Azolla,,,,,,,,,1,2,3,", "line 2: its box lacks y_max"),
        ("a-2030,,Azolla,,,,,,,,,5,5,5,9", "line 2: its box .* has no area"),
        (
            "a-2030,,Azolla,,,,,,,,,1,1,99999,9",
            "line 2: the box .* is outside the slide a-2030 of 20000 x 16000",
        ),
        (
            "a-2030,,,,no object,,,,,,,1,1,9,9",
            "line 2: kind is 'no object', which strikes out the box of an object",
        ),
        ("a-2030,1,Azolla,,,,,,,,,1,1,9,9", "line 2: the box of a-2030 #1 is .* here and .* in the run"),
        ("a-2030,99,Azolla,,,,,,,,,,,,", r"1 objects that .* does not hold: a-2030 #99 \(line 2\)"),
        ("z-1,,Azolla,,,,,,,,,1,1,9,9", r"all objects of 1 slide that it lacks: z-1 missed at .* \(line 2\)"),
    ],
)
def test_what_a_row_states_wrongly_is_named(run: RunStore, tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(FULL.splitlines()[0] + f"\n{row}\n")
    with pytest.raises(UsageError, match=message):
        import_label_round(tmp_path / "t.csv", run, tmp_path / "labels", who="Ada")
    assert not (tmp_path / "labels").exists()


def test_rows_that_contradict_each_other_are_named_with_the_field(run: RunStore, tmp_path: Path) -> None:
    rows = "a-2030,1,Azolla,,,reworked,,,,,,,,,\na-2030,1,Azolla,,,in place,,,,,,,,,\n"
    (tmp_path / "t.csv").write_text(FULL.splitlines()[0] + f"\n{rows}")
    with pytest.raises(UsageError, match=r"situation reworked \(line 2\) and situation in place \(line 3\)"):
        import_label_round(tmp_path / "t.csv", run, tmp_path / "labels", who="Ada")


def test_annotators_who_differ_in_the_situation_are_listed_and_the_name_is_used(
    run: RunStore, tmp_path: Path
) -> None:
    for who, situation in (("Ada", "reworked"), ("Grace", "in place")):
        (tmp_path / "t.csv").write_text(
            FULL.splitlines()[0] + f"\na-2030,1,Azolla,,,{situation},,,,{who},,,,,\n"
        )
        output = run_command(
            "labels", "import", tmp_path / "t.csv", "--run", run.url, "--to", tmp_path / "labels"
        )
    assert "a-2030 #1: reworked (Ada), in place (Grace)" in output
    assert not LabelSet.open(tmp_path / "labels").labels().conflicts


def test_two_boxes_of_one_missed_object_are_one_label(run: RunStore, tmp_path: Path) -> None:
    for who, shift in (("Ada", 0), ("Grace", 10)):
        box = f"{4000 + shift},6000,{4100 + shift},6100"
        (tmp_path / "t.csv").write_text(FULL.splitlines()[0] + f"\na-2030,,Azolla,,,,,,,{who},,{box}\n")
        import_label_round(tmp_path / "t.csv", run, tmp_path / "labels", who="Ada")
    (labels,) = LabelSet.open(tmp_path / "labels").labels().by_object.values()
    assert [label.who for label in labels] == ["Ada", "Grace"]
