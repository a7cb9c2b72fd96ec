"""Taxonomies: lineages by columns or parents, and files that contradict themselves, refused with line or cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from fossilray.core.errors import UsageError
from fossilray.core.formats.xlsx import write_xlsx
from fossilray.labels.taxonomy import lineage_of, read_taxonomy

COLUMNS = "species,genus,family,group,synonyms"
PARENTS = "taxon,rank,parent,synonyms"


def test_columns_and_parents_give_the_same_lineages(tmp_path: Path) -> None:
    (tmp_path / "columns.csv").write_text(
        f"{COLUMNS}\nAlnus glutinosa,Alnus,Betulaceae,Pollen,A. g.\n,Betula,Betulaceae,Pollen,Betulites\n"
    )
    (tmp_path / "parents.csv").write_text(
        f"{PARENTS}\nAlnus glutinosa,species,Alnus,A. g.\nAlnus,genus,Betulaceae,\nBetula,genus,Betulaceae,Betulites\n"
        "Betulaceae,family,Pollen,\nPollen,group,,\n"
    )
    for name in ("columns.csv", "parents.csv"):
        taxonomy = read_taxonomy(tmp_path / name)
        coarser = {"family": "Betulaceae", "group": "Pollen"}
        assert lineage_of("A. g.", taxonomy) == {"species": "Alnus glutinosa", "genus": "Alnus", **coarser}
        assert lineage_of("betulites", taxonomy) == {"genus": "Betula", **coarser}
        assert lineage_of("Betulaceae", taxonomy) == coarser
        assert lineage_of("Alnus incana", taxonomy) == {
            "species": "Alnus incana",
            "genus": "Alnus",
            **coarser,
        }
    assert lineage_of("Alnus incana", None) == {"species": "Alnus incana", "genus": "Alnus"}
    assert lineage_of("Pollen", None, rank="group") == {"group": "Pollen"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{COLUMNS}\n,A,B,,\n,B,A,,\n", "line [23]: its names form a circle: (A -> B -> A|B -> A -> B)"),
        (f"{COLUMNS}\n,A,,,B\n,B,,,A\n", "line [23]: its names form a circle"),
        (f"{COLUMNS}\n,A,,,x\n,B,,,x\n", "line 3: it gives 'x' to A and to B"),
        (f"{COLUMNS}\n,A,F,,\n,F,,,\n", "line 3: F is a genus here and a family in another row"),
        (f"{COLUMNS}\n,A,F,one,\n,B,F,two,\n", "line 3: it puts the family F into 'one' and into 'two'"),
        (
            f"{PARENTS}\nA,genus,B,\nB,family,C,\nC,group,A,\n",
            "line 2: its parents form a circle: A -> B -> C -> A",
        ),
        (
            f"{PARENTS}\nA,genus,B,\nB,species,,\n",
            "line 2: A is a genus, and its parent B is a species; the order",
        ),
        (f"{PARENTS}\nA,tribe,,\n", "line 2: its rank is 'tribe', expected species, genus, family, group"),
        (f"{PARENTS}\nA,genus,Z,\n", "line 2: its parent Z has no row"),
        (f"{PARENTS}\nA,genus,,\nA,genus,,\n", "line 3: A is there twice"),
    ],
)
def test_a_taxonomy_that_contradicts_itself_is_refused_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_taxonomy(tmp_path / "t.csv")


def test_of_a_workbook_the_cell_is_named(tmp_path: Path) -> None:
    rows = [COLUMNS.split(","), ["", "A", "F", "one", ""], ["", "B", "F", "two", ""]]
    (tmp_path / "t.xlsx").write_bytes(write_xlsx("taxa", rows))
    with pytest.raises(UsageError, match="cell D3 of sheet 'taxa': it puts the family F"):
        read_taxonomy(tmp_path / "t.xlsx")


def test_a_name_may_stand_for_its_genus_and_its_group_in_one_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"{COLUMNS}\n,Wood,,Wood,\n,Tracheid,,Wood,\n")
    assert lineage_of("Wood", read_taxonomy(tmp_path / "t.csv")) == {"genus": "Wood", "group": "Wood"}
