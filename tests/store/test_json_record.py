"""Records that are stored as JSON: what they have in common."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from fossilray.core.errors import DamagedFile
from fossilray.core.formats import FileRole
from fossilray.store.derived.derived_store import DerivedRecord
from fossilray.store.run.json_record import JsonRecord

ROLE = FileRole("record.json", "a record", "bring it back")


@dataclass(frozen=True)
class Record(JsonRecord):
    name: str
    classes: tuple[str, ...]
    settings: dict[str, float]
    created_at: str = ""


ONE = Record("Ålnus", ("a", "b"), {"tile_px": 1024.0}, "2030-01-01T00:00:00+00:00")


def test_a_record_comes_back_from_its_json() -> None:
    assert Record.parse(ONE.to_json(), ROLE) == ONE
    assert json.loads(ONE.to_json())["name"] == "Ålnus"
    with pytest.raises(DamagedFile, match=r"record\.json"):
        Record.parse(ONE.to_json()[:-10], ROLE)


def test_the_time_of_a_record_is_not_part_of_its_identity() -> None:
    later = replace(ONE, created_at="2031-01-01T00:00:00+00:00")
    assert later.digest == ONE.digest
    assert ONE.differences(later) == []
    assert replace(ONE, name="x").digest != ONE.digest


def test_differences_name_nested_fields_with_both_values() -> None:
    other = replace(ONE, settings={"tile_px": 512.0, "halo_px": 64.0})
    assert ONE.differences(other) == [
        "settings.halo_px: recorded nothing, now requested 64.0",
        "settings.tile_px: recorded 1024.0, now requested 512.0",
    ]


def test_long_values_are_cut_in_the_message_and_compared_whole() -> None:
    many = replace(ONE, classes=("x" * 50,) * 30)
    (difference,) = many.differences(replace(many, classes=(*many.classes[:-1], "y")))
    assert len(difference) < 700


def test_digests_are_those_of_earlier_versions() -> None:
    record = DerivedRecord("embeddings", "ab" * 32, {"name": "net", "sha256": "cd" * 32, "dimension": 4})
    assert record.digest == DIGEST


DIGEST = "e3c9a2d196884ba6620d7e6b19b7aafa1c9ddc01a452640be950f620d3c9d857"
