"""Intervals, units and types of samples in catalogs: read from names and tables, written again, refused by cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.slides_on_disk import write_slide

from fossilray.core.errors import CatalogError
from fossilray.core.records import CatalogRow
from fossilray.slides.catalog import find_slides, write_catalog
from fossilray.slides.catalog.table import read_catalog_file
from fossilray.store import RunStore
from fossilray.store.samples.importing import import_round

FIELDS = (
    "well",
    "measured_depth_m",
    "top_depth_m",
    "base_depth_m",
    "depth_unit",
    "sample_type",
    "preparation",
)


def fields(row: CatalogRow) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in FIELDS)


@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".ods", ".parquet"])
def test_an_interval_in_a_name_is_in_the_catalog_and_is_read_from_it(tmp_path: Path, suffix: str) -> None:
    write_slide(tmp_path / "6407_6-5 2030-2040 mDC.mrxs", size=512, objects=1)
    found = find_slides(str(tmp_path))
    expected = ("6407/6-5", 2035.0, 2030.0, 2040.0, "m", "ditch cuttings", None)
    assert [fields(row) for row in found.rows] == [expected]
    write_catalog(found, tmp_path / f"catalog{suffix}")
    assert [fields(row) for row in find_slides(str(tmp_path / f"catalog{suffix}")).rows] == [expected]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ("2030,,,,,", (2030.0, None, None, None, None, None)),
        (",2030,2040,ft,SWC,kerogen", (2035.0, 2030.0, 2040.0, "ft", "side-wall core", "kerogen")),
        ("2031,2030,2040,feet,composite,", (2031.0, 2030.0, 2040.0, "ft", "composite", None)),
        (",,,,Ditch Cuttings,", (None, None, None, None, "ditch cuttings", None)),
    ],
)
def test_a_catalog_may_state_a_depth_or_an_interval(
    tmp_path: Path, cells: str, expected: tuple[object, ...]
) -> None:
    row = read_catalog_file(write_table(tmp_path, cells)).rows[0]
    assert fields(row)[1:] == expected


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (",2040,2030,,,", "line 2: the interval 2040 to 2030 m is upside down"),
        (",2040,,,,", "line 2: top_depth_m is 2040 and base_depth_m is empty"),
        ("2050,2030,2040,,,", "line 2: measured_depth_m is 2050, outside the interval 2030 to 2040 m"),
        (",2030,2040,fathoms,,", "line 2: depth_unit is 'fathoms'; write m or ft"),
        (",20300,20400,,,", "top_depth_m is '20300', not between"),
    ],
)
def test_an_interval_that_contradicts_itself_is_refused(tmp_path: Path, cells: str, message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        read_catalog_file(write_table(tmp_path, cells))


def test_a_run_from_before_intervals_gets_them_from_a_new_catalog(tmp_path: Path) -> None:
    write_slide(tmp_path / "slides" / "6407_6-5 2030-2040 mDC.mrxs", size=512, objects=1)
    found = find_slides(str(tmp_path / "slides"))
    store = RunStore.open(str(tmp_path / "run"))
    unread = dict.fromkeys(FIELDS[1:])
    store.freeze_catalog([replace(found.rows[0], **unread)])
    write_catalog(found, tmp_path / "names.csv")
    report = import_round(tmp_path / "names.csv", store.read_catalog(), store.sample_rounds, who="Ada")
    assert {change.column: change.now for change in report.changes} == {
        "top_depth_m": 2030.0,
        "base_depth_m": 2040.0,
        "depth_unit": "m",
        "sample_type": "ditch cuttings",
    }
    assert report.notes == ()
    store.freeze_catalog(find_slides(str(tmp_path / "names.csv")).rows)


def write_table(folder: Path, cells: str) -> Path:
    path = folder / "catalog.csv"
    path.write_text(
        "slide_id,path,measured_depth_m,top_depth_m,base_depth_m,depth_unit,sample_type,preparation\n"
        f"a,a.mrxs,{cells}\n"
    )
    return path
